"""Seconds from a command's call to its end, where nothing is computed: what a user waits for at every call.

    uv run python benchmarks/startup.py [--rounds 21]

The commands take turns, each in a process of its own; one round warms up (bytecode, the measured machine). Medians.
Beside them stand processor time, which a busy machine changes less, and what Python itself takes to start. Writes
benchmarks/results/startup.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

from isoflop.durable import write_json
from isoflop.systems.machine import available_cores, processor_name

RESULTS = Path(__file__).parent / "results" / "startup.json"
POCKET = Path(__file__).parent.parent / "families" / "pocket.toml"
# name: arguments of Python, the most seconds that it may take
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python": (["-c", "pass"], None),
    "isoflop --help": (["-m", "isoflop", "--help"], 0.5),
    "isoflop plan": (["-m", "isoflop", "plan", str(POCKET)], 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    busy: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as place:
        for i in range(given.rounds + 1):
            for name, (arguments, _) in COMMANDS.items():
                wall, processor = taken([sys.executable, *arguments], place)
                if i:
                    seconds[name].append(wall)
                    busy[name].append(processor)
    rows = []
    for name, (_, goal) in COMMANDS.items():
        row = {"command": name, "median": median(seconds[name]), "worst": max(seconds[name]), "goal": goal}
        row["processor_seconds"] = median(busy[name])
        rows.append(row)
        beside = f"{row['processor_seconds']:.2f} s of processor time" + (f", goal {goal} s" if goal else "")
        print(f"{name:16}{row['median']:>7.2f} s, at most {row['worst']:.2f} s, {beside}")
    about = {"date": date.today().isoformat(), "processor": processor_name(), "cores": available_cores()}
    write_json(RESULTS, {**about, "load_average_before": load, "rounds": given.rounds, "rows": rows})


def taken(command: list[str], place: str) -> tuple[float, float]:
    """Seconds from call to end, and of processor time."""
    began = perf_counter()
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall, process.returncode = perf_counter() - began, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
