"""A model that learns with everything resident: weights, optimizer state, and what one step does with them."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from isoflop.durable import write_synced
from isoflop.model import Kernels, Lanes, Shard, Weights, initialise, make_model, shards_of
from isoflop.recipe import STANDARD, Parametrisation, Shape
from isoflop.systems.group import ALONE, Systems, bring_home, owner, send_out
from isoflop.systems.sums import Sums
from isoflop.train.intact import WEIGHTS, Intact
from isoflop.train.optimizer import AdamW, Chunk, chunks_of
from isoflop.train.reach import Reach

# What a checkpoint holds of each shard, flat fp32.
STATE = (WEIGHTS, "first_moment", "second_moment")
IMAGE = "image"


CPU = torch.device("cpu")


class Source(Protocol):
    """The state of an earlier learner after so many `updates`."""

    @property
    def updates(self) -> int:
        """Updates of its weights."""

    def read(self, shard: Shard) -> Mapping[str, Tensor]:
        """A shard's: `STATE`, each flat fp32 (elements,)."""

    def path(self, shard: Shard) -> Path:
        """The file that holds it; it is never changed."""


class Learns(Protocol):
    """What the loop trains, wherever its weights live.

    A step is `gradients`, then `norm`, then `update`, then, with all told of it that will be, `commit`; or `gradients`,
    `norm` and `discard`.
    `lasting` says whether a committed step survives a crash by itself; `generations` how many of its checkpoints to
    keep; `link_bytes` what its last step moved between device and store.
    """

    lasting: bool
    generations: int
    link_bytes: int

    def gradients(self, microbatches: Sequence[Callable[[], Tensor]], step_tokens: int) -> float:
        """Adds up the gradient of the step's mean loss; returns that loss in nats per token.

        Each of `microbatches`, which are this system's of the step, gives samples, int64 (B, T + 1), when it is
        called, once. Those of all systems have `step_tokens` targets together. The sum over tokens is divided by that
        count, however the step is cut.
        """

    def norm(self) -> float:
        """The global norm of the gradient; NaN if a part of it is not finite or does not fit."""

    def unreached(self) -> tuple[str, ...]:
        """After `norm`: the layers' matrices whose gradient is zero in every element."""

    def update(self, norm: float, lr: float, step: int) -> None:
        """One update of the weights by the gradient, whose norm is `norm`; `step` counts updates from 1.

        Raises:
            ChangedError: bits of what is held have changed by themselves; nothing is made of them.
        """

    def discard(self) -> None:
        """The gradient is given up instead: weights and moments stay as they are."""

    def commit(self, position: Mapping[str, Any]) -> None:
        """The updated step counts from here on; `position` is how far the run has come with it."""

    def check(self) -> None:
        """Whether what is held is what was written there: asked on all systems after `write` and before `complete`.

        Raises:
            ChangedError: bits have changed by themselves.
        """

    def write(self, shard: Shard, path: Path) -> bytes:
        """Writes the state of a shard that this system owns as safetensors; the SHA-256 of the file."""

    def restore(self, source: Source) -> None:
        """Takes over the state of an earlier learner."""

    def close(self) -> None:
        """Nothing more is asked of this learner."""

    def complete(self) -> Weights:
        """All weights on this system, the caller's to change; no more steps are taken."""


class Learner(Learns):
    """One model from its initial weights on. `kernels` are for a CPU alone."""

    lasting, generations, link_bytes = False, 2, 0

    def __init__(
        self,
        shape: Shape,
        *,
        seed: int,
        precision: Literal["bf16", "fp32"],
        lanes: Lanes,
        kernels: Kernels | None,
        optimizer: AdamW | None = None,
        parametrisation: Parametrisation = STANDARD,
        systems: Systems = ALONE,
        reproducible: bool = True,
        device: torch.device = CPU,
    ) -> None:
        self.weights = Weights(shape, initialise(shape, seed, parametrisation).flat.to(device))
        self.model = make_model(shape, precision, kernels, parametrisation)
        self._optimizer = optimizer or AdamW(hidden_lr_multiplier=parametrisation.hidden_lr_multiplier)
        self._systems = systems
        # Memory that is never written costs nothing: of the moments, this system's own shards are.
        self._moments = [torch.zeros(shape.params, device=device) for _ in range(2)]
        dtype = torch.int64 if reproducible else torch.float32
        self._sums = Sums(Weights(shape, torch.zeros(shape.params, dtype=dtype, device=device)), kernels)
        self._image = self.model.image(self.weights)
        self._lanes, self._kernels, self._device = lanes, kernels, device
        self._shards = shards_of(shape)
        self._own = [shard for shard in self._shards if owner(shard.index, self._systems) == self._systems.rank]
        self._chunks = [chunk for shard in self._own for chunk in chunks_of(shard)]
        self._bounds = self._sums.bounds
        self._intact = Intact(self._shards, [IMAGE], lanes, systems)
        self._intact.take(self._held())

    def gradients(self, microbatches: Sequence[Callable[[], Tensor]], step_tokens: int) -> float:
        """As `Learns` says; on each lane a microbatch at a time."""
        self._systems.doing("gradients")
        self._sums.begin(step_tokens)

        def nats(samples: Callable[[], Tensor]) -> float:
            return self.model.gradients(self.weights, self._image, samples().to(self._device), self._sums)

        loss, self._bounds = totals(self._systems, self._lanes.map(nats, microbatches), self._sums.bounds)
        return loss / step_tokens

    def norm(self) -> float:
        """As `Learns` says."""
        if not self._sums.within(self._bounds):
            return math.nan
        self._systems.doing("sum of the gradients")
        flat, unit = self._sums.into.flat, self._sums.unit
        bring_home(self._systems, [(shard.index, flat[shard.start : shard.stop]) for shard in self._shards])
        return math.sqrt(totals(self._systems, self._squared(flat, unit))[0])

    def _squared(self, sums: Tensor, unit: float) -> list[float]:
        """The sum of the squares of each chunk's gradients; sums (parameters,) in the unit."""
        return self._lanes.map(
            lambda chunk: self._optimizer.squares(sums[chunk.start : chunk.stop], unit, self._kernels), self._chunks
        )

    def unreached(self) -> tuple[str, ...]:
        """As `Learns` says."""
        reach = Reach(self.weights.shape)
        reach.see(0, self._sums.into.flat)
        return reach.missed(self._systems)

    @torch.no_grad()
    def update(self, norm: float, lr: float, step: int) -> None:
        """As `Learns` says."""
        self.check()
        self._systems.doing("update")
        update = self._optimizer.at(step, norm, lr)
        weights, sums = self.weights.flat, self._sums.into.flat
        cast = None if self._image is self.weights else self._image.flat
        first, second = self._moments

        def one(chunk: Chunk) -> None:
            part = slice(chunk.start, chunk.stop)
            image = None if cast is None else cast[part]
            state = (weights[part], first[part], second[part], image)
            self._optimizer.update(chunk, update, sums[part], self._sums.unit, *state, self._kernels)

        self._lanes.map(one, self._chunks)
        self._share()
        self._intact.take(self._held())

    def discard(self) -> None:
        """As `Learns` says."""
        self._sums.into.flat.zero_()

    def commit(self, position: Mapping[str, Any]) -> None:
        """As `Learns` says: all is done."""

    def shard(self, shard: Shard) -> dict[str, Tensor]:
        """The live state of a shard: `STATE`, each (elements,)."""
        flats = (self.weights.flat, *self._moments)
        return {name: flat[shard.start : shard.stop] for name, flat in zip(STATE, flats, strict=True)}

    def check(self) -> None:
        """As `Learns` says."""
        self._systems.doing("checksums")
        self._intact.check(self._held())

    def write(self, shard: Shard, path: Path) -> bytes:
        """As `Learns` says."""
        return write_state(path, self.shard(shard))

    def restore(self, source: Source) -> None:
        """As `Learns` says."""
        for shard in self._shards:
            state = source.read(shard)
            for name, part in self.shard(shard).items():
                if name == WEIGHTS or shard in self._own:
                    part.copy_(state[name])
        if self._image is not self.weights:
            self._image.flat.copy_(self.weights.flat)
        self._intact.take(self._held())

    def close(self) -> None:
        """As `Learns` says."""

    def complete(self) -> Weights:
        """As `Learns` says."""
        return Weights(self.weights.shape, self.weights.flat.cpu())

    def _held(self) -> dict[str, Tensor]:
        """All that nothing but an update may change, by name."""
        flats = dict(zip(STATE, (self.weights.flat, *self._moments), strict=True))
        return flats if self._image is self.weights else {**flats, IMAGE: self._image.flat}

    def _share(self) -> None:
        """Gives the updated shards to all systems; clears the sums of those that are not this system's."""
        if self._systems.size == 1:
            return
        flat, sums = self.weights.flat, self._sums.into.flat
        send_out(self._systems, [(shard.index, flat[shard.start : shard.stop]) for shard in self._shards])
        for shard in self._shards:
            if shard not in self._own:
                part = slice(shard.start, shard.stop)
                sums[part].zero_()
                if self._image is not self.weights:
                    self._image.flat[part].copy_(flat[part])


def write_state(path: Path, state: dict[str, Tensor]) -> bytes:
    """Writes a shard's state as safetensors; the SHA-256 of the file.

    Raises:
        WorkError: the disk is full or the folder cannot be written.
    """
    content = save({name: part.cpu() for name, part in state.items()})
    write_synced(path, content)
    return hashlib.sha256(content).digest()


def totals(
    systems: Systems, numbers: Iterable[float], added: npt.NDArray[np.float64] | None = None
) -> tuple[float, npt.NDArray[np.float64]]:
    """The sum of all systems' `numbers`, to the last bit whoever had which; and their `added` (n,), summed up."""
    added = np.zeros(0) if added is None else added
    if systems.size == 1:
        return math.fsum(numbers), added
    own = np.array(list(numbers), dtype=np.float64)
    counts = systems.gather(np.array([float(len(own))]))[:, 0].astype(int)
    padded = np.zeros(counts.max() + len(added))
    padded[: len(own)] = own
    padded[counts.max() :] = added
    together = systems.gather(padded)
    each = [row[:count] for row, count in zip(together, counts, strict=True)]
    return math.fsum(np.concatenate(each)), together[:, counts.max() :].sum(axis=0)
