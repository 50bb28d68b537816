"""What a GPU does with a resident model, with the processor as the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.model import Lanes
from isoflop.recipe import Shape
from isoflop.train import on_device
from isoflop.train.learner import Learner
from isoflop.train.on_device import DeviceLearner, Recorded

SHAPE = Shape(n_layers=2, d_model=32, n_heads=2, vocab_size=300, context_length=16)
# Compiled functions round otherwise: by some units in the last place of the precision that products have.
CLOSE = {"fp32": 1e-4, "bf16": 2e-2}


def steps(
    kind: type[Learner], precision: str, compiled: bool = False, reproducible: bool = True
) -> tuple[Any, Learner]:
    """Losses and norms of three steps of two microbatches, and the learner after them."""
    given: dict[str, Any] = {"precision": precision, "reproducible": reproducible, "kernels": None, "lanes": Lanes(1)}
    learner = kind(SHAPE, seed=1, **given)
    if compiled:
        assert isinstance(learner, DeviceLearner)
        learner.compile()
    told = []
    for step in range(1, 4):
        size = (4, SHAPE.context_length + 1)
        samples = torch.randint(0, SHAPE.vocab_size, size, generator=torch.Generator().manual_seed(step))
        parts: list[Callable[[], Tensor]] = [lambda part=part: part for part in samples.split(2)]  # type: ignore[misc]
        loss = learner.gradients(parts, samples[:, 1:].numel())
        norm = learner.norm()
        learner.update(norm, 1e-2, step)
        told.append((loss, norm))
    return told, learner


@pytest.mark.parametrize("reproducible", [True, False], ids=["fixed point", "fp32 sums"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_what_the_plain_learner_learns(precision: str, reproducible: bool) -> None:
    wanted, plain = steps(Learner, precision, reproducible=reproducible)
    got, learner = steps(DeviceLearner, precision, reproducible=reproducible)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=CLOSE[precision], atol=0)
    torch.testing.assert_close(learner.weights.flat, plain.weights.flat, rtol=0, atol=CLOSE[precision])
    assert not learner._sums.into.flat.any()


def test_compiled_it_learns_the_same() -> None:
    wanted, _ = steps(Learner, "bf16")
    got, learner = steps(DeviceLearner, "bf16", compiled=True)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=CLOSE["bf16"], atol=0)
    assert torch.equal(learner._image.flat, learner.weights.flat.bfloat16())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_a_gradient_that_does_not_fit_gives_no_norm(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _, learner = steps(DeviceLearner, "fp32")
    assert isinstance(learner, DeviceLearner)

    def backpropagate(samples: Tensor) -> Tensor:
        learner._marked.add("transformer.h.1.mlp.c_fc.weight", torch.full((32, 128), bad))
        return torch.zeros((), dtype=torch.float64)

    monkeypatch.setattr(learner, "_passes", backpropagate)
    learner.gradients([lambda: torch.zeros(1, 17, dtype=torch.int64)], 1)
    assert learner.norm() != learner.norm()


class Graph:
    """CUDA's, as far as it replays: what was called while it was recorded is called again."""

    recording: "Graph | None" = None

    def __init__(self) -> None:
        self.again: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        Graph.recording = self

    def __exit__(self, *error: object) -> None:
        Graph.recording = None

    def replay(self) -> None:
        for work in self.again:
            work()


class Nothing:
    """A stream, or its context."""

    def wait_stream(self, other: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("recordable", [True, False])
def test_every_call_counts_once_recorded_or_not(recordable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("current_stream", "Stream", "stream"):
        monkeypatch.setattr(on_device.torch.cuda, name, lambda *given: Nothing())
    monkeypatch.setattr(on_device.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(on_device.torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(on_device.torch.cuda, "graph", lambda graph, capture_error_mode: graph)
    added, asked = torch.zeros(2), []

    def function(given: Tensor) -> Tensor:
        asked.append(len(given))
        answer = torch.zeros(())

        def work() -> None:
            added[: len(given)] += given
            answer.copy_(given.sum())

        if Graph.recording is None:
            work()
        elif recordable:
            Graph.recording.again.append(work)
        else:
            raise RuntimeError("operation not permitted when stream is capturing")
        return answer

    recorded = Recorded(function)
    answers = [recorded(torch.tensor([float(i), 1.0])) for i in range(5)]
    assert [float(one) for one in answers] == [1, 2, 3, 4, 5]
    assert float(recorded(torch.tensor([7.0]))) == 7  # of another size
    assert added.tolist() == [17, 5]
    assert len(asked) == (3 if recordable else 7)
