"""docs/speed.md shows what the kept results of the benchmarks say."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "speed.md").read_text()


def test_its_last_table_is_that_of_run_all() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "run_all.py"), "--show"]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout in DOCS


def test_its_first_table_is_that_of_the_training_benchmark() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())["rows"]
    for row in rows:
        for name, one in row["runners"].items():
            ours_times = f"{one['ours_times']:.2f}" if name != "isoflop" else ""
            cells = [f"{one['tokens_per_second']:,.0f}", f"{100 * one['share_of_peak']:.0f} %", ours_times]
            cells += [f"{one['peak_bytes'] / 1e9:.2f} GB", f"{one['seconds_to_first_step']:.0f} s"]
            assert "| " + " | ".join(cells).replace("|  |", "| |") in DOCS
