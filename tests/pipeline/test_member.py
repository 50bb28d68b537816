"""A trained model is safe before anything else is done with it."""

from collections.abc import Callable
from typing import Any

import pytest

from isoflop.config import Family
from isoflop.data import prepare
from isoflop.model import Lanes
from isoflop.pipeline import RunFolder
from isoflop.pipeline.member import train_member
from isoflop.recipe import Plan


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
