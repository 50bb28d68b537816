"""`isoflop train` on a login node, to the end: two nodes of a real Slurm train a family, through a preemption."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import load_family
from isoflop.pipeline import RunFolder, train_family
from isoflop.pipeline.cluster import submit_family
from tests.held import Hold
from tests.pipeline.conftest import Heard

# Where the systems wait for what a test does to them: in the middle of the second of two models.
PLACE = "w16 step 21"
FAMILY = """
name = "tiny"
held_out = false
checkpoint_seconds = 0.1
systems = 2

[data]
source = "corpus.jsonl"
licence = "CC0-1.0"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 32
epochs = 5

[recipe]
batch_schedule = [{ from_tokens = 0, sequences = 10 }]
microbatch_tokens = 64

[[models]]
name = "w8"
n_layers = 1
d_model = 8
n_heads = 2
recipe = { tokens = 6_400 }

[[models]]
name = "w16"
n_layers = 2
d_model = 16
n_heads = 2
recipe = { tokens = 12_800 }
"""
CLUSTER = """
[cluster]
kind = "slurm"
partition = "all"
time_limit = "10:00"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "tiny.toml").write_text(FAMILY + CLUSTER)
    (tmp_path / "here.toml").write_text(FAMILY.replace("systems = 2", "systems = 1"))
    return tmp_path


def train(place: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    isoflop = [sys.executable, "-m", "isoflop", "train", str(place / "tiny.toml"), "--runs", str(place / "runs")]
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"}
    return subprocess.run([*isoflop, *options], env=environment, capture_output=True, text=True, timeout=200)


def submit(place: Path) -> str:
    """What the command says once it has submitted, or not."""
    return str(submit_family(load_family(place / "tiny.toml"), place / "tiny.toml", RunFolder(place / "runs" / "tiny")))


def weights(place: Path, runs: str) -> dict[str, str]:
    results = sorted((place / runs / "tiny" / "models").glob("*/result.json"))
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in results}


@pytest.fixture
def alone(place: Path) -> Any:
    """The weights that one system alone ends with."""
    for model in ("w8", "w16"):
        folder = RunFolder(place / "alone" / "tiny")
        train_family(load_family(place / "here.toml"), folder, Heard(), model)  # type: ignore[arg-type]
    return weights(place, "alone")


@pytest.mark.timeout(900)
@pytest.mark.slow  # two starts of two launchers and their workers
def test_a_family_on_two_nodes_is_preempted_and_ends_with_the_right_weights(
    place: Path, slurm: Any, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold(place)
    hold.at(PLACE)
    monkeypatch.setenv("PYTHONPATH", hold.environment["PYTHONPATH"])
    done = train(place, "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert f"job {job} was submitted before" in submit(place)

    slurm.wait(lambda: hold.there, "a step of w16", 200)
    urgent = slurm.ask("sbatch", "--parsable", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait(lambda: slurm.state(urgent) == "COMPLETED", "the urgent job", 200)
    assert not (place / "runs" / "tiny" / "models" / "w16" / "result.json").exists()
    slurm.wait(lambda: slurm.state(job) == "COMPLETED", "the family", 200)

    said = (place / "runs" / "tiny" / "logs" / f"job-{job}.txt").read_text()
    assert "preempted: job" in said
    assert "start 1" in said
    assert "nothing to submit" in submit(place)

    assert weights(place, "runs") == alone
    assert len(alone) == 2


def test_a_dry_run_shows_the_job_and_leaves_nothing(place: Path) -> None:
    before = sorted(place.iterdir())
    shown = train(place, "--dry-run")
    assert shown.stdout.startswith("#!/bin/bash\n#SBATCH"), shown.stderr
    assert sorted(place.iterdir()) == before


@pytest.mark.slow  # two launchers and their workers start
def test_bad_input_ends_the_job_at_once_with_its_message(place: Path, slurm: Any) -> None:
    (place / "tiny.toml").write_text((FAMILY + CLUSTER).replace("corpus.jsonl", "nowhere.jsonl"))
    job = re.search(r"job (\d+) submitted", submit(place))[1]  # type: ignore[index]
    slurm.wait(lambda: slurm.state(job) == "FAILED", "the job's end", 200)
    said = (place / "runs" / "tiny" / "logs" / f"job-{job}.txt").read_text()
    assert "nowhere.jsonl" in said
    assert "ended with exit code 2" in said
