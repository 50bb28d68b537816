"""The store on disk: a file of state a shard and step, and beside them what a crash may take.

A state file is never changed. An update writes a new one as NAME.part, has it on the disk, renames it and only then
removes the old one; the gradient that it is made from stays where it is until all shards are updated. So at any moment
each shard is either as it was after a step or as it is after the next, and whoever knows the gradient's norm and the
step's rate can bring those behind up to the others: see `isoflop.train.streamed`. A step costs the space of one state
and one gradient, not of two states.
"""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from isoflop.durable import part_of, sync_folder
from isoflop.errors import ChangedError
from isoflop.model import Piece, Shard
from isoflop.streaming.checksum import as_bytes, checksum
from isoflop.streaming.host import HostStore
from isoflop.streaming.pages import BLOCK, DamagedError, DirectFile, blocks, pages
from isoflop.streaming.shard_file import (
    TENSORS,
    Layout,
    file_bytes,
    header,
    new_layout,
    read_layout,
)
from isoflop.streaming.store import (
    Counter,
    State,
    Store,
    Vectors,
    Window,
    Work,
    largest_window,
    matrix_part,
    windows_of,
)

# A resident run's header is shorter.
_HEADER_BYTES = 16 * BLOCK


class DiskStore(Store):
    """The files of `shards` in `folder`. Memory: buffers of one window for each thread that calls, and the vectors.

    With `embeddings_stay` a store in memory has the embeddings' shards, and all is asked of it; of them only what must
    survive comes to the disk, and nothing is read there.
    """

    def __init__(
        self,
        folder: Path,
        pieces: Sequence[Piece],
        shards: Sequence[Shard],
        image_dtype: torch.dtype,
        sums_dtype: torch.dtype,
        moved: Counter,
        several_groups: bool,
        device: torch.device | None = None,
        embeddings_stay: bool = False,
    ) -> None:
        self.vectors = Vectors(pieces, device)
        self._folder, self._image_dtype, self._sums_dtype = folder, image_dtype, sums_dtype
        self._shards = shards
        self._staying = {shard.index for shard in shards if embeddings_stay and shard.piece == pieces[0]}
        staying = [shard for shard in shards if shard.index in self._staying]
        self._memory = HostStore(pieces[:1], staying, image_dtype, sums_dtype, moved)
        self._windows = {shard.index: windows_of(shard) for shard in shards}
        self._window_elements = largest_window(shards)
        self._steps: dict[int, int] = {}
        self._layouts: dict[int, Layout] = {}
        # By shard and window: this process wrote them, and nothing but a fault of the disk can change them.
        self._image_checksums: dict[tuple[int, int], int] = {}
        self._gradient_checksums: dict[tuple[int, int], int] = {}
        self._sums_checksums: dict[tuple[int, int], int] = {}
        self._sealed: dict[int, list[int]] = {}
        self._rewritings: dict[int, _Rewriting] = {}
        self._moved, self._lock, self._threads = moved, threading.Lock(), threading.local()
        folder.mkdir(parents=True, exist_ok=True)
        for shard in shards:
            stays = shard.index in self._staying
            if not stays:
                with DirectFile(self._path(shard, "image"), "scratch") as file:
                    file.reserve(matrix_part(shard) * image_dtype.itemsize)
            # Sums wait for those of the next group, the embeddings' for their rows' in any case.
            waits = not stays and (several_groups or shard.piece.name == "embedding")
            with DirectFile(self._path(shard, "sums"), "scratch") as file:
                file.reserve(self._sums_start(shard) + (shard.stop - shard.start) * sums_dtype.itemsize * waits)

    def state_path(self, shard: Shard) -> Path:
        """The file of the shard's newest state."""
        return self._state_path(shard, self._steps[shard.index])

    def step(self, shard: Shard) -> int:
        """The step after which the shard's newest state was such."""
        return self._steps[shard.index]

    def create(self, shard: Shard, weights: Tensor) -> None:
        """As `Store` says."""
        rewriting = _Rewriting(self._state_path(shard, 0), shard)
        for window in self._windows[shard.index]:
            state = [self._buffer(name, window, torch.float32) for name in TENSORS]
            state[0].copy_(weights[window.of(shard)])
            state[1].zero_()
            state[2].zero_()
            rewriting.write(window, state)
        rewriting.commit(0)
        self._steps[shard.index] = 0
        self.make_image(shard)

    def adopt(self, shard: Shard, path: Path, step: int) -> None:
        """Takes over the state file at `path` as that after `step`; it stays where it is as well.

        Raises:
            DamagedError: it is another one.
        """
        self._steps[shard.index] = step
        with DirectFile(path, "read") as file:
            layout = self._layout_of(shard, file)
            if layout.checksums is None:  # a file that a resident run wrote: what is here must show its damage itself
                rewriting = _Rewriting(self._state_path(shard, step), shard)
                for window in self._windows[shard.index]:
                    rewriting.write(window, self._read(file, layout, shard, window, TENSORS))
                rewriting.commit(step)
            else:
                os.link(path, self._state_path(shard, step))
        self.make_image(shard)

    def find(self, shard: Shard, step: int) -> None:
        """Looks which state of the shard is here: that after `step` or, if the update did not come to it, one before.

        Raises:
            DamagedError: neither is.
        """
        for found in (step, step - 1):
            if self._state_path(shard, found).exists():
                self._steps[shard.index] = found
                return
        raise DamagedError(self._state_path(shard, step), "neither this file nor that of the step before is there")

    def verify(self, shard: Shard) -> None:
        """Reads the newest state.

        Raises:
            DamagedError: it is not what was written.
        """
        for window in self._windows[shard.index]:
            self._state(shard, window, TENSORS)

    def make_image(self, shard: Shard) -> None:
        """Image and vectors of the newest state; of embeddings that stay all of it."""
        if shard.index in self._staying:
            state = self._memory.state(shard)
            for window in self._windows[shard.index]:
                for own, read in zip(state, self._state(shard, window, TENSORS), strict=True):
                    own[window.of(shard)] = read
            self._memory.restore(shard, state)
            return
        for window in self._windows[shard.index]:
            (weights,) = self._state(shard, window, TENSORS[:1])
            self._put_image(shard, window, self._buffer("image", window, self._image_dtype).copy_(weights))
            self.vectors.take(shard, window, weights)

    def image(self, shard: Shard, into: Tensor) -> None:
        """As `Store` says."""
        if shard.index in self._staying:
            self._memory.image(shard, into)
            return
        if not into.numel():
            return
        with DirectFile(self._path(shard, "image"), "read") as file:
            file.read(0, into.numel() * into.itemsize, _room(into))
            for window in self._windows[shard.index]:
                part = into[window.of(shard)]
                if part.numel() and checksum(part) != self._image_checksums[shard.index, window.start]:
                    raise DamagedError(file.path, "its checksum does not hold")
        self._moved.add(into)

    def weights(self, shard: Shard, window: Window) -> Tensor:
        """As `Store` says."""
        if shard.index in self._staying:
            return self._memory.weights(shard, window)
        (weights,) = self._state(shard, window, TENSORS[:1])
        self._moved.add(weights)
        return weights

    def sums(self, shard: Shard, window: Window) -> Tensor:
        """As `Store` says."""
        sums = self._buffer("sums", window, self._sums_dtype)
        with DirectFile(self._path(shard, "sums"), "read") as file:
            start = self._sums_start(shard) + sums.itemsize * window.of(shard).start
            file.read(start, sums.numel() * sums.itemsize, _room(sums))
            if checksum(sums) != self._sums_checksums[shard.index, window.start]:
                raise DamagedError(file.path, "the checksum of sums of gradients does not hold")
        self._moved.add(sums)
        return sums

    def put_sums(self, shard: Shard, window: Window, sums: Tensor) -> None:
        """As `Store` says."""
        self._sums_checksums[shard.index, window.start] = checksum(sums)
        with DirectFile(self._path(shard, "sums"), "scratch") as file:
            file.write(self._sums_start(shard) + sums.itemsize * window.of(shard).start, sums)
        self._moved.add(sums)

    def put_gradient(self, shard: Shard, window: Window, sums: Tensor, unit: float) -> None:
        """As `Store` says."""
        if shard.index in self._staying:
            self._memory.put_gradient(shard, window, sums, unit)
            gradient = self._memory.gradient(shard, window)
        else:
            gradient = self._buffer("gradient", window, torch.float32).copy_(sums).mul_(unit)
            self._moved.add(gradient)
        self._gradient_checksums[shard.index, window.start] = checksum(gradient)
        with DirectFile(self._path(shard, "sums"), "scratch") as file:
            file.write(BLOCK + 4 * window.of(shard).start, gradient)

    def seal(self, shard: Shard, step: int) -> None:
        """As `Store` says."""
        checksums = [self._gradient_checksums[shard.index, window.start] for window in self._windows[shard.index]]
        self._sealed[shard.index] = checksums
        with DirectFile(self._path(shard, "sums"), "scratch") as file:
            file.write(0, _block(json.dumps({"shard": shard.name, "step": step, "crc32": checksums}).encode()))
            file.finish()

    def update(self, shard: Shard, window: Window, step: int, work: Work) -> None:
        """As `Store` says. The gradient is that which was sealed for `step`.

        Raises:
            DamagedError: the state or the gradient is not what was written; the old state stays.
            WorkError: the disk is full; the old state stays.
            ChangedError: what stays in memory has changed since the last one.
        """
        if shard.index in self._staying:
            if checksum(self._memory.gradient(shard, window)) != self._gradient_checksums[shard.index, window.start]:
                raise ChangedError(f"the gradient of {shard.name}")
            self._memory.update(shard, window, step, work)
            return
        with self._lock:
            if shard.index not in self._rewritings:
                self._rewritings[shard.index] = _Rewriting(self._state_path(shard, step), shard)
            rewriting = self._rewritings[shard.index]
        weights, first, second = state = self._state(shard, window, TENSORS)
        image = self._buffer("image", window, self._image_dtype)
        work(window, State(self._gradient(shard, window, step), weights, first, second, image))
        rewriting.write(window, state)
        self._put_image(shard, window, image)
        self.vectors.take(shard, window, weights)

    def commit(self, shard: Shard, step: int) -> None:
        """As `Store` says. Of embeddings that stay all is written only now: nobody waits for it.

        Raises:
            ChangedError: what stays in memory has changed since the update; the old state stays on the disk.
        """
        if shard.index in self._staying:
            self._rewritings[shard.index] = _Rewriting(self._state_path(shard, step), shard)
            for window in self._windows[shard.index]:
                state = [tensor[window.of(shard)] for tensor in self._memory.state(shard)]
                if self._rewritings[shard.index].write(window, state) != self._memory.checksums(shard, window):
                    raise ChangedError(f"the state of {shard.name}")
        self._rewritings.pop(shard.index).commit(step)
        old = self.state_path(shard)
        self._steps[shard.index] = step
        self._layouts.pop(shard.index, None)
        old.unlink()

    def at_hand(self, shard: Shard) -> bool:
        """As `Store` says."""
        return shard.index in self._staying

    def check(self, shard: Shard) -> None:
        """As `Store` says. What is on disk is checked whenever it is read."""
        if shard.index in self._staying:
            self._memory.check(shard)

    def discard_gradients(self) -> None:
        """Gives their disk space back: there will be no more."""
        for shard in self._shards:
            self._path(shard, "sums").unlink(missing_ok=True)

    def _state(self, shard: Shard, window: Window, names: Sequence[str]) -> list[Tensor]:
        """The named tensors of the newest state, each at a block's beginning."""
        with DirectFile(self.state_path(shard), "read") as file:
            if shard.index not in self._layouts:
                self._layouts[shard.index] = self._layout_of(shard, file)
            layout = self._layouts[shard.index]
            if layout.checksums is None:
                raise DamagedError(file.path, "its header is not one of a store")
            return self._read(file, layout, shard, window, names)

    def _read(
        self, file: DirectFile, layout: Layout, shard: Shard, window: Window, names: Sequence[str]
    ) -> list[Tensor]:
        part, number = window.of(shard), self._windows[shard.index].index(window)
        n_bytes = 4 * (part.stop - part.start)
        found = []
        for name in names:
            tensor = self._buffer(name, window, torch.float32)
            got = file.read(layout.starts[name] + 4 * part.start, n_bytes, _room(tensor))
            if got.data_ptr() != tensor.data_ptr():  # a file that a resident run wrote
                tensor.copy_(got.clone().view(torch.float32))
            if layout.checksums is not None and checksum(tensor) != layout.checksums[name][number]:
                raise DamagedError(file.path, f"the checksum of {name} does not hold")
            found.append(tensor)
        return found

    def _layout_of(self, shard: Shard, file: DirectFile) -> Layout:
        elements, windows = shard.stop - shard.start, len(self._windows[shard.index])
        step = self._steps[shard.index]
        return read_layout(file, shard.name, step, elements, windows, pages(_HEADER_BYTES))

    def _gradient(self, shard: Shard, window: Window, step: int) -> Tensor:
        gradient = self._buffer("gradient", window, torch.float32)
        with DirectFile(self._path(shard, "sums"), "read") as file:
            if shard.index not in self._sealed:
                self._sealed[shard.index] = self._read_seal(file, shard, step)
            file.read(BLOCK + 4 * window.of(shard).start, 4 * gradient.numel(), _room(gradient))
            if checksum(gradient) != self._sealed[shard.index][self._windows[shard.index].index(window)]:
                raise DamagedError(file.path, "the gradient's checksum does not hold")
        return gradient

    def _read_seal(self, file: DirectFile, shard: Shard, step: int) -> list[int]:
        try:
            said = json.loads(bytes(as_bytes(file.read(0, BLOCK, pages(BLOCK)))))
            if (said["shard"], said["step"]) == (shard.name, step):
                return [int(one) for one in said["crc32"]]
        except (ValueError, KeyError, TypeError):
            pass
        raise DamagedError(file.path, f"it holds no gradient of {shard.name} at step {step}")

    def _put_image(self, shard: Shard, window: Window, image: Tensor) -> None:
        """Writes what the window's `image` has of matrices."""
        start = window.of(shard).start
        matrices = image[: max(0, matrix_part(shard) - start)]
        if matrices.numel():
            self._image_checksums[shard.index, window.start] = checksum(matrices)
            with DirectFile(self._path(shard, "image"), "scratch") as file:
                file.write(start * image.itemsize, matrices)

    def _buffer(self, name: str, window: Window, dtype: torch.dtype) -> Tensor:
        """The calling thread's buffer of that name, for a window: at a block's beginning, and a block longer."""
        if not hasattr(self._threads, name):
            setattr(self._threads, name, pages(self._window_elements * dtype.itemsize + BLOCK).view(dtype))
        buffer: Tensor = getattr(self._threads, name)
        return buffer[: window.stop - window.start]

    def _sums_start(self, shard: Shard) -> int:
        """Where in its file the sums begin: after the block of the seal, and the gradient."""
        return BLOCK + blocks(4 * (shard.stop - shard.start))

    def _path(self, shard: Shard, kind: str) -> Path:
        return self._folder / f"{shard.name}.{kind}"

    def _state_path(self, shard: Shard, step: int) -> Path:
        return self._folder / f"{shard.name}.step-{step:08d}.safetensors"


class _Rewriting:
    """Writes a state file beside its place, windows in any order; it is there once committed."""

    def __init__(self, path: Path, shard: Shard) -> None:
        self._path, self._shard, self._elements = path, shard, shard.stop - shard.start
        self._layout = new_layout(self._elements)
        self._checksums: dict[int, list[int]] = {}
        self._file = DirectFile(part_of(path), "new")

    def write(self, window: Window, state: Sequence[Tensor]) -> list[int]:
        """The window's weights and moments, each with room for whole blocks. Their checksums."""
        for start, tensor in zip(self._layout.starts.values(), state, strict=True):
            _room(tensor)[4 * tensor.numel() : blocks(4 * tensor.numel())].zero_()
            self._file.write(start + 4 * window.of(self._shard).start, tensor)
        self._checksums[window.start] = [checksum(tensor) for tensor in state]
        return self._checksums[window.start]

    def commit(self, step: int) -> None:
        """The file is whole: puts it in its place."""
        each = zip(*(self._checksums[start] for start in sorted(self._checksums)), strict=True)
        self._file.write(
            0, _block(header(self._shard.name, self._elements, step, dict(zip(TENSORS, each, strict=True))))
        )
        self._file.finish(file_bytes(self._elements))
        self._file.close()
        os.replace(part_of(self._path), self._path)
        sync_folder(self._path.parent)


def _block(content: bytes) -> Tensor:
    """A block that begins with `content`; the rest are spaces."""
    memory = pages(BLOCK)
    memory.copy_(torch.frombuffer(bytearray(content.ljust(BLOCK)), dtype=torch.uint8))
    return memory


def _room(tensor: Tensor) -> Tensor:
    """The memory from the tensor's beginning to its storage's end, as bytes."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return whole[tensor.storage_offset() * tensor.itemsize :]
