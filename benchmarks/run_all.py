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
    "training.py": [],
    "streaming.py": ["111M", "--minutes", "9"],
    "scaling.py": [],
    "data.py": ["--corpus", "corpora/larger", "--gib", "1"],
    "law_speed.py": [],
    "mup_speed.py": [],
    "load.py": [],
}


class Row(NamedTuple):
    """A ratio of two things that alternated in one run."""

    what: str
    ratio: float
    against: str
    goal: str


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
    lines = ["| what | ratio | against | goal |", "| --- | --- | --- | --- |"]
    for name, rows in READERS.items():
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            lines += [
                f"| {r.what} | {r.ratio:.2f} | {r.against} | {r.goal} |" for r in rows(json.loads(path.read_text()))
            ]
    return lines


def _training(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        peers = {name: one["ours_times"] for name, one in row["runners"].items() if name != "isoflop"}
        if peers:
            best = min(peers, key=lambda name: peers[name])
            yield Row(f"training, {row['shape']}", peers[best], f"the best peer, {best}", "1.3")
        share = row["runners"]["isoflop"]["share_of_peak"]
        goal = "0.6" if row["shape"] == "111M" else ""
        yield Row(f"training, {row['shape']}", share, "the bf16 matrix peak", goal)


def _scaling(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        yield Row(f"two systems, {row['shape']}", row["two_against_one"], "one system of one core", "")
        yield Row(f"fixed-point sums on two, {row['shape']}", row["reproducible_together"], "fp32 sums", "0.95")


def _data(found: Any) -> Iterator[Row]:
    share = found["preparation"]["share_of_cores_times_tiktoken"]
    yield Row("a corpus of 1 GiB to shards, all cores", share, "cores x tiktoken on one", "0.9")


def _law_speed(found: Any) -> Iterator[Row]:
    yield Row("4,000 bootstrap fits of 240 points", found["ratio"], "a SciPy loop with gradients", "5.7")


def _streaming(found: Any) -> Iterator[Row]:
    goals = {"resident": {"111M": "0.95", "590M": "0.9"}}
    for case, row in found["cases"].items():
        for name, one in row["runners"].items():
            if name != "streamed" and one["streamed_times"] is not None:
                goal = goals.get(name, {}).get(case, "" if name == "resident" else "1")
                yield Row(f"streamed from disk, {case}", one["streamed_times"], name, goal)


def _mup_speed(found: Any) -> Iterator[Row]:
    for row in found["rows"]:
        yield Row(f"muP, width {row['width']}", row["ratio"], "the standard parametrisation", "")


def _load(found: Any) -> Iterator[Row]:
    lines = f"{found['run']['models']} models, {found['run']['metric_lines'] / 1e6:.0f} million lines"
    yield Row(f"report of {lines}", found["commands"]["report"]["seconds"] / 10, "10 s", "at most 1")
    yield Row(f"plan of {found['plan']['sizes']:,} sizes", found["plan"]["later"]["seconds"] / 2, "2 s", "at most 1")
    peak = max(one["peak_gib"] for one in found["commands"].values())
    yield Row(f"memory of any command, {lines}", peak / 2, "2 GiB", "at most 1")


READERS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "training": _training,
    "streaming": _streaming,
    "scaling": _scaling,
    "data": _data,
    "law_speed": _law_speed,
    "mup_speed": _mup_speed,
    "load": _load,
}


if __name__ == "__main__":
    main()
