"""Kills, full disks and damaged files: the weights of an undisturbed run, or a refusal that names the file."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from isoflop.errors import InputError, Interrupted, WorkError
from isoflop.model import Shard, weights_sha256
from isoflop.recipe import ModelPlan
from isoflop.streaming.disk import DiskStore
from isoflop.streaming.store import Window
from isoflop.train import Step
from isoflop.train.learners import discard_store
from tests.streaming.runs import DISK, RESIDENT, STAYS, losses, run, stop_at

ROOT = Path(__file__).parents[2]


def killed(data: Path, folder: Path, seed: int, kinds: int, *more: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.streaming.killed", str(data), str(folder), str(seed), str(kinds), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_killed_at_any_kind_of_system_call_it_goes_on_to_the_same_weights_in_either_execution(
    data: Path, tmp_path: Path
) -> None:
    undisturbed, *found = killed(data, tmp_path, seed=2, kinds=100)
    assert len(found) > 20
    for one in found:
        assert (one["weights"], one["losses"]) == (undisturbed["weights"], undisturbed["losses"]), one["at"]


def test_killed_while_the_embeddings_stay_in_memory_it_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    undisturbed, *found = killed(data, tmp_path, 5, 12, "stays")
    assert len(found) == 12
    for one in found:
        assert (one["weights"], one["losses"]) == (undisturbed["weights"], undisturbed["losses"]), one["at"]


class CrashError(Exception):
    """Ends a run as a crash would: without a checkpoint."""


def crash_at(step: int) -> Callable[[Step], None]:
    def on_step(one: Step) -> None:
        if one.step == step:
            raise CrashError

    return on_step


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after its fourth step, and has no checkpoint."""
    folder = tmp_path_factory.mktemp("begun") / "a"
    with pytest.raises(CrashError):
        run(data, folder, DISK, crash_at(4))
    return folder


@pytest.fixture(scope="module")
def crashed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its second step, and crashed after its sixth."""
    folder = tmp_path_factory.mktemp("crashed") / "a"
    with pytest.raises(Interrupted):
        run(data, folder, DISK, stop_at(2))
    with pytest.raises(CrashError):
        run(data, folder, DISK, crash_at(6))
    return folder


def copied(run_folder: Path, into: Path) -> Path:
    """A copy of the run in `into`; lines of metrics hold in a folder of that name alone."""
    return Path(shutil.copytree(run_folder, into / run_folder.name))


# Of the file of a shard: its header, weights, moments; `-1` is the last byte.
PLACES = [20, 4096 + 1000, 4096 + 20_000, -1]


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_is_refused_with_the_file_named(data: Path, begun: Path, tmp_path: Path, place: int) -> None:
    folder = copied(begun, tmp_path)
    (path,) = (folder / "store").glob("layer-1.0.step-*")
    flip(path, place)
    with pytest.raises(WorkError, match=rf"{path}: damaged .*no checkpoint.*remove {folder / 'store'}"):
        run(data, folder, DISK)


@pytest.mark.parametrize(
    "damage",
    [
        "flipped",
        "cut off",
        "gone",
        "a folder",
        "journal",
        "no journal",
        "journal a folder",
        "another layer's",
        "a checkpoint's",
    ],
)
def test_with_an_earlier_checkpoint_a_damaged_store_is_set_aside(
    data: Path, crashed: Path, tmp_path: Path, damage: str, wanted: tuple[str, list[float]]
) -> None:
    folder = copied(crashed, tmp_path)
    (path,) = (folder / "store").glob("embedding.0.step-*")
    if "journal" in damage:
        path = folder / "store" / "journal.json"
    if damage == "cut off":
        os.truncate(path, path.stat().st_size - 1)
    elif damage in ("gone", "no journal"):
        path.unlink()
    elif "a folder" in damage:  # what the disk says when it is asked to read it
        path.unlink()
        path.mkdir()
    elif damage == "a checkpoint's":
        path.write_bytes((folder / "checkpoints" / "gen-00000002" / "embedding.0.safetensors").read_bytes())
    elif damage == "another layer's":
        (path,) = (folder / "store").glob("layer-1.0.step-*")
        path.write_bytes(path.with_name(path.name.replace("layer-1", "layer-0")).read_bytes())
    else:
        flip(path, 50)
    events: list[str] = []
    trained = run(data, folder, DISK, on_event=events.append)
    assert (weights_sha256(trained.weights), losses(folder)) == wanted
    assert any(str(path) in event and "going back to the last checkpoint" in event for event in events)


@pytest.mark.parametrize("damage", ["gone", "a folder"])
def test_without_journal_and_checkpoint_a_store_that_has_made_steps_is_kept_and_refused(
    data: Path, begun: Path, tmp_path: Path, damage: str
) -> None:
    folder = copied(begun, tmp_path)
    journal = folder / "store" / "journal.json"
    journal.unlink()
    if damage == "a folder":
        journal.mkdir()
    before = sorted(path.name for path in (folder / "store").iterdir())
    with pytest.raises(WorkError, match=rf"^{journal}: damaged .*no checkpoint.*remove {folder / 'store'}"):
        run(data, folder, DISK)
    assert sorted(path.name for path in (folder / "store").iterdir()) == before


@pytest.mark.parametrize("after", [None, 2])
def test_a_store_from_before_its_first_journal_goes_without_a_word(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int | None, wanted: tuple[str, list[float]]
) -> None:
    if after is not None:
        with pytest.raises(Interrupted):
            run(data, tmp_path, DISK, stop_at(after))
    with monkeypatch.context() as patched:
        patched.setattr("isoflop.train.journal.Journal.write", _crash)
        with pytest.raises(CrashError):
            run(data, tmp_path, DISK)
    assert list((tmp_path / "store").glob("*.step-*"))
    events: list[str] = []
    assert weights_sha256(run(data, tmp_path, DISK, on_event=events.append).weights) == wanted[0]
    assert not [event for event in events if "store" in event]
    assert not list(tmp_path.glob("store*"))


def _crash(*_: object) -> None:
    raise CrashError


def test_a_kill_while_a_store_is_removed_leaves_nothing_in_the_way(
    data: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, list[float]]
) -> None:
    """As when the answer to a spike is to begin anew: nothing of that store counts any more."""
    folder = copied(begun, tmp_path)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / "journal.json").unlink()
            raise CrashError

    with monkeypatch.context() as patched:
        patched.setattr("isoflop.train.learners.shutil.rmtree", killed)
        with pytest.raises(CrashError):
            discard_store(folder / "store")
    assert weights_sha256(run(data, folder, RESIDENT).weights) == wanted[0]
    assert not list(folder.glob("store*"))


def test_a_file_where_the_store_belongs_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("notes")
    with pytest.raises(WorkError, match=rf"^{tmp_path / 'store'}: a file, where .* move it away and run again$"):
        run(data, tmp_path, DISK)
    assert (tmp_path / "store").read_text() == "notes"


def test_an_update_that_came_to_some_layers_only_is_made_whole(
    data: Path, tmp_path: Path, wanted: tuple[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = DiskStore.commit

    def failing(store: DiskStore, shard: Shard, step: int) -> None:
        if step == 5 and shard.name == "layer-1.0":
            raise CrashError
        commit(store, shard, step)

    for gradient in ("", "flipped", "another layer's"):
        monkeypatch.setattr(DiskStore, "commit", failing)
        folder = tmp_path / f"of {gradient}"
        with pytest.raises(CrashError):
            run(data, folder, DISK)
        monkeypatch.undo()
        steps = {path.name.split(".")[0]: path.name[-20:-12] for path in (folder / "store").glob("*.step-*")}
        assert (steps["layer-0"], steps["layer-1"]) == ("00000005", "00000004")
        if gradient:
            sums = folder / "store" / "layer-1.0.sums"
            if gradient == "flipped":
                flip(sums, 4096 + 7)
            else:
                sums.write_bytes((folder / "store" / "layer-0.0.sums").read_bytes())
            with pytest.raises(WorkError, match=r"layer-1\.0\.sums: damaged .*no checkpoint"):
                run(data, folder, DISK)
        else:
            assert weights_sha256(run(data, folder, RESIDENT).weights) == wanted[0]
            assert losses(folder) == wanted[1]


def test_embeddings_that_stay_in_memory_are_last_on_the_disk_and_lose_nothing(
    data: Path, tmp_path: Path, wanted: tuple[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = DiskStore.commit

    def failing(store: DiskStore, shard: Shard, step: int) -> None:
        if step == 5 and shard.name == "embedding.0":
            raise CrashError
        commit(store, shard, step)

    monkeypatch.setattr(DiskStore, "commit", failing)
    with pytest.raises(CrashError):
        run(data, tmp_path, STAYS)
    monkeypatch.undo()
    steps = {path.name.split(".")[0]: path.name[-20:-12] for path in (tmp_path / "store").glob("*.step-*")}
    assert (steps["embedding"], steps["layer-1"]) == ("00000004", "00000005")
    assert not list((tmp_path / "store").glob("embedding.*.image"))
    assert weights_sha256(run(data, tmp_path, STAYS).weights) == wanted[0]
    assert losses(tmp_path) == wanted[1]


def test_a_resident_runs_file_is_no_state_of_a_store(
    data: Path, tmp_path: Path, wanted: tuple[str, list[float]]
) -> None:
    with pytest.raises(Interrupted):
        run(data, tmp_path, RESIDENT, stop_at(2))
    begun = tmp_path / "checkpoints" / "gen-00000002" / "layer-1.0.safetensors"
    unsealed = begun.read_bytes()
    with pytest.raises(CrashError):
        run(data, tmp_path, DISK, crash_at(5))
    (path,) = (tmp_path / "store").glob("layer-1.0.step-*")
    path.write_bytes(unsealed)
    events: list[str] = []
    assert weights_sha256(run(data, tmp_path, DISK, on_event=events.append).weights) == wanted[0]
    assert any(f"{path}: damaged" in event for event in events)


def test_a_store_of_another_model_is_refused(data: Path, begun: Path) -> None:
    with pytest.raises(
        InputError,
        match=rf"{begun / 'store'}: trained with other settings: seed was 3 and is 4; .* another --runs folder$",
    ):
        run(data, begun, replace(DISK, seed=4))


@pytest.mark.parametrize("plan", [DISK, STAYS], ids=["disk", "embeddings stay"])
def test_a_full_disk_ends_the_run_in_one_line_and_costs_nothing(
    data: Path, tmp_path: Path, wanted: tuple[str, list[float]], monkeypatch: pytest.MonkeyPatch, plan: ModelPlan
) -> None:
    write = os.pwritev
    left = [200]

    def full(file: int, content: list[memoryview], start: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content, start)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(WorkError, match=r"store.*cannot write \(No space left.*free some space and run again"):
        run(data, tmp_path, plan)
    monkeypatch.setattr(os, "pwritev", write)
    assert weights_sha256(run(data, tmp_path, plan).weights) == wanted[0]
    assert losses(tmp_path) == wanted[1]


def test_an_image_that_changed_on_the_disk_is_noticed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = DiskStore.commit

    def flipping(store: DiskStore, shard: Shard, step: int) -> None:
        commit(store, shard, step)
        if step == 3 and shard.name == "layer-0.0":
            flip(tmp_path / "store" / "layer-0.0.image", 77)

    monkeypatch.setattr(DiskStore, "commit", flipping)
    with pytest.raises(WorkError, match=r"layer-0\.0\.image: the store is damaged .*checksum"):
        run(data, tmp_path, DISK)


def test_sums_that_changed_on_the_disk_are_noticed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = DiskStore.sums

    def flipping(store: DiskStore, shard: Shard, window: Window) -> Tensor:
        if shard.name == "layer-0.0":
            path = tmp_path / "store" / "layer-0.0.sums"
            flip(path, path.stat().st_size // 2)
        return sums(store, shard, window)

    monkeypatch.setattr(DiskStore, "sums", flipping)
    with pytest.raises(WorkError, match=r"layer-0\.0\.sums: the store is damaged .*sums of gradients"):
        run(data, tmp_path, DISK)
