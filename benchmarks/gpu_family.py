"""The family of families/pocket-to-45m.toml on one GPU: trained, foretold and reported within ten minutes.

    uv run python benchmarks/gpu_family.py [--minutes 10] [--runs runs] [--results docs/results]

Runs `isoflop run` and stops it when the minutes are over: all is saved then, and the same command goes on. When the
family is done, its results, its report and a page with hardware, versions and date go to docs/results/<family>. Without
a GPU it says so and does nothing; `--tiny` goes through all of it with a family of a minute on whatever there is.
NEVER RUN ON A GPU.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from isoflop.durable import write_json, write_text

ROOT = Path(__file__).parents[1]
FAMILY = ROOT / "families" / "pocket-to-45m.toml"
# Held back of the minutes for the last step and its checkpoint.
SECONDS_TO_STOP = 20.0
TINY = """
name = "tiny"
[data]
source = "corpus.jsonl"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 32
held_out_fraction = 0.1
[recipe]
tokens_per_parameter = 1.0
batch_schedule = [{ from_tokens = 0, sequences = 8 }]
""" + "".join(f'[[models]]\nname = "w{w}"\nn_layers = 1\nd_model = {w}\nn_heads = 2\n' for w in (8, 12, 16, 24, 32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of this call, its end included")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the run is, and goes on")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--tiny", action="store_true", help="a family of a minute, on a processor too")
    given = parser.parse_args()
    end = perf_counter() + 60 * given.minutes
    import torch

    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny goes through all of it on a processor")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a processor"
    given.runs.mkdir(parents=True, exist_ok=True)
    family = tiny_family(given.runs) if given.tiny else FAMILY
    sys.exit(run(family, device, end, given.runs, given.results))


def run(family: Path, device: str, end: float, runs: Path, results: Path) -> int:
    """Trains until the end comes; keeps what came of it if that is the whole family. The exit code."""
    name = family.stem
    sessions = runs / f"{name}-sessions.json"
    earlier: list[float] = json.loads(sessions.read_text()) if sessions.exists() else []
    began = perf_counter()
    command = [sys.executable, "-m", "isoflop", "run", str(family), "--runs", str(runs), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=max(1.0, end - perf_counter() - SECONDS_TO_STOP))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    seconds = [*earlier, perf_counter() - began]
    write_json(sessions, seconds)
    if process.returncode == 128 + signal.SIGTERM:
        print(f"the minutes are over after {seconds[-1]:.0f} s; the same command goes on from here")
    if process.returncode:
        return process.returncode
    keep(json.loads(said), device, seconds, runs / name, results / name)
    return 0


def keep(outcome: dict[str, Any], device: str, seconds: list[float], run_folder: Path, folder: Path) -> None:
    """What is worth keeping of a finished family, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "device": device,
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "isoflop": version("isoflop"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_of_sessions": seconds,
    }
    kept = {key: outcome[key] for key in ("family", "results", "forecast", "verdicts")}
    write_json(folder / "results.json", {**about, **kept})
    shutil.copyfile(run_folder / "report.html", folder / "report.html")
    page = page_of({**about, **kept})
    write_text(folder / "README.md", page)
    print(page)
    print(f"kept in {folder}")


def page_of(found: dict[str, Any]) -> str:
    """Markdown: where and when, each model, and what was foretold of the largest."""
    seconds = found["seconds_of_sessions"]
    calls = f", in {len(seconds)} calls" if len(seconds) > 1 else ""
    lines = [
        f"# {found['family']} on {found['device']}",
        "",
        f"`python benchmarks/gpu_family.py`, {found['time'][:10]}: {found['device']}, {found['cores']} cores, PyTorch "
        f"{found['torch']}, isoflop {found['isoflop']}. All of it, data and report included, took "
        f"{sum(seconds):.0f} s{calls}.",
        "",
        "| model | parameters | tokens | nats/token | bits/byte | seconds | MFU |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["results"]:
        share = "" if one.get("mfu") is None else f"{one['mfu']:.0%}"
        lines.append(
            f"| {one['name']} | {one['params']:,} | {one['tokens']:,} | {one['nats_per_token']:.4f} | "
            f"{one['bits_per_byte']:.4f} | {one['seconds']:.0f} | {share} |"
        )
    for one in found["verdicts"]:
        lines += ["", verdict_of(one)]
    return "\n".join([*lines, "", "The page of the run is report.html; results.json has all figures."]) + "\n"


def verdict_of(one: dict[str, Any]) -> str:
    inside = "inside" if one["inside_95"] else "outside"
    return (
        f"{one['model']} was foretold before it started: {one['foretold']:.4f} nats/token; it came to "
        f"{one['measured']:.4f} ({one['error']:+.2%}), {inside} the 95 % interval of +-{one['half_width']:.2%}."
    )


def tiny_family(folder: Path) -> Path:
    """A family file of five sizes with a corpus beside it."""
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "tiny.toml").write_text(TINY)
    return folder / "tiny.toml"


if __name__ == "__main__":
    main()
