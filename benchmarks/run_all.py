"""Every benchmark of speed, one after the other, and one table of what they found.

    uv run --with lightning,psutil,accelerate python benchmarks/run_all.py --nanogpt CHECKOUT --litgpt CHECKOUT
    uv run python benchmarks/run_all.py --show              # the table of the results at hand

The first takes most of an hour on two cores that do nothing else. A benchmark that fails is named, the others go on and
its earlier results stay. The table is that of docs/speed.md.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PROGRAMS = {
    "startup.py": [],
    "memory.py": [],
    "training.py": [],
    "streaming.py": ["111M", "--minutes", "9"],
    "scaling.py": [],
    "data.py": ["--corpus", "corpora/larger", "--gib", "1"],
    "law_speed.py": [],
    "mup_speed.py": [],
    "checkpoints.py": [],
    "load.py": [],
    "studio.py": ["--write"],
}


class Row(NamedTuple):
    """Something measured, a ratio of two things that alternated in one run where it has no unit."""

    what: str
    figure: str
    against: str
    goal: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--litgpt", type=Path, help="a checkout of Lightning-AI/litgpt")
    given = parser.parse_args()
    failed = []
    if not given.show:
        checkouts = {"--nanogpt": given.nanogpt, "--litgpt": given.litgpt}
        peers = [str(part) for option, path in checkouts.items() if path for part in (option, path)]
        for program, arguments in PROGRAMS.items():
            arguments = arguments + (peers if program == "training.py" else [])
            print(f"\n== {program} {' '.join(arguments)}", flush=True)
            if subprocess.run([sys.executable, str(HERE / program), *arguments], check=False).returncode:
                failed.append(program)
    print("\n".join(table()))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def table() -> list[str]:
    """The lines of a Markdown table of all results that lie in benchmarks/results."""
    lines = ["| what | | against | goal |", "| --- | --- | --- | --- |"]
    for name, rows in READERS.items():
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            lines += [f"| {' | '.join(row)} |" for row in rows(json.loads(path.read_text()))]
    return lines


def _startup(found: Any) -> Iterator[Row]:
    python = next(row["median"] for row in found["rows"] if row["command"] == "python")
    for row in found["rows"]:
        if row["goal"] is not None:
            yield Row(row["command"], f"{row['median']:.2f} s", f"Python alone {python:.2f} s", f"{row['goal']:g} s")


def _memory(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        share = row["measured_bytes"] / row["foretold_bytes"]
        yield Row(f"peak memory, {row['shape']}", f"{share:.2f}", "what the plan foretells", "0.9 to 1.1")


def _training(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        peers = {name: one["ours_times"] for name, one in row["runners"].items() if name != "isoflop"}
        if peers:
            best = min(peers, key=lambda name: peers[name])
            yield Row(f"training, {row['shape']}", f"{peers[best]:.2f}", f"the best peer, {best}", "1.3")
        share = row["runners"]["isoflop"]["share_of_peak"]
        goal = "0.6" if row["shape"] == "111M" else ""
        yield Row(f"training, {row['shape']}", f"{share:.2f}", "the bf16 matrix peak", goal)


def _scaling(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        yield Row(f"two systems, {row['shape']}", f"{row['two_against_one']:.2f}", "one system of one core")
        together = f"{row['reproducible_together']:.2f}"
        yield Row(f"fixed-point sums on two, {row['shape']}", together, "fp32 sums", "0.95")


def _data(found: Any) -> Iterator[Row]:
    share = found["preparation"]["share_of_cores_times_tiktoken"]
    yield Row("a corpus of 1 GiB to shards, all cores", f"{share:.2f}", "cores x tiktoken on one", "0.9")
    waiting = found["waiting"]["share"]
    yield Row("waiting for data in training", f"{waiting:.2%}", "the time of its steps")


def _law_speed(found: Any) -> Iterator[Row]:
    yield Row("4,000 bootstrap fits of 240 points", f"{found['ratio']:.2f}", "a SciPy loop with gradients", "5.7")


def _streaming(found: Any) -> Iterator[Row]:
    goals = {"resident": {"111M": "0.95", "111M-stay": "0.95", "590M": "0.9"}}
    for case, row in found["cases"].items():
        for name, one in row["runners"].items():
            if name != "streamed" and one["streamed_times"] is not None:
                goal = goals.get(name, {}).get(case, "" if name == "resident" else "1")
                yield Row(f"streamed from disk, {case}", f"{one['streamed_times']:.2f}", name, goal)


def _mup_speed(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        yield Row(f"muP, width {row['width']}", f"{row['ratio']:.2f}", "the standard parametrisation")


def _checkpoints(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        yield Row(f"saving as training does, {row['model']}", f"{row['share']:.2%}", "the time of its steps")


def _load(found: Any) -> Iterator[Row]:
    lines = f"{found['run']['models']} models, {found['run']['metric_lines'] / 1e6:.0f} million lines"
    yield Row(f"report of {lines}", f"{found['commands']['report']['seconds']:.1f} s", "", "10 s")
    yield Row(f"plan of {found['plan']['sizes']:,} sizes", f"{found['plan']['later']['seconds']:.1f} s", "", "2 s")
    peak = max(one["peak_gib"] for one in found["commands"].values())
    yield Row(f"memory of any command, {lines}", f"{peak:.2f} GiB", "", "2 GiB")
    first, last = found["training"]["after_a_tenth"], found["training"]["at_the_end"]
    grown = last["anonymous_kib"] / first["anonymous_kib"]
    yield Row("memory at the end of a run", f"{grown:.3f}", f"after a tenth of {found['training']['steps']:,} steps")


def _studio(found: Any) -> Iterator[Row]:
    yield Row("studio, until it answers", f"{found['start_seconds']:.2f} s", f"{found['runs']:,} runs in its folder")
    yield Row("studio, listing of all runs", f"{found['listing_seconds']['median']:.2f} s", f"{found['runs']:,} runs")
    for name, one in found["quote_seconds"].items():
        yield Row(f"studio, quote by {name}", f"{one['median']:.2f} s", "")
    if "watchers" in found:
        watchers = f"{found['watchers']['number']} watchers over none"
        yield Row("training that is watched", f"{found['watchers']['ratio']:.2f}", watchers)


READERS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "startup": _startup,
    "memory": _memory,
    "training": _training,
    "streaming": _streaming,
    "scaling": _scaling,
    "data": _data,
    "law_speed": _law_speed,
    "mup_speed": _mup_speed,
    "checkpoints": _checkpoints,
    "load": _load,
    "studio": _studio,
}


if __name__ == "__main__":
    main()
