"""What cannot fit is refused before its first step, and `isoflop plan` says so."""

from collections import namedtuple
from dataclasses import replace

import pytest

from isoflop.config import Family
from isoflop.config.family import Gpt2Tokenizer
from isoflop.data import prepare
from isoflop.errors import InputError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.needs import data_bytes, disk_bytes, memory_bytes, unmet_needs
from isoflop.pipeline.train import train_family, train_models
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


def test_a_store_over_the_host_memory_is_told(family: Family, plan: Plan, folder: RunFolder) -> None:
    model = replace(plan.models[-1], execution="streamed", store="host")
    needed = model.streamed.device_bytes  # any size
    model = replace(model, streamed=replace(model.streamed, host_bytes=needed))

    def lacks(there: int, systems_here: int = 1) -> list[str]:
        machine = replace(plan.machine, host_memory_bytes=there)
        return unmet_needs(family, replace(plan, machine=machine), [model], folder, systems_here)

    assert lacks(needed) == []
    for systems_here, there in ((1, needed - 1), (2, 2 * needed - 1)):
        (lack,) = lacks(there, systems_here)
        assert "w32 needs" in lack
        assert 'leave out streaming.store = "host"' in lack


def test_embeddings_that_have_no_room_in_memory_are_told(family: Family, plan: Plan, folder: RunFolder) -> None:
    model = replace(plan.models[-1], execution="streamed", embeddings_stay=True)
    model = replace(model, streamed=replace(model.streamed, host_bytes=10**9))
    needed = model.streamed.device_bytes + 10**9

    def lacks(there: int, systems_here: int = 1) -> list[str]:
        machine = replace(plan.machine, memory_bytes=there)
        return unmet_needs(family, replace(plan, machine=machine), [model], folder, systems_here)

    assert lacks(needed) == []
    for systems_here, there in ((1, needed - 1), (2, 2 * needed - 1)):
        (lack,) = lacks(there, systems_here)
        assert lack.startswith("w32 needs")
        assert lack.endswith("leave out streaming.embeddings_stay")


def test_systems_on_one_machine_hold_the_weights_each_and_the_moments_together(plan: Plan) -> None:
    model = plan.models[-1]
    alone, two = memory_bytes(model, 1, 1), memory_bytes(model, 2, 2)
    assert two - alone == model.weights_bytes + 8 * model.shape.params
    assert alone == model.weights_bytes + model.optimizer_bytes + model.activation_bytes


def test_checkpoints_over_the_free_disk_are_told_and_what_is_there_counts(
    family: Family, plan: Plan, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(family.data, folder.data, lambda *_: None)
    bytes_of = [12 * model.shape.params for model in plan.models]
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, sum(bytes_of) - 1))
    (lack,) = unmet_needs(family, plan, plan.models, folder)
    assert "KB for the checkpoints of 5 models, " in lack
    old = folder.model("w8") / "checkpoints" / "gen-00000001"
    old.mkdir(parents=True)
    (old / "layer-0.0.safetensors").write_bytes(bytes(1))
    assert unmet_needs(family, plan, plan.models, folder) == []
    kept = [replace(model, keep_checkpoints=2) for model in plan.models]
    assert f"{3 * sum(bytes_of) / 1e6:.1f} MB" in unmet_needs(family, plan, kept, folder)[0]
    longer = [replace(model, seconds=2 * family.checkpoint_seconds) for model in plan.models]
    assert len(unmet_needs(family, plan, longer, folder)) == 1


def test_data_over_the_free_disk_are_refused_before_they_are_prepared(
    family: Family, plan: Plan, folder: RunFolder, heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = family.data.source.stat().st_size  # type: ignore[union-attr]
    foretold = data_bytes(family.data, folder)
    assert foretold == round(0.2 * text) * 2
    # Stated tokens say more than the size of files; so many kinds of them take four bytes each.
    stated = family.data.model_copy(update={"tokens": 1000, "mixture": {"a": 0.5, "b": 3.0}})
    assert data_bytes(stated, folder) == 1000
    gpt2 = Gpt2Tokenizer(kind="gpt2")
    assert data_bytes(family.data.model_copy(update={"tokens": 1000, "tokenizer": gpt2}), folder) == 2000
    free = foretold + disk_bytes(family, plan.models, folder) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, free))
    with pytest.raises(InputError, match=r"needs about .* for the prepared data and .* for the checkpoints of 5 "):
        train_family(family, folder, heard)
    assert not folder.data.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, free + 1))
    (w8,) = train_family(family, folder, heard, only="w8")
    taken = sum(path.stat().st_size for path in folder.data.glob("*.bin"))
    assert foretold <= taken
    assert data_bytes(family.data, folder) == 0
    assert w8.name == "w8"


def test_a_store_on_disk_counts_once_beside_the_checkpoints(family: Family, plan: Plan, folder: RunFolder) -> None:
    streamed = [replace(model, execution="streamed") for model in plan.models]
    stores = [model.streamed.disk_bytes for model in streamed]
    assert disk_bytes(family, streamed, folder) == max(stores) + sum(12 * model.shape.params for model in streamed)
    in_host = [replace(model, store="host") for model in streamed]
    assert disk_bytes(family, in_host, folder) == disk_bytes(family, plan.models, folder)


def test_data_are_repeated_only_for_who_asks_for_it(family: Family, plan: Plan, folder: RunFolder, heard) -> None:
    data = prepare(family.data, folder.data, lambda *_: None)
    held = data.splits.train.tokens
    asked = replace(plan, models=tuple(replace(model, tokens=round(2.31 * held)) for model in plan.models))
    with pytest.raises(InputError, match=r"2\.31 epochs of the data, and data\.epochs allows 1: write epochs = 2\.4 "):
        train_models(family, asked, data, folder, heard)
    assert not (folder.path / "models").exists()
    consenting = family.model_copy(update={"data": family.data.model_copy(update={"epochs": 2.4})})
    assert unmet_needs(consenting, asked, asked.models, folder, train_tokens=held) == []
    assert unmet_needs(family, asked, asked.models, folder) == []  # not known yet
