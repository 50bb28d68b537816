"""`isoflop train` on a login node, to the end: two nodes of a real Slurm train a family, through a preemption."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# One model that is quick, one that lasts some seconds on two busy cores.
FAMILY = """
name = "tiny"
held_out = false
checkpoint_seconds = 1
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
recipe = { tokens = 160_000 }
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
    (tmp_path / "here.toml").write_text(FAMILY)
    return tmp_path


def train(place: Path, family: str, runs: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "isoflop", "train", str(place / family), "--runs", str(place / runs), *options]
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def weights(place: Path, runs: str) -> dict[str, str]:
    results = sorted((place / runs / "tiny" / "models").glob("*/result.json"))
    return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in results}


@pytest.mark.timeout(900)
@pytest.mark.slow  # two starts of two launchers and their workers, and the same family once more without Slurm
def test_a_family_on_two_nodes_is_preempted_and_ends_with_the_right_weights(place: Path, slurm: Any) -> None:
    shown = train(place, "tiny.toml", "runs", "--dry-run")
    assert shown.stdout.startswith("#!/bin/bash\n#SBATCH"), shown.stderr
    assert not (place / "runs").exists()

    done = train(place, "tiny.toml", "runs", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert f"job {job} was submitted before" in train(place, "tiny.toml", "runs").stdout

    metrics = place / "runs" / "tiny" / "models" / "w16" / "metrics.jsonl"
    slurm.wait(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 20, "steps of w16", 200)
    urgent = slurm.ask("sbatch", "--parsable", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait(lambda: slurm.state(urgent) == "COMPLETED", "the urgent job", 200)
    assert not (place / "runs" / "tiny" / "models" / "w16" / "result.json").exists()
    slurm.wait(lambda: slurm.state(job) == "COMPLETED", "the family", 200)

    said = (place / "runs" / "tiny" / "logs" / f"job-{job}.txt").read_text()
    assert "preempted: job" in said
    assert "start 1" in said
    assert "nothing to submit" in train(place, "tiny.toml", "runs").stdout

    alone = train(place, "here.toml", "alone", "--systems", "1")
    assert alone.returncode == 0, alone.stderr
    assert weights(place, "runs") == weights(place, "alone")
    assert len(weights(place, "runs")) == 2


@pytest.mark.slow  # two launchers and their workers start
def test_bad_input_ends_the_job_at_once_with_its_message(place: Path, slurm: Any) -> None:
    (place / "tiny.toml").write_text((FAMILY + CLUSTER).replace("corpus.jsonl", "nowhere.jsonl"))
    job = json.loads(train(place, "tiny.toml", "runs", "--json").stdout)["job"]
    slurm.wait(lambda: slurm.state(job) == "FAILED", "the job's end", 200)
    said = (place / "runs" / "tiny" / "logs" / f"job-{job}.txt").read_text()
    assert "nowhere.jsonl" in said
    assert "ended with exit code 2" in said
