"""Small members train side by side: the bits of one after the other, and no worker is left or lost without a word."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoflop.config import Family
from isoflop.data import Manifest, prepare
from isoflop.model import Lanes
from isoflop.pipeline import RunFolder
from isoflop.pipeline.member import train_member
from isoflop.pipeline.side_by_side import train_side_by_side
from isoflop.recipe import Plan


@pytest.fixture
def data(family: Family, folder: RunFolder) -> Manifest:
    return prepare(family.data, folder.data, lambda *_: None)


def test_side_by_side_gives_the_bits_of_one_after_the_other(
    family: Family, plan: Plan, data: Manifest, folder: RunFolder, heard, tmp_path: Path
) -> None:
    alone = RunFolder(tmp_path / "alone")
    prepare(family.data, alone.data, lambda *_: None)
    together = train_side_by_side(family, plan, plan.ladder, data, folder, heard)
    with Lanes(2) as lanes:
        one_by_one = [train_member(family, plan, model, data, alone, heard, lanes) for model in plan.ladder]
    hashes = [{result.name: result.weights_sha256 for result in results} for results in (together, one_by_one)]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == len(plan.ladder)
    assert [name for name, _ in heard.calls].count("starts") == 2 * len(plan.ladder)


def workers_of(pid: int) -> list[int]:
    """Training processes below a running command."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def running(family_file: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command, with a family that takes a while, once both workers train."""
    text = family_file.read_text().replace("tokens_per_parameter = 1.0", "tokens_per_parameter = 400.0")
    text = text.replace("= 0.1\n\n[recipe]", "= 0.1\nepochs = 400\n\n[recipe]")
    family_file.write_text(text)
    command = [sys.executable, "-m", "isoflop", "train", str(family_file), "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    models = tmp_path / "runs" / "tiny" / "models"
    while process.poll() is None and len(list(models.glob("*/metrics.jsonl"))) < 2:
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def test_a_killed_worker_is_named_and_the_other_saves_its_steps(
    running: "subprocess.Popen[str]", family_file: Path, tmp_path: Path
) -> None:
    os.kill(workers_of(running.pid)[0], signal.SIGKILL)
    _, said = running.communicate(timeout=200)
    assert running.returncode == 1
    assert "was killed by signal 9" in said.splitlines()[-1]
    assert "run the same command to go on" in said.splitlines()[-1]
    assert "Traceback" not in said
    saved = list((tmp_path / "runs" / "tiny" / "models").glob("*/checkpoints/LATEST"))
    assert saved


def test_no_worker_outlives_a_killed_command(running: "subprocess.Popen[str]") -> None:
    workers = workers_of(running.pid)
    assert len(workers) == 2
    running.kill()
    running.wait()
    end = time.monotonic() + 200
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_model_and_exits_with_its_code(
    running: "subprocess.Popen[str]", tmp_path: Path, number: signal.Signals
) -> None:
    running.send_signal(number)
    _, said = running.communicate(timeout=200)
    assert running.returncode == 128 + number
    assert said.splitlines()[-1] == "isoflop: interrupted; everything is saved: run the same command to go on"
    assert "Traceback" not in said
    for model in (tmp_path / "runs" / "tiny" / "models").iterdir():
        steps = len((model / "metrics.jsonl").read_text().splitlines())
        latest = (model / "checkpoints" / "LATEST").read_text().strip()
        manifest = json.loads((model / "checkpoints" / latest / "manifest.json").read_text())
        assert manifest["position"]["steps"] == steps
