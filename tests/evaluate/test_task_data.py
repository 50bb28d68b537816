"""Data sets of tasks: in a folder, in the hub's cache, or told how to fetch. No network is there in any of these."""

import json
from pathlib import Path

import pytest

from isoflop.errors import InputError
from isoflop.evaluate.task_data import At, TaskData

CARD = """---
configs:
- config_name: small
  data_files:
  - split: validation
    path: small/validation.jsonl
---
"""


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub-home" / "hub"


def write_set(folder: Path) -> Path:
    """A copy of a data set's repository, with one configuration."""
    (folder / "small").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "small" / "validation.jsonl").write_text(json.dumps({"question": "?"}) + "\n")
    return folder


@pytest.mark.parametrize("place", ["owner/things", "things", "the_task"])
def test_a_folder_of_data_sets_comes_first(tmp_path: Path, place: str) -> None:
    folder = write_set(tmp_path / "sets" / place)

    assert TaskData(tmp_path / "sets").find("the_task", "owner/things", "small") == At(str(folder), "small")


def test_files_named_by_split_need_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "validation.jsonl").write_text(json.dumps({"question": "?"}) + "\n")

    assert TaskData(tmp_path).find("task", "owner/things", "small") == At(str(tmp_path / "things"), None)


def test_a_snapshot_in_the_hubs_cache_is_read_in_place(hub: Path) -> None:
    repository = hub / "datasets--owner--things"
    snapshot = write_set(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")

    assert TaskData().find("task", "owner/things", "small") == At(str(snapshot), "small")


def test_what_datasets_has_prepared_is_left_to_it(hub: Path) -> None:
    (hub.parent / "datasets" / "owner___my_things").mkdir(parents=True)

    assert TaskData().find("task", "owner/MyThings", "small") is None


def test_what_is_missing_is_told_with_the_command_that_fetches_it() -> None:
    with pytest.raises(InputError) as told:
        TaskData().find("task", "owner/things", "small")

    assert str(told.value).startswith("task: its data set owner/things is not on this machine")
    assert "hf download owner/things --repo-type dataset --local-dir DATA/things" in str(told.value)
    assert "--download" in str(told.value)
    assert "\n" not in str(told.value)


def test_with_download_the_hub_is_asked() -> None:
    assert TaskData(download=True).find("task", "owner/things", "small") is None


@pytest.mark.parametrize("given", [None, "json"])
def test_tasks_that_bring_their_data_are_left_alone(given: str | None) -> None:
    assert TaskData().find("task", given, None) is None


def test_a_folder_that_is_no_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "README.md").write_text("---\nconfigs: 3\n---\n")

    with pytest.raises(InputError, match="things: not a data set that can be read"):
        TaskData(tmp_path).find("task", "owner/things", None)
