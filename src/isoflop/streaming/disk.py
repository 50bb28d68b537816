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
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from isoflop.durable import part_of, sync_folder
from isoflop.model import Piece, Shard
from isoflop.streaming.pages import BLOCK, DamagedError, DirectFile, blocks, pages
from isoflop.streaming.shard_file import (
    TENSORS,
    Checksum,
    Layout,
    as_bytes,
    damaged,
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


class DiskStore(Store):
    """The files of `shards` in `folder`. Memory: buffers of a few windows for each thread that calls."""

    def __init__(
        self,
        folder: Path,
        pieces: Sequence[Piece],
        shards: Sequence[Shard],
        image_dtype: torch.dtype,
        sums_dtype: torch.dtype,
        several_groups: bool,
    ) -> None:
        self.vectors = Vectors(pieces)
        self._folder, self._shards = folder, shards
        self._image_dtype, self._sums_dtype = image_dtype, sums_dtype
        self._steps: dict[int, int] = {}
        self._image_checksums: dict[int, int] = {}
        self._gradients: dict[int, Checksum] = {}
        self._counter = Counter()
        self._threads = threading.local()
        self._buffer_bytes = 8 * largest_window(shards) + 16 * BLOCK
        folder.mkdir(parents=True, exist_ok=True)
        for shard in shards:
            with DirectFile(self._path(shard, "image"), "scratch") as file:
                file.reserve(matrix_part(shard) * image_dtype.itemsize)
            with DirectFile(self._path(shard, "sums"), "scratch") as file:
                # Sums wait here for those of the next group, the embeddings' for their rows' in any case.
                item = sums_dtype.itemsize if several_groups or shard.piece.name == "embedding" else 4
                file.reserve(BLOCK + (shard.stop - shard.start) * item)

    @property
    def moved_bytes(self) -> int:  # type: ignore[override]
        """As `Store` says."""
        return self._counter.bytes

    def state_path(self, shard: Shard) -> Path:
        """The file of the shard's newest state."""
        return self._state_path(shard, self._steps[shard.index])

    def step(self, shard: Shard) -> int:
        """The step after which the shard's newest state was such."""
        return self._steps[shard.index]

    def create(self, shard: Shard, weights: Tensor) -> None:
        """As `Store` says."""
        elements = shard.stop - shard.start
        with _Writer(self._state_path(shard, 0), elements) as writer:
            for window in windows_of(shard):
                part = window.of(shard)
                state = [self._buffer(name)[: 4 * (part.stop - part.start)].view(torch.float32) for name in TENSORS]
                state[0].copy_(weights[part])
                state[1].zero_()
                state[2].zero_()
                writer.write(part.start, state)
            writer.commit(0)
        self._steps[shard.index] = 0
        self.make_image(shard)

    def adopt(self, shard: Shard, path: Path, step: int) -> None:
        """Takes over the state file at `path` as that after `step`; it stays where it is as well."""
        os.link(path, self._state_path(shard, step))
        self._steps[shard.index] = step
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

    def make_image(self, shard: Shard) -> None:
        """Image and vectors of the newest state; checks the weights on the way."""
        checksum = Checksum()
        with DirectFile(self._path(shard, "image"), "scratch") as file:
            for window, weights in self.weights(shard):
                part = self._buffer("image")[: len(weights) * self._image_dtype.itemsize].view(self._image_dtype)
                part.copy_(weights)
                self._write_image(file, shard, window, part, checksum)
                self.vectors.take(shard, window, weights)
        self._image_checksums[shard.index] = checksum.value

    def image(self, shard: Shard, into: Tensor) -> None:
        """As `Store` says. `into` has room for whole blocks."""
        if not into.numel():
            return
        with DirectFile(self._path(shard, "image"), "read") as file:
            got = file.read(0, into.numel() * into.itemsize, _room(into))
            checksum = Checksum()
            checksum.add(got)
            if checksum.value != self._image_checksums[shard.index]:
                raise damaged(file, "its checksum does not hold")
        self._counter.add(into)

    def weights(self, shard: Shard) -> Iterator[tuple[Window, Tensor]]:
        """As `Store` says."""
        yield from ((window, state[0]) for window, state in self._states(shard, TENSORS[:1]))

    def verify(self, shard: Shard) -> None:
        """Reads the newest state.

        Raises:
            DamagedError: it is not what was written.
        """
        for _ in self._states(shard, TENSORS):
            pass

    def sums(self, shard: Shard, window: Window) -> Tensor:
        """As `Store` says."""
        part = window.of(shard)
        size = self._sums_dtype.itemsize
        with DirectFile(self._path(shard, "sums"), "read") as file:
            got = file.read(BLOCK + size * part.start, size * (part.stop - part.start), self._buffer("sums"))
        self._counter.add(got)
        return got.view(self._sums_dtype)

    def put_sums(self, shard: Shard, window: Window, sums: Tensor) -> None:
        """As `Store` says. `sums` has room for whole blocks."""
        with DirectFile(self._path(shard, "sums"), "scratch") as file:
            file.write(BLOCK + self._sums_dtype.itemsize * window.of(shard).start, sums)
        self._counter.add(sums)

    def put_gradient(self, shard: Shard, window: Window, sums: Tensor, unit: float) -> None:
        """As `Store` says."""
        gradient = self._buffer("gradient")[: 4 * sums.numel()].view(torch.float32)
        gradient.copy_(sums).mul_(unit)
        if window.start == shard.start:
            self._gradients[shard.index] = Checksum()
        self._gradients[shard.index].add(gradient)
        # Over the sums it was made from, of which those to come lie further on.
        with DirectFile(self._path(shard, "sums"), "scratch") as file:
            file.write(BLOCK + 4 * window.of(shard).start, gradient)
        self._counter.add(gradient)

    def seal(self, shard: Shard, step: int) -> None:
        """As `Store` says."""
        with DirectFile(self._path(shard, "sums"), "scratch") as file:
            text = json.dumps({"step": step, "crc32": self._gradients[shard.index].value}).encode().ljust(BLOCK)
            file.write(0, _filled(self._buffer("header"), text))
            file.finish()

    def update(self, shard: Shard, step: int, work: Work) -> None:
        """As `Store` says. The gradient is that which was sealed for `step`.

        Raises:
            DamagedError: the state or the gradient is not what was written; the old state stays.
            WorkError: the disk is full; the old state stays.
        """
        elements = shard.stop - shard.start
        gradient_sum, image_sum = Checksum(), Checksum()
        with (
            DirectFile(self._path(shard, "sums"), "read") as gradients,
            DirectFile(self._path(shard, "image"), "scratch") as images,
            _Writer(self._state_path(shard, step), elements) as writer,
        ):
            sealed = self._sealed(gradients, step)
            for window, state in self._states(shard, TENSORS):
                part, count = window.of(shard), window.stop - window.start
                gradient = gradients.read(BLOCK + 4 * part.start, 4 * count, self._buffer("gradient"))
                gradient_sum.add(gradient)
                image = self._buffer("image")[: count * self._image_dtype.itemsize].view(self._image_dtype)
                work(window, State(gradient.view(torch.float32), state[0], state[1], state[2], image))
                writer.write(part.start, state)
                self._write_image(images, shard, window, image, image_sum)
                self.vectors.take(shard, window, state[0])
            if gradient_sum.value != sealed:
                raise damaged(gradients, "the gradient's checksum does not hold")
            writer.commit(step)
        self._image_checksums[shard.index] = image_sum.value
        old = self.state_path(shard)
        self._steps[shard.index] = step
        old.unlink()

    def _states(self, shard: Shard, names: Sequence[str]) -> Iterator[tuple[Window, list[Tensor]]]:
        """The named tensors of the newest state by windows, at a block's beginning; their checksums hold at the end."""
        checksums = {name: Checksum() for name in names}
        with DirectFile(self.state_path(shard), "read") as file:
            layout = read_layout(file, shard.stop - shard.start, self._buffer("header"))
            for window in windows_of(shard):
                yield window, [self._state(file, layout, name, window.of(shard), checksums[name]) for name in names]
            if layout.checksums is not None:
                for name, checksum in checksums.items():
                    if checksum.value != layout.checksums[name]:
                        raise damaged(file, f"the checksum of {name} does not hold")

    def _state(self, file: DirectFile, layout: Layout, name: str, part: slice, checksum: Checksum) -> Tensor:
        buffer, n_bytes = self._buffer(name), 4 * (part.stop - part.start)
        got = file.read(layout.starts[name] + 4 * part.start, n_bytes, buffer)
        checksum.add(got)
        if got.data_ptr() != buffer.data_ptr():  # a file that a resident run wrote
            got = buffer[:n_bytes].copy_(got.clone())
        return got.view(torch.float32)

    def _sealed(self, file: DirectFile, step: int) -> int:
        try:
            said = json.loads(bytes(as_bytes(file.read(0, BLOCK, self._buffer("header")))))
            if said["step"] == step:
                return int(said["crc32"])
        except (ValueError, KeyError, TypeError):
            pass
        raise damaged(file, f"it holds no gradient of step {step}")

    def _write_image(self, file: DirectFile, shard: Shard, window: Window, image: Tensor, checksum: Checksum) -> None:
        """Writes what the window's `image` has of matrices."""
        start = window.of(shard).start
        matrices = image[: max(0, matrix_part(shard) - start)]
        if matrices.numel():
            file.write(start * image.itemsize, matrices)
            checksum.add(matrices)

    def _buffer(self, name: str) -> Tensor:
        """The calling thread's buffer of that name: uint8, room for the largest window of anything."""
        if not hasattr(self._threads, name):
            setattr(self._threads, name, pages(self._buffer_bytes))
        buffer: Tensor = getattr(self._threads, name)
        return buffer

    def _path(self, shard: Shard, kind: str) -> Path:
        return self._folder / f"{shard.name}.{kind}"

    def _state_path(self, shard: Shard, step: int) -> Path:
        return self._folder / f"{shard.name}.step-{step:08d}.safetensors"


class _Writer:
    """Writes a state file beside its place; it is there once committed."""

    def __init__(self, path: Path, elements: int) -> None:
        self._path, self._elements = path, elements
        self._layout = new_layout(elements)
        self._checksums = {name: Checksum() for name in TENSORS}
        self._file = DirectFile(part_of(path), "new")
        self._committed = False

    def write(self, first: int, state: Sequence[Tensor]) -> None:
        """Elements from `first` on of weights and moments."""
        for (name, start), tensor in zip(self._layout.starts.items(), state, strict=True):
            _room(tensor)[tensor.numel() * 4 :].zero_()  # what fills up the last block
            self._file.write(start + 4 * first, tensor)
            self._checksums[name].add(tensor)

    def commit(self, step: int) -> None:
        """The file is whole: puts it in its place."""
        text = header(self._elements, step, {name: one.value for name, one in self._checksums.items()})
        self._file.write(0, _filled(pages(BLOCK), text))
        self._file.finish(file_bytes(self._elements))
        os.replace(part_of(self._path), self._path)
        sync_folder(self._path.parent)
        self._committed = True

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if not self._committed:
            part_of(self._path).unlink(missing_ok=True)


def _filled(memory: Tensor, content: bytes) -> Tensor:
    memory[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return memory[: len(content)]


def _room(tensor: Tensor) -> Tensor:
    """The bytes from the tensor's beginning to the end of the block that its last one lies in."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    first = tensor.storage_offset() * tensor.itemsize
    return whole[first : first + blocks(tensor.numel() * tensor.itemsize)]
