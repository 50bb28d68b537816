"""Layouts of data, tensor and pipeline parallelism, held against published runs and against slow counts of our own."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.recipe import Shape
from isoflop.recipe.hardware import Hardware, Wire
from isoflop.recipe.layouts import (
    GRADIENT_BYTES,
    STATE_BYTES,
    WEIGHT_BYTES,
    Layout,
    best_layout,
    in_layout,
    kept_bytes,
    memory_bytes,
    sharded_layout,
)
from isoflop.recipe.scaling import Work

HardwareOf = Callable[[str], Hardware]
with (Path(__file__).parent / "published_runs.csv").open(encoding="utf-8") as file:
    RUNS = list(csv.DictReader(file))
GIB = 2**30
THIRTEEN = Work(Shape(40, 5120, 40, 50_257, 2048), 1080, 1)


def run_of(row: dict[str, str]) -> tuple[Work, Layout]:
    """A published run; attention wrote its scores to memory then, and layers were computed again."""
    sizes = [int(row[key]) for key in ("n_layers", "d_model", "n_heads", "vocab_size")]
    cuts = [int(row[key]) for key in ("tensor", "pipeline", "data", "microbatch_sequences", "chunks")]
    work = Work(Shape(*sizes, 2048), int(row["batch_sequences"]), 1)
    return work, Layout(*cuts, row["shards"], recompute=True, scores_kept=True)  # type: ignore[arg-type]


def computed_flops(work: Work) -> int:
    """What the authors count: the layers' second forward pass too (Narayanan et al. 2021, eq. 3)."""
    layers, d = work.shape.n_layers, work.shape.d_model
    return work.tokens * (4 * layers * (24 * d * d + 4 * work.shape.context_length * d) + 6 * work.shape.vocab_size * d)


@pytest.mark.parametrize("row", RUNS, ids=[row["name"] for row in RUNS])
def test_published_runs_are_foretold_within_their_tolerance(row: dict[str, str], hardware: HardwareOf) -> None:
    work, layout = run_of(row)
    found = in_layout(work, layout, hardware(row["hardware"]), row["name"])
    assert found.fits
    if row["step_seconds"]:
        published, ours = float(row["step_seconds"]), found.step_seconds
    else:
        published = float(row["tflops_per_second"])
        ours = computed_flops(work) / found.step_seconds / layout.devices / 1e12
    assert ours == pytest.approx(published, rel=float(row["tolerance"]))


def test_opt_and_neox_need_their_layouts_to_fit_at_all(hardware: HardwareOf) -> None:
    runs = {row["name"]: (*run_of(row), hardware(row["hardware"])) for row in RUNS}
    work, layout, kind = runs["OPT-175B on 992"]
    assert not in_layout(work, replace(layout, shards="optimizer"), kind, "").fits
    work, layout, kind = runs["GPT-NeoX-20B on 96"]
    assert not in_layout(work, replace(layout, tensor=1, pipeline=1, data=96), kind, "").fits


# Korthikanti et al. 2022, figure 1, as in calculon's calculon/llm/validation.py, in GiB: weights, gradients and
# optimizer; activations without recomputation.
MEMORY = {
    "22B": (45.5625, 59.25),
    "175B": (45.5625, 66.84375),
    "530B": (31.640625, 114.0234375),
    "1T": (32.958984375, 131.25),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_what_korthikanti_measured(name: str) -> None:
    work, layout = next(run_of(row) for row in RUNS if row["name"] == name)
    kept = kept_bytes(work, replace(layout, recompute=False))
    if layout.pipeline == 1:  # the figure leaves the logits out
        kept -= 4 * work.tokens * work.shape.vocab_size / layout.tensor
    assert kept / GIB == pytest.approx(MEMORY[name][1], rel=1e-3)
    # The figure counts the matrices of the layers alone.
    matrices = 12 * work.shape.n_layers * work.shape.d_model**2 / (layout.tensor * layout.pipeline)
    assert matrices * (WEIGHT_BYTES + GRADIENT_BYTES + STATE_BYTES) / GIB == pytest.approx(MEMORY[name][0], rel=1e-3)


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 3), (2, 2), (4, 4), (4, 9), (8, 64)])
def test_the_bubble_is_that_of_a_schedule_played_through(
    stages: int, microbatches: int, round_numbers: Hardware
) -> None:
    # No wires and no head: what is left are forward passes and backward passes of twice their time.
    work = Work(Shape(8, 1024, 8, 0, 512), microbatches, 1)
    free = replace(round_numbers, node=Wire(1e30, 0.0), network=Wire(1e30, 0.0))
    found = in_layout(work, Layout(pipeline=stages), free, "")
    forward = found.computing_seconds / microbatches / 3
    assert found.step_seconds == pytest.approx(played_through(stages, microbatches, forward))


def played_through(stages: int, microbatches: int, forward: float) -> float:
    """One forward, one backward: each stage starts whatever is next in its order once its input is there."""
    order = []
    for stage in range(stages):
        warm = min(stages - stage, microbatches)
        ones = [("f", i) for i in range(warm)]
        for i in range(microbatches):
            ones.append(("b", i))
            if warm + i < microbatches:
                ones.append(("f", warm + i))
        order.append(ones)
    done: dict[tuple[str, int, int], float] = {}
    free = [0.0] * stages
    while any(order):
        for stage in range(stages):
            while order[stage]:
                kind, i = order[stage][0]
                if kind == "f":
                    needed = done.get(("f", i, stage - 1)) if stage else 0.0
                else:
                    needed = done.get(("b", i, stage + 1)) if stage < stages - 1 else done.get(("f", i, stage))
                if needed is None:
                    break
                free[stage] = max(free[stage], needed) + (forward if kind == "f" else 2 * forward)
                done[kind, i, stage] = free[stage]
                order[stage].pop(0)
    return max(free)


def test_the_bubble_shrinks_by_the_chunks_and_messages_grow_by_them(hardware: HardwareOf) -> None:
    one, two = (in_layout(THIRTEEN, Layout(1, 4, 8, 1, chunks), hardware("h100-80gb"), "") for chunks in (1, 2))
    assert two.bubble_seconds == pytest.approx(one.bubble_seconds / 2)
    assert two.sent_bytes > one.sent_bytes


def test_a_ring_sends_what_the_formula_says() -> None:
    """Each of n devices passes on a piece n - 1 times to gather, and as often before that to reduce."""
    n, pieces = 6, [[{device} for _ in range(6)] for device in range(6)]
    sent = 0
    for step in range(n - 1):
        moved = [(device, (device - step) % n, pieces[device][(device - step) % n]) for device in range(n)]
        for device, piece, holds in moved:
            pieces[(device + 1) % n][piece] = pieces[(device + 1) % n][piece] | holds
            sent += 1
    whole = [[len(piece) == n for piece in mine] for mine in pieces]
    assert all(sum(mine) == 1 for mine in whole)
    n_bytes = 6e9
    assert Wire(1e9, 0.0).all_gather_seconds(n_bytes, n) == pytest.approx(sent / n * (n_bytes / n) / 1e9)
    assert Wire(1e9, 0.0).all_reduce_seconds(n_bytes, n) == pytest.approx(2 * sent / n * (n_bytes / n) / 1e9)


def test_sharding_all_states_sends_half_as_much_again(hardware: HardwareOf) -> None:
    """Rajbhandari et al. 2020, sec. 7: 3 P against 2 P, for one microbatch a replica."""
    work = Work(Shape(24, 2048, 16, 50_257, 2048), 64, 1)
    plain = in_layout(work, Layout(data=64), hardware("h100-80gb"), "")
    sharded = in_layout(work, Layout(data=64, shards="all"), hardware("h100-80gb"), "")
    assert sharded.sent_bytes == pytest.approx(1.5 * plain.sent_bytes)
    assert memory_bytes(work, Layout(data=64, shards="all")) < memory_bytes(work, Layout(data=64, shards="optimizer"))


@pytest.mark.parametrize("devices", [4, 48, 256])
def test_the_best_layout_fits_and_none_of_its_neighbours_is_faster(devices: int, hardware: HardwareOf) -> None:
    kind = hardware("a100-80gb")
    found = best_layout(THIRTEEN, devices, kind)
    assert found is not None
    layout, best = found
    assert layout.devices == devices
    assert best.fits
    for tensor, pipeline in ((1, 1), (1, 4), (2, 2), (4, 1), (2, 8), (8, 1)):
        if devices % (tensor * pipeline) == 0:
            other = Layout(tensor, pipeline, devices // (tensor * pipeline), 1, 1, "optimizer", recompute=True)
            one = in_layout(THIRTEEN, other, kind, "")
            assert best.step_seconds <= one.step_seconds or not one.fits


def test_a_model_too_large_for_the_devices_has_no_layout(hardware: HardwareOf) -> None:
    assert best_layout(THIRTEEN, 1, hardware("a100-80gb")) is None
    assert sharded_layout(THIRTEEN, 1, hardware("a100-80gb")) is None
