"""`isoflop tune` from outside: stopped in any way it goes on, and the family file takes what it found."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoflop.cli.terminal import Terminal
from isoflop.config import load_family
from isoflop.pipeline import RunFolder
from isoflop.pipeline.tune import tune_family

TRIALS = 3


@pytest.fixture
def mup_file(family_file: Path) -> Path:
    """A family under muP whose smallest model trains for a moment."""
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    family_file.with_name("corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    text = family_file.read_text().replace("corpus.txt", "corpus.jsonl")
    recipe = "tokens = 30_000\nbatch_schedule = [{ from_tokens = 0, sequences = 8 }]\nbase_width = 8"
    text = text.replace("tokens_per_parameter = 1.0", recipe)
    # Killed, it may lose a fifth of a second.
    family_file.write_text('parametrisation = "mup"\ncheckpoint_seconds = 0.2\n' + text)
    return family_file


def stopped(family_file: Path, cache_folder: Path, trial: int, signal_number: int) -> int:
    """The exit code of `isoflop tune`, sent a signal as soon as a trial has twenty steps more than before."""
    steps = family_file.parent / "runs" / "tiny" / "tune" / "trials" / f"{trial:04d}" / "metrics.jsonl"
    before = _lines(steps)
    process = subprocess.Popen(
        [sys.executable, "-m", "isoflop", "tune", family_file.name, "--trials", str(TRIALS)],
        cwd=family_file.parent,
        env={**os.environ, "XDG_CACHE_HOME": str(cache_folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while _lines(steps) < before + 20:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_number)
    process.communicate(timeout=200)
    return process.returncode


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_stopped_in_any_way_it_goes_on_and_the_family_file_takes_what_it_found(
    isoflop, mup_file: Path, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopped(mup_file, cache_folder, trial=0, signal_number=signal.SIGINT) == 130
    assert stopped(mup_file, cache_folder, trial=1, signal_number=signal.SIGKILL) == -signal.SIGKILL
    done = isoflop("tune", "tiny.toml", "--trials", str(TRIALS), "--json")
    assert done.returncode == 0
    assert "trial 0: " not in done.stderr  # it was ended by the run that was killed in trial 1
    found, folder = json.loads(done.stdout), tmp_path / "runs" / "tiny" / "tune"
    assert found == json.loads((folder / "tune.json").read_text())
    assert [_lines(folder / "trials" / f"{i:04d}" / "metrics.jsonl") for i in range(TRIALS)] == [117] * TRIALS
    assert not list(folder.glob("trials/*/checkpoints"))

    # The same without any interruption, in this process.
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder))
    with Terminal(quiet=True) as terminal:
        whole = tune_family(load_family(mup_file), RunFolder(tmp_path / "whole" / "tiny"), terminal, TRIALS)
    assert [vars(trial) for trial in whole.trials] == found["trials"]
    for name in ("tuned.toml", "tune.svg"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()

    best, text = found["best"]["values"], mup_file.read_text()
    mup_file.write_text('tuned = "runs/tiny/tune/tuned.toml"\n' + text)
    models = json.loads(isoflop("plan", "tiny.toml", "--json").stdout)["models"]
    for model in models:
        keys = {"peak_lr": "peak_lr", "init_std": "embedding_init_std", "embedding_multiplier": "embedding_multiplier"}
        assert {key: model[shown] for key, shown in keys.items()} == best
    assert [model["hidden_lr_multiplier"] for model in models] == [8 / 16, 8 / 24]


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        (None, "found.toml; isoflop tune tiny.toml makes it"),
        ('parametrisation = "standard"\nbase_width = 8', "parametrisation = mup, but "),
        ('parametrisation = "mup"\nbase_width = 256', "recipe.base_width = 8, but "),
        ('parametrisation = "mup"\nbase_width = 8\npeek_lr = 1', "did you mean 'peak_lr'?"),
    ],
    ids=["missing", "of another parametrisation", "of another width", "mistyped"],
)
def test_values_that_do_not_fit_are_refused_in_one_line(isoflop, mup_file: Path, tuned: str | None, said: str) -> None:
    mup_file.write_text('tuned = "found.toml"\n' + mup_file.read_text())
    if tuned is not None:
        values = "\npeak_lr = 1e-2\ninit_std = 0.1\nembedding_multiplier = 4.0\n"
        mup_file.with_name("found.toml").write_text(tuned + values)
    refused = isoflop("plan", "tiny.toml")
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
    assert said in refused.stderr
