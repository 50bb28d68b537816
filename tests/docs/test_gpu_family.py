"""The program that trains a family on a GPU ends in time, goes on where it was, and keeps what came of it."""

import json
import sys
from pathlib import Path
from time import perf_counter

import pytest

from isoflop.config import load_family

ROOT = Path(__file__).parents[2]
# In isoflop's place: the first call works until it is told to stop, the second has done it all.
PROGRAM = """#!/bin/sh
trap 'kill $!; exit 143' TERM
cd {folder}
if [ ! -e called ]; then touch called; sleep 60 & wait; fi
mkdir tiny && echo "the page" > tiny/report.html && cat outcome.json
"""
VERDICT = {"model": "b", "foretold": 3.5, "measured": 3.4, "error": -0.0286, "half_width": 0.03, "inside_95": True}
RESULT = {"name": "b", "params": 45_000_000, "tokens": 180_000_000, "nats_per_token": 3.4, "bits_per_byte": 1.25}
OUTCOME = {
    "family": "tiny",
    "results": [{**RESULT, "seconds": 200.0, "mfu": 0.4}],
    "forecast": None,
    "verdicts": [VERDICT],
}


def test_it_stops_in_time_goes_on_and_keeps_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_family

    program = tmp_path / "program"
    program.write_text(PROGRAM.format(folder=tmp_path))
    program.chmod(0o755)
    (tmp_path / "outcome.json").write_text(json.dumps(OUTCOME))
    monkeypatch.setattr(sys, "executable", str(program))
    family = gpu_family.tiny_family(tmp_path)
    assert load_family(family).name == "tiny"
    where = (tmp_path, tmp_path / "results")
    assert gpu_family.run(family, "a GPU", 0.0, *where) == 143
    assert "the same command goes on from here" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert gpu_family.run(family, "a GPU", perf_counter() + 100, *where) == 0
    kept = tmp_path / "results" / "tiny"
    assert (kept / "report.html").read_text() == "the page\n"
    assert json.loads((kept / "results.json").read_text())["device"] == "a GPU"
    page = (kept / "README.md").read_text()
    assert "in 2 calls" in page
    assert "| b | 45,000,000 | 180,000,000 | 3.4000 | 1.2500 | 200 | 40% |" in page
    assert "3.5000 nats/token; it came to 3.4000 (-2.86%), inside the 95 % interval of +-3.00%" in page


def test_its_family_can_be_loaded() -> None:
    family = load_family(ROOT / "families" / "pocket-to-45m.toml")
    assert family.sizes is not None
    assert family.sizes.target_params[-1] == 45_000_000
