"""A model that learns on a GPU with everything resident there.

The host runs ahead of the device: it waits for the numbers of the passes, for the norm, and for the checksums of what
nothing may have changed since the last update. One compiled block computes all layers; sums, norm and update are one
compiled function each, over ranges of the flat buffers. Passes so short that the host could not ask for their kernels
in time are recorded once and replayed.

It has never been run on a GPU. Tests run it with the processor as the device, and with a stand-in for `torch.cuda`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from isoflop.model.weights import SHARD
from isoflop.recipe import training_flops
from isoflop.systems.sums import MarkedSums
from isoflop.train.learner import Learner, totals
from isoflop.train.optimizer import Chunk, chunks_of

# A microbatch of fewer FLOPs, some ten milliseconds on an H100, is over sooner than the host can ask for its kernels.
RECORDED_FLOPS = 1e13


class DeviceLearner(Learner):
    """As `Learner`, on a GPU."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._marked = MarkedSums(self._sums.into)
        self._sums = self._marked
        self._chunks = [chunk for shard in self._own for chunk in chunks_of(shard, SHARD)]
        self._squares, self._update = squares, update
        self._passes: Callable[[Tensor], Tensor] = self._backpropagate
        if self._device.type == "cuda":
            self.compile()
            # Deterministic kernels need not fill every buffer with NaN before they write it.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def compile(self) -> None:
        """From now on layers, head, sums, norm and update are compiled functions."""
        self.model.compile()  # type: ignore[union-attr]
        self._marked.compile()
        self._squares = torch.compile(squares, dynamic=True)
        self._update = torch.compile(update, dynamic=True)

    def gradients(self, microbatches: Sequence[Callable[[], Tensor]], step_tokens: int) -> float:
        """As `Learns` says; one microbatch after the other, of which the next is read while one is computed."""
        self._systems.doing("gradients")
        self._marked.begin(step_tokens)
        self._marked.marks.zero_()
        nats = [self._passes_of(samples()) for samples in microbatches]
        losses = torch.stack(nats).tolist() if nats else []
        loss, self._bounds = totals(self._systems, losses, self._marked.marks.cpu().numpy())
        return loss / step_tokens

    def _squared(self, sums: Tensor, unit: float) -> list[float]:
        found = [self._squares(sums[chunk.start : chunk.stop], unit) for chunk in self._chunks]
        return torch.stack(found).tolist() if found else []

    @torch.no_grad()
    def update(self, norm: float, lr: float, step: int) -> None:
        """As `Learns` says."""
        self.check()
        self._systems.doing("update")
        sums, weights, (first, second) = self._sums.into.flat, self.weights.flat, self._moments
        image = None if self._image is self.weights else self._image.flat
        numbers: dict[tuple[bool, bool], Tensor] = {}
        for chunk in self._chunks:
            kind = (chunk.hidden, chunk.decays)
            if kind not in numbers:
                numbers[kind] = self._numbers(chunk, norm, lr, step)
            part = slice(chunk.start, chunk.stop)
            image_part = None if image is None else image[part]
            self._update(sums[part], weights[part], first[part], second[part], image_part, numbers[kind])
        self._share()
        self._intact.take(self._held())

    def _numbers(self, chunk: Chunk, norm: float, lr: float, step: int) -> Tensor:
        """What `update` reads, fp32 (8,)."""
        by, at = self._optimizer, self._optimizer.at(step, norm, lr)
        rate = at.lr * (by.hidden_lr_multiplier if chunk.hidden else 1.0)
        keep = 1 - rate * (by.weight_decay if chunk.decays else 0.0)
        factor = self._sums.unit * at.clip
        numbers = (factor, 1 - by.beta1, by.beta2, 1 - by.beta2, by.eps, keep, rate * at.correction, at.root)
        return torch.tensor(numbers, device=self._device)

    def _passes_of(self, samples: Tensor) -> Tensor:
        """Both passes of a microbatch, int64 (B, T + 1): its nats, fp64 () on the device."""
        if self._device.type == "cuda":
            samples = samples.pin_memory().to(self._device, non_blocking=True)
            flops = training_flops(self.weights.shape).model * samples[:, 1:].numel()
            if flops < RECORDED_FLOPS and not isinstance(self._passes, Recorded):
                self._passes = Recorded(self._backpropagate)
        return self._passes(samples)

    def _backpropagate(self, samples: Tensor) -> Tensor:
        return self.model.backpropagate(self.weights, self._image, samples, self._marked)


class Recorded:
    """A function of one tensor whose kernels are recorded at its second call with a shape, and then replayed.

    Its first call compiles what is to be compiled. It must read and write the same memory at each call. Where it cannot
    be recorded it is called as it is.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._called: set[torch.Size] = set()
        self._graphs: dict[torch.Size, tuple[Any, Tensor, Tensor] | None] = {}

    def __call__(self, given: Tensor) -> Tensor:
        """The function's answer."""
        if given.shape not in self._called:
            self._called.add(given.shape)
            return self._in_a_stream_of_its_own(given)
        if given.shape not in self._graphs:
            self._graphs[given.shape] = self._record(given)
        recorded = self._graphs[given.shape]
        if recorded is None:
            return self._function(given)
        graph, memory, answer = recorded
        memory.copy_(given, non_blocking=True)
        graph.replay()
        return answer.clone()

    def _in_a_stream_of_its_own(self, given: Tensor) -> Tensor:
        """As recording will have it: what libraries set up for a stream at their first call is set up."""
        here, stream = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            answer = self._function(given)
        here.wait_stream(stream)
        return answer

    def _record(self, given: Tensor) -> tuple[Any, Tensor, Tensor] | None:
        memory, graph = given.clone(), torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                answer = self._function(memory)
        except RuntimeError:
            return None
        return graph, memory, answer


def squares(sums: Tensor, unit: float) -> Tensor:
    """The sum of squares of a range of the gradient, fp64 ()."""
    return (sums.double() * unit).square().sum()


def update(sums: Tensor, weights: Tensor, first: Tensor, second: Tensor, image: Tensor | None, numbers: Tensor) -> None:
    """As `AdamW.update`, of a range (elements,): one pass over it when it is compiled.

    `numbers` are what a sum of gradients is multiplied with, 1 - beta1, beta2, 1 - beta2, epsilon, what is kept of a
    weight, and both bias corrections, the first times the rate.
    """
    factor, more_1, keep_2, more_2, eps, keep, step, root = numbers.unbind()
    gradient = sums.float() * factor
    first.add_((gradient - first) * more_1)
    second.mul_(keep_2).add_(gradient * gradient * more_2)
    weights.mul_(keep).sub_(step * first / (second.sqrt() * root + eps))
    sums.zero_()
    if image is not None:
        image.copy_(weights)
