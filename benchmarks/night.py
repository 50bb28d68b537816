"""A night's check of the whole pipeline on a real corpus: from Debian packages to models, their law and what they read.

    uv run python benchmarks/night.py

Assembles the corpus of 300 MB (corpora/assemble.py) where it is missing, prepares it once killed and gone on with and
once by one process, which must give the same bytes; runs a family of five sizes to its report and releases; looks up
the documents of a training step in the corpus; and changes a byte of the data, which must be found and named. Any of
it that fails ends the program. Writes benchmarks/results/night.json, with the losses of every domain.
"""

import argparse
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import zstandard

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "night.json"
FAMILY = """
name = "night"
[data]
source = "{corpus}"
licence = "licences of each set in NOTICE beside the texts; some are copyleft: neither texts nor models are shipped"
tokenizer = {{ kind = "bpe", vocab_size = 1024 }}
context_length = 256
duplicates = "exact"
mixture = {{ "Metamath Proofs" = 0.5 }}
[recipe]
tokens_per_parameter = {tokens_per_parameter}
warmup_fraction = 0.2
"""
MODEL = '[[models]]\nname = "w{0}"\nn_layers = 3\nd_model = {0}\nn_heads = 2\n'
WIDTHS = (32, 40, 48, 64, 80)


def main() -> None:
    """Checks everything in order and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora" / "larger", help="made where it is missing")
    parser.add_argument("--tokens-per-parameter", type=float, default=20, help="fewer for trying out")
    arguments = parser.parse_args()
    corpus: Path = arguments.corpus.resolve()
    document: dict[str, Any] = {"date": date.today().isoformat(), "load_average_before": os.getloadavg()[0]}
    if not (corpus / "NOTICE").exists() and not corpus.is_file():
        _, document["assemble_seconds"] = _timed([sys.executable, ROOT / "corpora" / "assemble.py", corpus])
    with tempfile.TemporaryDirectory() as work:
        family = Path(work) / "night.toml"
        text = FAMILY.format(corpus=corpus, tokens_per_parameter=arguments.tokens_per_parameter)
        family.write_text(text + "".join(map(MODEL.format, WIDTHS)))
        runs = Path(work) / "runs"
        document["data"] = check_preparation(family, runs, Path(work) / "alone")
        _, document["run_seconds"] = _timed(_isoflop("run", family, "--runs", runs))
        document["training"] = measured(runs / "night")
        document["passages_looked_up"] = check_trace(family, runs, corpus)
        document["changed_byte"] = check_change(family, runs)
    RESULT.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


def check_preparation(family: Path, runs: Path, alone: Path) -> dict[str, Any]:
    """Data made in two goes are those of one process, byte for byte."""
    began = time.perf_counter()
    was_killed = _killed_after_a_chunk(_isoflop("data", family, "--runs", runs), runs / "night" / "data")
    _timed(_isoflop("data", family, "--runs", runs))
    seconds = time.perf_counter() - began
    _timed(_isoflop("data", family, "--runs", alone, "--workers", "1"))
    mine, theirs = ((where / "night" / "data" / "manifest.json").read_bytes() for where in (runs, alone))
    assert mine == theirs, "the data depend on the interruption or on the number of workers"
    manifest = json.loads(mine)
    train = manifest["splits"]["train"]
    return {
        "was_killed": was_killed,
        "seconds": seconds,
        "text_bytes": train["bytes"] + manifest["splits"]["held_out"]["bytes"],
        "tokens": train["tokens"],
        "domains": len(train["domains"]),
        "faults": len(manifest["faults"]),
        "duplicates_removed": manifest["duplicates_removed"],
    }


def _killed_after_a_chunk(command: list[str], data: Path) -> bool:
    """Starts the command and kills it and its workers when the first chunk is on the disk; False if it was faster."""
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        journals = list(data.glob("parts/*/journal.jsonl"))
        if any(path.read_bytes().count(b"\n") > 1 for path in journals):
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.05)
    assert process.returncode == 0, "isoflop data failed"
    return False


def measured(folder: Path) -> dict[str, Any]:
    """What the models reached, by domain, how well it was foretold, and how long training waited for its batches."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("models/*/result.json"))]
    largest = max(results, key=lambda result: int(result["params"]))
    forecast = json.loads((folder / "forecast.json").read_text())
    waits = []
    for path in sorted(folder.glob("models/*/metrics.jsonl")):
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        tokens = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(steps)]
        seconds = sum(n / step["tokens_per_second"] for n, step in zip(tokens, steps[1:], strict=True))
        waits.append(sum(step["wait_seconds"] for step in steps[1:]) / seconds)
    return {
        "models": len(results),
        "nats_per_token": {result["name"]: result["nats_per_token"] for result in results},
        "forecast": {key: forecast[key] for key in ("model", "loss", "low_95", "high_95")},
        "largest_share_of_waiting": max(waits),
        "bits_per_byte_by_domain": {name: found["bits_per_byte"] for name, found in largest["domains"].items()},
    }


def check_trace(family: Path, runs: Path, corpus: Path) -> int:
    """The documents of a step lie where `isoflop data show` says: their domains stand there in the corpus."""
    shown, _ = _timed(_isoflop("data", "show", family, "--step", "3", "--runs", runs, "--json"))
    passages = json.loads(shown)["passages"]
    for passage in passages:
        path = corpus / passage["source"] if corpus.is_dir() else corpus
        with open(path, "rb") as file:
            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            left = passage["offset"]
            while left:
                left -= len(lines.read(min(left, 2**20)))
            assert json.loads(lines.readline())["meta"]["pile_set_name"] == passage["domain"], passage
    return len(passages)


def check_change(family: Path, runs: Path) -> str:
    """What is said when one byte of a shard is another."""
    shard = sorted((runs / "night" / "data").glob("train-*.bin"))[-1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = subprocess.run(_isoflop("train", family, "--runs", runs), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert f"{shard}: changed since it was written" in done.stderr, done.stderr
    return done.stderr.splitlines()[-1].replace(str(runs), "runs")


def _isoflop(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "isoflop", *map(str, arguments)]


def _timed(command: list[Any]) -> tuple[str, float]:
    began = time.perf_counter()
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout, time.perf_counter() - began


if __name__ == "__main__":
    main()
