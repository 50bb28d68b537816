"""A generation is whole or not there; the newest good one is found; other settings are refused."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isoflop.errors import InputError, WorkError
from isoflop.model import Shard, shards_of
from isoflop.recipe import BatchStage, ModelPlan, Shape
from isoflop.systems.group import ALONE
from isoflop.train.checkpoint import Generation, Position, load_newest, save_generation
from isoflop.train.learner import STATE, Learner

PLAN = ModelPlan(
    name="a",
    size="a",
    held_out=False,
    shape=Shape(1, 16, 2, 300, 8),
    seed=0,
    precision="fp32",
    tokens=800,
    batch_schedule=(BatchStage(0, 10),),
    microbatch_sequences=10,
    steps=10,
    peak_lr=1e-3,
    warmup_tokens=80,
    decay="linear",
    final_lr_fraction=0.1,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    flops=1,
    flops_6nd=1,
    flops_paper=1,
    weights_bytes=1,
    optimizer_bytes=1,
    activation_bytes=1,
    seconds=1.0,
    joules=None,
    price=None,
)


class Holder(Learner):
    """A learner of whom only the state counts."""

    def __init__(self, value: float) -> None:
        self._value = value

    def shard(self, shard: Shard) -> dict[str, torch.Tensor]:
        return {name: torch.full((shard.stop - shard.start,), self._value) for name in STATE}

    def check(self) -> None:
        """It has no other state."""


def position(steps: int) -> Position:
    return Position(steps, steps * 80, 1.0, 1.0, None, 1, False, "cpu")


def save(folder: Path, steps: int) -> None:
    save_generation(folder, PLAN, "d", position(steps), Holder(float(steps)), ALONE)


def load(folder: Path, events: list[str] | None = None) -> Generation | None:
    return load_newest(folder, PLAN, "d", (events if events is not None else []).append)


def test_the_newest_of_two_generations_is_loaded_and_older_ones_go(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    for steps in (1, 2, 10):
        save(tmp_path, steps)
    found = load(tmp_path)
    assert found is not None
    assert found.position == position(10)
    for shard in shards_of(PLAN.shape):
        assert all(
            (part == 10).all() and part.numel() == shard.stop - shard.start for part in found.read(shard).values()
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "gen-00000002", "gen-00000010"]


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "empty", "no manifest", "garbage manifest", "threads", "format"]
)
def test_a_damaged_generation_is_set_aside_and_the_one_before_used(tmp_path: Path, damage: str) -> None:
    for steps in (1, 2):
        save(tmp_path, steps)
    newest = tmp_path / "gen-00000002"
    content = bytearray((newest / "layer-0.0.safetensors").read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        (newest / "layer-0.0.safetensors").write_bytes(content)
    elif damage == "truncate":
        (newest / "layer-0.0.safetensors").write_bytes(content[:-1])
    elif damage == "empty":
        (newest / "layer-0.0.safetensors").write_bytes(b"")
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    elif damage in ("threads", "format"):
        manifest = json.loads((newest / "manifest.json").read_text())
        part = manifest["position"] if damage == "threads" else manifest
        part[damage] += 1
        (newest / "manifest.json").write_text(json.dumps(manifest))
    else:
        (newest / "manifest.json").write_text("{}")
    events: list[str] = []
    found = load(tmp_path, events)
    assert found is not None
    assert found.position.steps == 1
    assert len(events) == 1
    assert "gen-00000002 is damaged" in events[0]


def test_a_format_of_another_version_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("isoflop.train.checkpoint.FORMAT", 99)
        save(tmp_path, 1)
    with pytest.raises(InputError, match=r"format 99, this version reads \d+; go on with the version that wrote it"):
        load(tmp_path)
    assert (tmp_path / "gen-00000001" / "manifest.json").exists()


@pytest.mark.parametrize(
    "latest", ["gen-00000009\n", "", "\x00garbage", None], ids=["dangling", "empty", "garbage", "gone"]
)
def test_the_newest_generation_is_found_whatever_latest_says(tmp_path: Path, latest: str | None) -> None:
    for steps in (1, 2):
        save(tmp_path, steps)
    (tmp_path / "LATEST").unlink()
    if latest is not None:
        (tmp_path / "LATEST").write_text(latest)
    events: list[str] = []
    found = load(tmp_path, events)
    assert found is not None
    assert (found.steps, events) == (2, [])


def test_killed_at_any_system_call_of_a_save_the_newest_committed_generation_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.train.killed_saves", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = {one["call"].split()[0] for one in calls}
    assert kinds >= {"fsync", "replace", "unlink", "rmdir"}
    committed = False
    for one in calls:
        assert one["steps"] in ((3,) if committed else (2, 3)), one
        assert one["events"] == [], one
        assert one["left"] == ["LATEST", f"gen-{one['steps']:08d}", "gen-00000004"], one
        committed = one["steps"] == 3
    assert committed


def test_other_settings_and_other_data_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(InputError, match=r"peak_lr was 0.001 and is 0.002; .* isoflop train --accept-changes"):
        load_newest(tmp_path, replace(PLAN, peak_lr=2e-3), "d", print)
    with pytest.raises(InputError, match="data"):
        load_newest(tmp_path, PLAN, "other", print)
    assert load_newest(tmp_path, replace(PLAN, name="b", seconds=9.0), "d", print) is not None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_full_or_failing_disk_keeps_the_former_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WorkError, match=os.strerror(number)):
            save(tmp_path, 2)
    found = load(tmp_path)
    assert found is not None
    assert found.position.steps == 1
    assert not list(tmp_path.glob("*.part"))
