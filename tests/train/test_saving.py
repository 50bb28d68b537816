"""Checkpoints are written beside the training, of a state that does not change meanwhile."""

import threading
from pathlib import Path
from typing import Any

import pytest

from isoflop.errors import WorkError
from isoflop.model import weights
from isoflop.recipe import footprint
from isoflop.train import loop
from isoflop.train.checkpoint import Position, save_generation
from isoflop.train.learner import STATE, Learner
from isoflop.train.saving import Saving
from tests.train.test_resume import PLAN, data, run

__all__ = ["data"]  # the fixture
POSITION = Position(1, 80, 1.0, 1.0, None, 1, False, "cpu")


def test_the_next_step_computes_while_one_is_saved_and_its_update_waits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, saved = [threading.Event() for _ in range(PLAN.steps + 1)], []
    gradients, update = Learner.gradients, Learner.update

    def next_gradients(self: Learner, *given: Any) -> float:
        next(event for event in begun if not event.is_set()).set()
        return gradients(self, *given)

    def next_update(self: Learner, *given: Any) -> None:
        told.append("update")
        update(self, *given)

    def slow_save(folder: Path, plan: Any, sha256: str, position: Position, learner: Any, *rest: Any) -> None:
        before = learner.weights.flat.clone()
        if position.steps < PLAN.steps:
            assert begun[position.steps].wait(60)
        save_generation(folder, plan, sha256, position, learner, *rest)
        told.append(position.steps)
        saved.append(bool((before == learner.weights.flat).all()))

    told: list[object] = []
    monkeypatch.setattr(Learner, "gradients", next_gradients)
    monkeypatch.setattr(Learner, "update", next_update)
    monkeypatch.setattr(loop, "save_generation", slow_save)
    run(data, tmp_path, checkpoint_seconds=0.0)
    assert len(saved) == PLAN.steps
    assert all(saved)
    # What was saved after a step is there before the next one's update.
    assert [told[:at].count("update") for at, one in enumerate(told) if one != "update"] == [
        one for one in told if one != "update"
    ]


def test_what_is_on_its_way_to_a_checkpoint_is_in_the_plan() -> None:
    assert (weights.SHARD, 4 * len(STATE)) == (footprint.SHARD, footprint.STATE_BYTES)


@pytest.mark.parametrize("beside", [True, False])
def test_a_save_that_fails_is_told_by_whoever_settles_it_once(beside: bool) -> None:
    def full(position: Position) -> None:
        raise WorkError(f"step {position.steps}: disk full")

    saving = Saving(full, beside)
    if beside:
        saving.begin(POSITION)
    with pytest.raises(WorkError, match="step 1: disk full"):
        saving.settle() if beside else saving.begin(POSITION)
    saving.settle()
