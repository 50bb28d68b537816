"""Passes through a GPU: with a processor as the device the bits of resident training, and under a stand-in for
`torch.cuda` nothing before what it needs.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
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
from isoflop.recipe.footprint import device_buffers_bytes, fitted_cut, streamed_footprint
from isoflop.recipe.streaming import Cut
from isoflop.streaming.pages import BLOCK, pages
from isoflop.systems.device import training_device
from isoflop.systems.group import ALONE, Systems
from isoflop.train import learners, loop
from isoflop.train.learner import CPU
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner
from tests.streaming.cuda import Cuda, RaceError, Site
from tests.streaming.runs import DISK, HOST, RESIDENT, losses, run, stop_at
from tests.streaming.test_equality import SHAPES, Run, resident, steps_of
from tests.streaming.test_equality import run as steps_by
from tests.systems.test_group import on_threads

SHAPE = SHAPES["odd"]
DEVICE = torch.device("cuda", 1)
# Of two groups, layers enough that all slots are taken again.
DEEP = Shape(n_layers=5, d_model=16, n_heads=2, vocab_size=40, context_length=8)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    stand_in = Cuda(DEVICE)
    stand_in.install(monkeypatch)
    try:
        with stand_in.watching():
            training_device(1)
            yield stand_in
    finally:
        torch.use_deterministic_algorithms(False)
    assert not stand_in.faults


def through_device(
    shape: Shape,
    precision: Literal["bf16", "fp32"],
    cut: Cut,
    folder: Path | None,
    systems: Systems = ALONE,
    kernels: bool = False,
    clip_norm: float = 1.0,
    device: torch.device = CPU,
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
        cut=cut,
        folder=folder,
        journal=None,
        device=device,
    )
    learner.create(3)
    return learner


def groups_of(most: int, offload: bool = False, staying: int = 0) -> Cut:
    return Cut(2, 6, most, offload=offload, staying=staying)


def step_by(learner: StreamedLearner, shape: Shape, microbatches: int = 6) -> None:
    samples: Sequence[Tensor] = steps_of(shape, microbatches)[0]
    readers: list[Callable[[], Tensor]] = [lambda one=one: one for one in samples]  # type: ignore[misc]
    learner.gradients(readers, sum(one[:, 1:].numel() for one in samples))


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_any_store_and_any_groups_give_the_bits_of_resident_training(shape: Shape, tmp_path: Path) -> None:
    steps = steps_of(shape)
    with Lanes(1) as lanes:
        wanted = steps_by(resident(shape, lanes, "fp32", fused=False, mup=False), steps)
    for folder, cut in (
        (None, groups_of(1, staying=1)),
        (None, groups_of(6)),
        (tmp_path / "1", groups_of(1)),
        (tmp_path / "4", groups_of(4, staying=1)),
    ):
        assert steps_by(through_device(shape, "fp32", cut, folder), steps) == wanted, (folder, cut)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_what_stays_on_the_device_or_waits_in_host_memory_changes_no_bit(n_layers: int) -> None:
    shape = replace(DEEP, n_layers=n_layers)
    steps = steps_of(shape, microbatches=5)  # the last group has fewer
    wanted, *found = (
        steps_by(through_device(shape, "bf16", groups_of(2, offload, staying), None), steps)
        for offload, staying in ((False, 0), (True, 0), (False, n_layers), (True, n_layers // 2))
    )
    assert found == [wanted] * 3


def test_clipping_takes_part() -> None:
    steps = steps_of(DEEP)
    tight, loose = (
        steps_by(through_device(DEEP, "fp32", groups_of(2), None, clip_norm=norm), steps) for norm in (0.01, 1e9)
    )
    assert tight.norms[0] == loose.norms[0] > 0.01
    assert tight.weights != loose.weights


def test_with_inputs_kept_in_bf16_groups_change_no_bit_and_the_first_loss_is_the_residents(tmp_path: Path) -> None:
    steps = steps_of(SHAPE)
    with Lanes(1) as lanes:
        wanted = steps_by(resident(SHAPE, lanes, "bf16", fused=False, mup=False), steps)
    found = steps_by(through_device(SHAPE, "bf16", groups_of(6), None), steps)
    assert steps_by(through_device(SHAPE, "bf16", groups_of(1), tmp_path), steps) == found
    assert found.losses[0] == wanted.losses[0]
    assert found.norms[0] == pytest.approx(wanted.norms[0], rel=5e-3)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-3)


def test_the_hosts_kernels_update_as_plain_ones_do() -> None:
    steps = steps_of(DEEP)
    plain, fused = (
        steps_by(through_device(DEEP, "fp32", groups_of(2), None, kernels=one), steps) for one in (False, True)
    )
    assert fused.losses == pytest.approx(plain.losses, rel=1e-6)
    assert fused.norms == pytest.approx(plain.norms, rel=1e-6)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "host"])
def test_three_systems_give_the_bits_of_one(on_disk: bool, tmp_path: Path) -> None:
    steps = steps_of(SHAPE, microbatches=4)  # one system has two, the others one
    wanted = steps_by(through_device(SHAPE, "fp32", groups_of(2), None), steps)

    def part(systems: Systems) -> Run:
        learner = through_device(SHAPE, "fp32", groups_of(1, staying=1), tmp_path if on_disk else None, systems)
        return steps_by(learner, [one[systems.rank :: 3] for one in steps], tokens=len(steps[0]) * 2 * 130)

    assert on_threads(3, part) == [wanted] * 3


def every_way(folder: Path) -> None:
    """Two steps of two groups by each of the ways that pieces and inputs of layers can go."""
    for i, (on_disk, offload, staying) in enumerate(((False, True, 2), (True, False, 1))):
        store, cut = folder / str(i) if on_disk else None, groups_of(2, offload, staying)
        learner = through_device(DEEP, "bf16", cut, store, kernels=True, device=DEVICE)
        try:
            for step in (1, 2):
                step_by(learner, DEEP, 4)
                learner.update(learner.norm(), 1e-2, step)
                learner.commit({})
        finally:
            learner.close()


def test_every_wait_is_needed(cuda: Cuda, tmp_path: Path) -> None:
    """Each line that waits waits in vain once: then something is found that would come too early."""
    every_way(tmp_path / "all")
    # At a group's end the host sleeps for what it would else wait for busily, when it reads the marks.
    needed = {site for site in cuda.waits if "sleeps" not in line_of(site)}
    assert len(needed) == 9
    for i, site in enumerate(sorted(needed)):
        cuda.deaf = {site}
        with pytest.raises(RaceError):
            every_way(tmp_path / str(i))
    gc.collect()  # what a pass that failed still held
    cuda.faults.clear()


def line_of(site: Site) -> str:
    return Path(site[0]).read_text().splitlines()[site[1] - 1]


def test_the_host_waits_for_the_device_as_often_whatever_the_depth(cuda: Cuda) -> None:
    """Between layers only for sums of gradients, on the clerks' threads."""
    often = []
    for n_layers in (3, 6):
        learner = through_device(replace(DEEP, n_layers=n_layers), "bf16", groups_of(2, True, 1), None, device=DEVICE)
        step_by(learner, DEEP, 2)  # the executor is made
        cuda.blocked.clear()
        step_by(learner, DEEP, 2)
        often.append(sum("left.synchronize" not in line_of(site) for site in cuda.blocked))
        learner.close()
    assert often[0] == often[1]


@pytest.mark.parametrize(("most", "offload", "staying"), [(2, False, 0), (6, False, 2), (2, True, 0), (2, True, 3)])
def test_bytes_over_the_link_and_on_the_device_are_those_foretold(
    most: int, offload: bool, staying: int, tmp_path: Path, cuda: Cuda
) -> None:
    cut = groups_of(most, offload, staying)
    learner = through_device(DEEP, "bf16", cut, tmp_path, kernels=True, device=DEVICE)
    step_by(learner, DEEP)
    foretold = streamed_footprint(DEEP, "bf16", True, cut, "disk", 1, 1, "cuda")
    assert learner.link_bytes == foretold.link_bytes
    held = vars(learner._begin())
    places = [*held["_slots"], *held["_staying"].values()]
    tensors = [*(one for place in places for one in (place.image, place.vectors)), *held["_sums"]]
    tensors += [*held["_inputs"].slots, *(held[name] for name in ("_final_sums", "_x", "_wpe"))]
    assert sum(one.numel() * one.itemsize for one in tensors) == device_buffers_bytes(DEEP, "bf16", True, cut)
    learner.close()


def test_spare_memory_of_the_device_takes_bytes_off_the_link() -> None:
    def needs(cut: Cut) -> tuple[int, int]:
        foretold = streamed_footprint(DEEP, "bf16", True, cut, "host", 1, 1, "cuda")
        return foretold.device_bytes, foretold.link_bytes

    there = needs(groups_of(2))
    for memory, staying in ((there[0] / 0.9 + 1, 0), (needs(groups_of(2, staying=2))[0] / 0.9 + 1, 2), (2**40, 3)):
        fitted = fitted_cut(DEEP, "bf16", True, groups_of(2), int(memory))
        assert fitted == groups_of(2, staying=staying)
        images = 2 * (12 * 16**2) + 4 * 13 * 16
        # Three groups: each of these layers comes once instead of six times.
        assert needs(fitted)[1] == there[1] - 5 * staying * images
    tight = fitted_cut(DEEP, "bf16", True, groups_of(2), int(there[0] / 0.9) - 1)
    assert tight.offload


def test_a_gradient_that_is_not_finite_is_noticed() -> None:
    learner = through_device(DEEP, "fp32", groups_of(6), None)
    learner._store.vectors.piece(learner._own[-1].piece)[:] = float("nan")
    step_by(learner, DEEP, 1)
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
    plans = [replace(plan, precision="fp32", staying=1), fp32, replace(plan, precision="fp32")]
    for i, one in enumerate(plans):
        with pytest.raises(Interrupted):
            run(data, tmp_path / "through", one, stop_at(4 * i + 2))
    assert weights_sha256(run(data, tmp_path / "through", plans[0]).weights) == wanted
    assert losses(tmp_path / "through") == losses(tmp_path / "resident")


@pytest.mark.usefixtures("cuda")
def test_one_compiled_block_serves_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiled(function: Callable[..., Tensor], dynamic: bool) -> Callable[..., Tensor]:
        calls.append(f"compiled {function.__name__}")

        def block(*arguments: object) -> Tensor:
            calls.append(function.__name__)
            return function(*arguments)

        return block

    monkeypatch.setattr(torch, "compile", compiled)
    learner = through_device(DEEP, "fp32", groups_of(6), None, device=DEVICE)
    assert isinstance(learner.model, GPT)
    step_by(learner, DEEP, 1)
    layers = ["layer"] * DEEP.n_layers
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
    memory = pages(3 * BLOCK + 1, DEVICE)
    part = memory[BLOCK:].view(torch.float32)
    assert runtime.locked == {memory.data_ptr(): 4 * BLOCK}
    del memory
    assert runtime.locked
    del part
    assert not runtime.locked


def test_memory_that_cannot_be_locked_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(1))
    with pytest.raises(WorkError, match="cannot lock 4,096 bytes of memory for the GPU; raise `ulimit -l`"):
        pages(10, DEVICE)
