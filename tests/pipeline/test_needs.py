"""What cannot fit is refused before its first step, and `isoflop plan` says so."""

from collections import namedtuple
from dataclasses import replace

import pytest

from isoflop.config import Family
from isoflop.data import prepare
from isoflop.errors import InputError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.needs import memory_bytes, unmet_needs
from isoflop.pipeline.train import train_models
from isoflop.recipe import Plan

Usage = namedtuple("Usage", "total used free")


def test_a_model_over_the_memory_is_refused_by_name_before_any_step(
    family: Family, plan: Plan, folder: RunFolder, heard
) -> None:
    largest = plan.models[-1]
    small = replace(plan, machine=replace(plan.machine, memory_bytes=memory_bytes(largest, 1, 1) - 1))
    data = prepare(family.data, folder.data, lambda *_: None)
    with pytest.raises(InputError, match=r"w32 needs .* of memory to train, this machine has .*; train a smaller"):
        train_models(family, small, data, folder, heard)
    assert not (folder.path / "models").exists()
    assert (
        unmet_needs(family, replace(plan, machine=replace(plan.machine, memory_bytes=2**40)), plan.models, folder) == []
    )


def test_systems_on_one_machine_hold_the_weights_each_and_the_moments_together(plan: Plan) -> None:
    model = plan.models[-1]
    alone, two = memory_bytes(model, 1, 1), memory_bytes(model, 2, 2)
    assert two - alone == model.weights_bytes + 8 * model.shape.params
    assert alone == model.weights_bytes + model.optimizer_bytes + model.activation_bytes


def test_checkpoints_over_the_free_disk_are_told_and_what_is_there_counts(
    family: Family, plan: Plan, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of = [12 * model.shape.params for model in plan.models]
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, sum(bytes_of) - 1))
    (lack,) = unmet_needs(family, plan, plan.models, folder)
    assert "the checkpoints of 5 models need" in lack
    kept = folder.model("w8") / "checkpoints" / "gen-00000001"
    kept.mkdir(parents=True)
    (kept / "layer-0.0.safetensors").write_bytes(bytes(1))
    assert unmet_needs(family, plan, plan.models, folder) == []
    longer = [replace(model, seconds=2 * family.checkpoint_seconds) for model in plan.models]
    assert len(unmet_needs(family, plan, longer, folder)) == 1
