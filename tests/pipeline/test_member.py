"""A trained model is safe before anything else is done with it."""

from collections.abc import Callable
from typing import Any

import pytest

from isoflop.config import Family
from isoflop.data import prepare
from isoflop.model import Lanes
from isoflop.pipeline import RunFolder
from isoflop.pipeline.member import train_member, train_part
from isoflop.recipe import Plan


@pytest.mark.parametrize(("neighbours", "costs"), [(1, 1.0), (4, 0.25)])
def test_systems_that_share_a_processor_cost_together_what_one_on_it_does(
    family: Family, plan: Plan, folder: RunFolder, heard, monkeypatch: pytest.MonkeyPatch, neighbours: int, costs: float
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("isoflop.train.train", lambda *_, **options: asked.update(options))
    with Lanes(1) as lanes:
        train_part(family, plan, plan.models[0], folder, heard, lanes, 1.0, neighbours=neighbours)

    assert asked["system_share"] == costs


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


@pytest.mark.parametrize("what", ["isoflop.evaluate.held_out_loss", "isoflop.pipeline.member.write_result"])
def test_what_fails_after_training_costs_no_step(
    family: Family, plan: Plan, folder: RunFolder, heard, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    data, model = prepare(family.data, folder.data, lambda *_: None), plan.models[0]
    with Lanes(1) as lanes:
        with monkeypatch.context() as patch:
            patch.setattr(what, raising(MemoryError("no more")))
            with pytest.raises(MemoryError):
                train_member(family, plan, model, data, folder, heard, lanes)
        latest = (folder.model("w8") / "checkpoints" / "LATEST").read_text().strip()
        assert latest == f"gen-{model.steps:08d}"
        metrics = (folder.model("w8") / "metrics.jsonl").read_bytes()
        heard.calls.clear()
        assert train_member(family, plan, model, data, folder, heard, lanes).steps == model.steps
    assert "step" not in heard.names()
    assert (folder.model("w8") / "metrics.jsonl").read_bytes() == metrics
