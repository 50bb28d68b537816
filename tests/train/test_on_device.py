"""What a GPU does with a resident model, with the processor as the device."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from isoflop.model import Lanes
from isoflop.recipe import Shape
from isoflop.train.learner import Learner
from isoflop.train.on_device import DeviceLearner, Recorded
from tests.as_if_cuda import as_if_cuda

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


def test_compiled_it_learns_the_same_with_one_block_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    # What PyTorch makes of the functions is looked at; turning that into machine code takes half a minute more.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    wanted, _ = steps(DeviceLearner, "bf16")
    counters.clear()
    got, learner = steps(DeviceLearner, "bf16", compiled=True)
    assert got == wanted
    assert torch.equal(learner._image.flat, learner.weights.flat.bfloat16())
    # Layer, chunk of the head, sums of bf16 and of fp32 gradients of both kinds of sizes, squares, update.
    assert counters["stats"]["unique_graphs"] <= 7


def test_a_family_of_many_sizes_is_compiled_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    limits = {"recompile_limit": 2, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):  # type: ignore[no-untyped-call]
        for width in (8, 16, 24):
            shape = replace(SHAPE, d_model=width)
            learner = DeviceLearner(shape, seed=1, precision="fp32", kernels=None, lanes=Lanes(1))
            learner.model.compile()  # type: ignore[union-attr]
            learner.gradients([lambda: torch.zeros(1, 17, dtype=torch.int64)], 16)


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


@pytest.mark.parametrize("recordable", [True, False])
def test_every_call_counts_once_recorded_or_not(recordable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    added, asked = torch.zeros(2), []

    def function(given: Tensor) -> Tensor:
        asked.append(len(given))
        if not recordable:
            float(given.sum())
        added[: len(given)] += given
        return given.sum()

    with as_if_cuda(monkeypatch) as graphs:
        recorded = Recorded(function)
        answers = [recorded(torch.tensor([float(i), 1.0])) for i in range(5)]
        assert [float(one) for one in answers] == [1, 2, 3, 4, 5]
        assert float(recorded(torch.tensor([7.0]))) == 7  # of another size
    assert added.tolist() == [17, 5]
    assert len(asked) == (3 if recordable else 7)
    assert graphs.replays == (4 if recordable else 0)


def test_no_tensor_is_left_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors without values know their device: an operation on two devices is refused as a GPU refuses it. Autograd
    # asks for a driver; what it gives has its inputs' devices in any case.
    monkeypatch.setattr(DeviceLearner, "compile", lambda self: None)
    monkeypatch.setattr(DeviceLearner, "check", lambda self: None)  # reads values
    monkeypatch.setattr(torch.autograd, "grad", lambda out, leaves, by: [torch.zeros_like(leaf) for leaf in leaves])
    on_gpu: dict[str, Any] = {"device": torch.device("cuda"), "kernels": None, "lanes": Lanes(1)}
    with FakeTensorMode():
        for reproducible in (True, False):
            learner = DeviceLearner(SHAPE, seed=1, precision="bf16", reproducible=reproducible, **on_gpu)
            nats = learner._backpropagate(torch.zeros(2, 17, dtype=torch.int64, device="cuda"))
            learner.update(1.0, 1e-3, 1)
            found = [nats, learner.weights.flat, learner._image.flat, learner._marked.marks]
            found.append(learner._squares(learner._sums.into.flat, 1.0))
            assert {one.device.type for one in found} == {"cuda"}
