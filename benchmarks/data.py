"""Preparation and reading of data: rates, memory, and how long training waits for its batches.

    uv run python benchmarks/data.py --corpus corpora/larger --gib 1

Three measurements, written to benchmarks/results/data.json:
- tokenizers, tiktoken and this package's own encoder, one thread each, taking turns on the same documents;
- `prepare` of an input of that size on all cores: rate against cores x that of the fastest library, tiktoken, measured
  just before and just after; and peak memory of all its processes together;
- the smallest pocket model in training: the share of its steps that is waiting for batches, by its metrics.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import date
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.config import DataSource, Gpt2Tokenizer
from isoflop.data import prepare, read_documents
from isoflop.data.encoding import Encoder
from isoflop.data.tokenizer import make_tokenizer, tokenizer_json
from isoflop.data.workers import available_cores
from isoflop.systems.machine import processor_name

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "data.json"
RATES = ("megabytes_per_second", "megabytes_per_processor_second")
GPT2 = Gpt2Tokenizer(kind="gpt2")


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora" / "pocket.jsonl.zst", help=".jsonl.zst files")
    parser.add_argument("--gib", type=float, default=0.25, help="text to prepare, in GiB; the corpus is repeated")
    arguments = parser.parse_args()
    libraries = measure_libraries(arguments.corpus)
    preparation = measure_preparation(arguments.corpus, arguments.gib)
    again = measure_libraries(arguments.corpus)
    for name, rates in libraries.items():
        for key, values in rates.items():
            values += again[name][key]
    document: dict[str, Any] = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "cores": available_cores(),
        "load_average_before": os.getloadavg()[0],
        "libraries": libraries,
        "preparation": preparation,
        "waiting": measure_waiting(),
    }
    by_clock, by_processor = (statistics.median(libraries["tiktoken"][key]) for key in RATES)
    preparation["share_of_cores_times_tiktoken"] = preparation[RATES[0]] / (document["cores"] * by_clock)
    # The same of processor time, which is comparable whoever else uses the machine.
    preparation["share_of_tiktoken_per_processor_second"] = preparation[RATES[1]] / by_processor
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


def measure_libraries(corpus: Path) -> dict[str, dict[str, list[float]]]:
    """Of each encoder, MB/s of one thread and MB a second of processor time, three turns on the same documents."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = _sample(corpus)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    text = tokenizer_json(make_tokenizer(GPT2, []))
    library = Encoder("gpt2", text)._tiktoken
    assert library is not None
    encoders: dict[str, Callable[[str], Any]] = {
        "isoflop": Encoder("gpt2", text).encode,
        "tiktoken": lambda text: library.encode_to_numpy(text, disallowed_special=()),
        "tokenizers": Encoder("file", text).encode,
    }
    rates: dict[str, dict[str, list[float]]] = {name: {key: [] for key in RATES} for name in encoders}
    tokens = {name: [encode("to build its tables")] for name, encode in encoders.items()}
    for _ in range(3):
        for name, encode in encoders.items():
            began, used = time.perf_counter(), time.process_time()
            tokens[name] = [encode(text) for text in texts]
            used, began = time.process_time() - used, time.perf_counter() - began
            for key, seconds in zip(RATES, (began, used), strict=True):
                rates[name][key].append(megabytes / seconds)
    for one, other in (("isoflop", "tiktoken"), ("isoflop", "tokenizers")):
        assert all(map(np.array_equal, tokens[one], tokens[other]))
    return rates


def _sample(corpus: Path) -> list[str]:
    """Every 40th document: all sets by their shares."""
    documents = read_documents(DataSource(source=corpus, tokenizer=GPT2, context_length=64, faults_allowed=1.0))
    return [document.text for number, document in enumerate(documents) if number % 40 == 0]


def measure_preparation(corpus: Path, gib: float) -> dict[str, Any]:
    """Rate and peak memory of `prepare` on one .jsonl.zst file of that much text."""
    packed = sorted(corpus.glob("*.jsonl.zst")) if corpus.is_dir() else [corpus]
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "input.jsonl.zst"
        once = _text_bytes(packed)
        with open(source, "wb") as file:  # zstd frames one after the other are a zstd file
            for _ in range(max(1, round(gib * 2**30 / once))):
                for path in packed:
                    file.write(path.read_bytes())
        data = DataSource(source=source, tokenizer=GPT2, context_length=2048, faults_allowed=0.0)
        with PeakMemory() as memory:
            began, used = time.perf_counter(), _processor_seconds()
            manifest = prepare(data, Path(work) / "data", lambda line: None)
            seconds, used = time.perf_counter() - began, _processor_seconds() - used
        n_bytes = manifest.splits.train.bytes + manifest.splits.held_out.bytes
        return {
            "text_bytes": n_bytes,
            "tokens": manifest.splits.train.tokens + manifest.splits.held_out.tokens,
            "seconds": seconds,
            "processor_seconds": used,
            "megabytes_per_second": n_bytes / 1e6 / seconds,
            "megabytes_per_processor_second": n_bytes / 1e6 / used,
            "peak_memory_bytes": memory.peak,
            "processes": memory.processes,
        }


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _text_bytes(packed: list[Path]) -> int:
    source = DataSource(source=packed[0].parent if len(packed) > 1 else packed[0], tokenizer=GPT2, context_length=64)
    return sum(len(document.text.encode()) for document in read_documents(source))


def measure_waiting() -> dict[str, Any]:
    """The pocket family's smallest model, whose steps are the shortest, trained by `isoflop train`: its metrics."""
    with tempfile.TemporaryDirectory() as runs:
        command = ["train", ROOT / "families" / "pocket.toml", "--model", "w32", "--runs", runs]
        subprocess.run([sys.executable, "-m", "isoflop", *map(str, command)], check=True, capture_output=True)
        lines = (Path(runs) / "pocket" / "models" / "w32" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    waits = [step["wait_seconds"] for step in steps]
    # A step took as long as its tokens did at its rate.
    tokens = np.diff([0, *(step["tokens"] for step in steps)])
    seconds = tokens / np.array([step["tokens_per_second"] for step in steps])
    return {
        "steps": len(steps),
        "share": sum(waits) / float(seconds.sum()),
        "share_without_first_step": sum(waits[1:]) / float(seconds[1:].sum()),
        "median_step_seconds": float(np.median(seconds)),
    }


class PeakMemory:
    """The most memory that this process and its workers held together, every 50 ms (PSS: shared pages once)."""

    def __enter__(self) -> "PeakMemory":
        self.peak = self.processes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.05):
            pids = [os.getpid(), *(child.pid or 0 for child in active_children())]
            self.peak = max(self.peak, sum(map(_pss, pids)))
            self.processes = max(self.processes, len(pids))


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main()
