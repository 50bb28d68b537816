"""Passes through a device, run on a CPU as the device: the bits of resident training by the same block."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from isoflop.errors import Interrupted, WorkError
from isoflop.model import GPT, Lanes, load_kernels
from isoflop.model.weights import weights_sha256
from isoflop.recipe import STANDARD, ModelPlan, Shape
from isoflop.recipe.footprint import device_buffers_bytes, streamed_footprint
from isoflop.recipe.streaming import Cut
from isoflop.streaming.pages import BLOCK, pages
from isoflop.systems.group import ALONE, Systems
from isoflop.train import learners, loop
from isoflop.train.learner import CPU
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner
from tests.streaming.runs import DISK, HOST, RESIDENT, losses, run, stop_at
from tests.streaming.test_equality import SHAPES, Run, resident, steps_of
from tests.streaming.test_equality import run as steps_by
from tests.systems.test_group import on_threads

SHAPE = SHAPES["odd"]


def through_device(
    shape: Shape,
    precision: Literal["bf16", "fp32"],
    most: int,
    folder: Path | None,
    systems: Systems = ALONE,
    kernels: bool = False,
    clip_norm: float = 1.0,
    offload: bool = False,
) -> StreamedLearner:
    learner = StreamedLearner(
        shape,
        precision=precision,
        lanes=Lanes(1),
        kernels=load_kernels() if kernels else None,
        optimizer=AdamW(clip_norm=clip_norm),
        parametrisation=STANDARD,
        systems=systems,
        reproducible=True,
        cut=Cut(2, 6, most, offload=offload),
        folder=folder,
        journal=None,
        device=CPU,
    )
    learner.create(3)
    return learner


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_any_store_and_any_groups_give_the_bits_of_resident_training(shape: Shape, tmp_path: Path) -> None:
    steps = steps_of(shape)
    with Lanes(1) as lanes:
        wanted = steps_by(resident(shape, lanes, "fp32", fused=False, mup=False), steps)
    for folder, most in ((None, 1), (None, 6), (tmp_path / "1", 1), (tmp_path / "4", 4)):
        assert steps_by(through_device(shape, "fp32", most, folder), steps) == wanted, (folder, most)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_inputs_of_layers_that_wait_in_host_memory_change_no_bit(n_layers: int) -> None:
    shape = replace(SHAPES["tiny"], n_layers=n_layers)
    steps = steps_of(shape, microbatches=5)  # the last group has fewer
    wanted, found = (
        steps_by(through_device(shape, "bf16", 2, None, offload=offload), steps) for offload in (False, True)
    )
    assert found == wanted


def test_clipping_takes_part(tmp_path: Path) -> None:
    steps = steps_of(SHAPE)
    tight, loose = (steps_by(through_device(SHAPE, "fp32", 2, None, clip_norm=norm), steps) for norm in (0.01, 1e9))
    assert tight.norms[0] == loose.norms[0] > 0.01
    assert tight.weights != loose.weights


def test_with_inputs_kept_in_bf16_groups_change_no_bit_and_the_first_loss_is_the_residents(tmp_path: Path) -> None:
    steps = steps_of(SHAPE)
    with Lanes(1) as lanes:
        wanted = steps_by(resident(SHAPE, lanes, "bf16", fused=False, mup=False), steps)
    found = steps_by(through_device(SHAPE, "bf16", 6, None), steps)
    assert steps_by(through_device(SHAPE, "bf16", 1, tmp_path), steps) == found
    assert found.losses[0] == wanted.losses[0]
    assert found.norms[0] == pytest.approx(wanted.norms[0], rel=5e-3)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-3)


def test_the_hosts_kernels_update_as_plain_ones_do() -> None:
    steps = steps_of(SHAPE)
    plain, fused = (steps_by(through_device(SHAPE, "fp32", 2, None, kernels=one), steps) for one in (False, True))
    assert fused.losses == pytest.approx(plain.losses, rel=1e-6)
    assert fused.norms == pytest.approx(plain.norms, rel=1e-6)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "host"])
def test_three_systems_give_the_bits_of_one(on_disk: bool, tmp_path: Path) -> None:
    steps = steps_of(SHAPE, microbatches=4)  # one system has two, the others one
    wanted = steps_by(through_device(SHAPE, "fp32", 2, None), steps)

    def part(systems: Systems) -> Run:
        learner = through_device(SHAPE, "fp32", 1, tmp_path if on_disk else None, systems)
        return steps_by(learner, [one[systems.rank :: 3] for one in steps], tokens=len(steps[0]) * 2 * 130)

    assert on_threads(3, part) == [wanted] * 3


@pytest.mark.parametrize(("most", "offload"), [(2, False), (6, False), (2, True)])
def test_bytes_over_the_link_and_buffers_on_the_device_are_those_foretold(
    most: int, offload: bool, tmp_path: Path
) -> None:
    learner = through_device(SHAPE, "bf16", most, tmp_path, offload=offload)
    samples: Sequence[Tensor] = steps_of(SHAPE)[0]
    readers: list[Callable[[], Tensor]] = [lambda one=one: one for one in samples]  # type: ignore[misc]
    learner.gradients(readers, sum(one[:, 1:].numel() for one in samples))
    cut = Cut(2, 6, most, offload=offload)
    foretold = streamed_footprint(SHAPE, "bf16", True, cut, "disk", 1, 1, "cuda")
    assert learner.link_bytes == foretold.link_bytes
    held = vars(learner._begin())
    slots = [tensor for name in ("_images", "_vectors", "_sums") for tensor in held[name]]
    tensors = [*slots, *held["_inputs"].device_tensors, *(held[name] for name in ("_final_sums", "_x", "_wpe"))]
    wanted = device_buffers_bytes(SHAPE, "bf16", True, cut)
    assert sum(one.numel() * one.itemsize for one in tensors) == wanted
    learner.close()


def test_a_gradient_that_is_not_finite_is_noticed() -> None:
    learner = through_device(SHAPE, "fp32", 6, None)
    learner._store.vectors.piece(learner._own[-1].piece)[:] = float("nan")
    samples = steps_of(SHAPE)[0]
    learner.gradients([lambda: samples[0]], samples[0][:, 1:].numel())
    assert not learner.norm() > 0
    learner.close()


@pytest.mark.parametrize("plan", [DISK, HOST], ids=["disk", "host"])
def test_a_run_goes_on_in_and_from_either_execution(
    plan: ModelPlan, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "load_kernels", lambda: None)
    fp32 = replace(RESIDENT, precision="fp32")
    wanted = weights_sha256(run(data, tmp_path / "resident", fp32).weights)
    make = learners.StreamedLearner

    def on_device(*arguments: object, **named: object) -> StreamedLearner:
        return make(*arguments, **{**named, "device": CPU})  # type: ignore[arg-type]

    monkeypatch.setattr(learners, "StreamedLearner", on_device)
    plans = [replace(plan, precision="fp32"), fp32, replace(plan, precision="fp32")]
    for i, one in enumerate(plans):
        with pytest.raises(Interrupted):
            run(data, tmp_path / "through", one, stop_at(4 * i + 2))
    assert weights_sha256(run(data, tmp_path / "through", plans[0]).weights) == wanted
    assert losses(tmp_path / "through") == losses(tmp_path / "resident")


def test_one_compiled_block_serves_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiled(function: Callable[..., Tensor], dynamic: bool) -> Callable[..., Tensor]:
        calls.append(f"compiled {function.__name__}")

        def block(*arguments: object) -> Tensor:
            calls.append(function.__name__)
            return function(*arguments)

        return block

    monkeypatch.setattr(torch, "compile", compiled)
    learner = through_device(SHAPE, "fp32", 6, None)
    assert isinstance(learner.model, GPT)
    learner.model.compile()
    samples = steps_of(SHAPE)[0][0]
    learner.gradients([lambda: samples], samples[:, 1:].numel())
    layers = ["layer"] * SHAPE.n_layers
    assert calls == ["compiled layer", "compiled chunk_loss", *layers, "chunk_loss", *layers]
    learner.close()


class Runtime:
    """CUDA's, as far as it locks host memory."""

    def __init__(self, answer: int) -> None:
        self.answer, self.locked = answer, dict[int, int]()

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        self.locked[address] = size
        return self.answer

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.locked[address]
        return 0


def test_memory_that_a_gpu_reads_is_locked_at_its_exact_size_as_long_as_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = Runtime(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    memory = pages(3 * BLOCK + 1, torch.device("cuda"))
    part = memory[BLOCK:].view(torch.float32)
    assert runtime.locked == {memory.data_ptr(): 4 * BLOCK}
    del memory
    assert runtime.locked
    del part
    assert not runtime.locked


def test_memory_that_cannot_be_locked_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(1))
    with pytest.raises(WorkError, match="cannot lock 4,096 bytes of memory for the GPU; raise `ulimit -l`"):
        pages(10, torch.device("cuda"))
