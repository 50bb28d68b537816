"""Real small runs whose weights are in a store: however often they stop, they end with the bits of resident ones."""

from pathlib import Path

import pytest

from isoflop.errors import Interrupted
from isoflop.model import weights_sha256
from isoflop.recipe import ModelPlan
from tests.streaming.runs import DISK, HOST, RESIDENT, losses, run, stop_at


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
