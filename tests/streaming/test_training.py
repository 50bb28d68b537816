"""Real small runs whose weights are in a store: however often they stop, they end with the bits of resident ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isoflop.errors import Interrupted
from isoflop.model import weights_sha256
from isoflop.recipe import ModelPlan
from tests.streaming.runs import DISK, HOST, RESIDENT, STEPS, losses, run, stop_at


@pytest.mark.parametrize("plan", [DISK, HOST], ids=["disk", "host"])
def test_a_streamed_run_ends_with_the_bits_of_a_resident_one(
    data: Path, tmp_path: Path, plan: ModelPlan, wanted: tuple[str, list[float]]
) -> None:
    trained = run(data, tmp_path, plan)
    assert (weights_sha256(trained.weights), losses(tmp_path)) == wanted
    assert not (tmp_path / "store").exists()


def test_a_run_goes_on_in_any_execution_from_a_checkpoint_of_any_other(
    data: Path, tmp_path: Path, wanted: tuple[str, list[float]]
) -> None:
    plans = [RESIDENT, DISK, HOST, DISK, RESIDENT, DISK]
    for i, plan in enumerate(plans):
        with pytest.raises(Interrupted):
            run(data, tmp_path, plan, stop_at(3 * i + 2))
    assert weights_sha256(run(data, tmp_path, DISK).weights) == wanted[0]
    assert losses(tmp_path) == wanted[1]


@pytest.mark.parametrize("plan", [RESIDENT, DISK, HOST], ids=["resident", "disk", "host"])
def test_checkpoints_that_stay_have_the_bits_of_their_step_to_the_end(
    data: Path, tmp_path: Path, plan: ModelPlan, wanted: tuple[str, list[float]]
) -> None:
    kept = replace(plan, keep_checkpoints=3)
    with pytest.raises(Interrupted):
        run(data, tmp_path, kept, stop_at(kept.kept_steps[1] + 2))
    assert weights_sha256(run(data, tmp_path, kept).weights) == wanted[0]

    there = {int(path.name[4:]) for path in (tmp_path / "checkpoints").glob("gen-*")}
    assert there >= {*kept.kept_steps, STEPS}
    assert len(there) <= 3 + 2
    for step in kept.kept_steps:
        alone = tmp_path / f"to-{step}"
        with pytest.raises(Interrupted):
            run(data, alone, RESIDENT, stop_at(step))
        for file in (alone / "checkpoints" / f"gen-{step:08d}").glob("*.safetensors"):
            state, other = load_file(file), load_file(tmp_path / "checkpoints" / f"gen-{step:08d}" / file.name)
            assert all(torch.equal(state[name], other[name]) for name in state)
