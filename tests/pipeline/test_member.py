"""A trained model is safe before anything else is done with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.config import Family
from isoflop.data import prepare
from isoflop.model import Lanes, mapped, weights_sha256
from isoflop.pipeline import RunFolder
from isoflop.pipeline.member import train_member
from isoflop.pipeline.weights import finished_weights
from isoflop.recipe import Plan, plan_family
from tests.pipeline.conftest import MACHINE


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


def test_of_streamed_weights_no_more_than_a_layer_is_taken_into_memory_at_the_end(
    family: Family, folder: RunFolder, heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family.model_copy(update={"execution": "streamed", "precision": "bf16"})
    plan = plan_family(family, MACHINE)
    data, model = prepare(family.data, folder.data, lambda *_: None), plan.models[0]
    assert model.on_disk
    files: list[tuple[str, int]] = []

    def kept(place: str) -> Callable[..., Tensor]:
        def in_file(folder: Path, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
            files.append((place, count * dtype.itemsize // model.shape.params))
            return mapped(folder, count, dtype)

        return in_file

    monkeypatch.setattr("isoflop.train.streamed.mapped", kept("training"))
    monkeypatch.setattr("isoflop.evaluate.held_out.mapped", kept("held-out loss"))
    monkeypatch.setattr("isoflop.model.mapped", kept("release"))
    with Lanes(1) as lanes:
        result = train_member(family, plan, model, data, folder, heard, lanes)
    weights = finished_weights(model, folder, heard)
    assert weights_sha256(weights) == result.weights_sha256
    assert files == [("training", 4), ("held-out loss", 2), ("release", 4)]
    assert not list(folder.model(model.name).glob("mapped-*"))


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
