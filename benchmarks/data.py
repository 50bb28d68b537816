"""Preparation and reading of data: rates, memory, and how long training waits for its batches.

    uv run python benchmarks/data.py --corpus corpora/larger --gib 1

Three measurements, written to benchmarks/results/data.json:
- tokenizers against tiktoken, one thread each, taking turns on the same documents;
- `prepare` of an input of that size on all cores: rate against cores x the faster library's, and peak memory of all
  its processes together;
- the smallest pocket model training with batches read ahead: the share of its steps that is waiting.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import threading
import time
from datetime import date
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.config import DataSource, Gpt2Tokenizer, load_family
from isoflop.data import ReadAhead, TokenStream, prepare, read_documents, sample_ids
from isoflop.data.encoding import Encoder
from isoflop.data.tokenizer import make_tokenizer, tokenizer_json
from isoflop.data.workers import available_cores

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "data.json"
GPT2 = Gpt2Tokenizer(kind="gpt2")


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora" / "pocket.jsonl.zst", help=".jsonl.zst files")
    parser.add_argument("--gib", type=float, default=0.25, help="text to prepare, in GiB; the corpus is repeated")
    arguments = parser.parse_args()
    libraries = measure_libraries(arguments.corpus)
    document: dict[str, Any] = {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": available_cores(),
        "load_average_before": os.getloadavg()[0],
        "libraries": libraries,
        "preparation": measure_preparation(arguments.corpus, arguments.gib),
        "waiting": measure_waiting(),
    }
    fastest, preparation = libraries["tiktoken"], document["preparation"]
    preparation["share_of_cores_times_fastest"] = preparation["megabytes_per_second"] / (
        document["cores"] * fastest["median"]
    )
    # The same of processor time: what is lost to all that is not tokenising, whoever else uses the machine.
    preparation["share_of_fastest_per_processor_second"] = (
        preparation["megabytes_per_processor_second"] / fastest["median_per_processor_second"]
    )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


def measure_libraries(corpus: Path) -> dict[str, Any]:
    """MB/s of one thread, and MB a second of processor time, five turns each on the same documents."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = _sample(corpus)
    n_bytes = sum(len(text.encode()) for text in texts)
    text = tokenizer_json(make_tokenizer(GPT2, []))
    encoders = {"tiktoken": Encoder("gpt2", text), "tokenizers": Encoder("file", text)}
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    by_processor: dict[str, list[float]] = {name: [] for name in encoders}
    tokens = {}
    for _ in range(5):
        for name, encoder in encoders.items():
            began, used = time.perf_counter(), time.process_time()
            tokens[name] = np.concatenate([encoder.encode(text) for text in texts])
            rates[name].append(n_bytes / 1e6 / (time.perf_counter() - began))
            by_processor[name].append(n_bytes / 1e6 / (time.process_time() - used))
    assert np.array_equal(tokens["tiktoken"], tokens["tokenizers"])
    return {
        name: {
            "megabytes_per_second": rates[name],
            "median": statistics.median(rates[name]),
            "median_per_processor_second": statistics.median(by_processor[name]),
        }
        for name in encoders
    }


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
    """The model with the shortest steps needs its batches soonest: pocket's w32, 300 steps of 16 sequences.

    Gradients only: with the optimizer a step is longer, and the share smaller.
    """
    # Imported here, so that preparation's memory is its own.
    import torch

    from isoflop.model import Lanes, Weights, initialise, load_kernels, make_model
    from isoflop.recipe import Shape
    from isoflop.systems.sums import Sums

    family = load_family(ROOT / "families" / "pocket.toml")
    shape = Shape(3, 32, 2, family.data.tokenizer.vocab_size, family.data.context_length)
    weights, kernels = initialise(shape, 0), load_kernels()
    model = make_model(shape, "bf16", kernels)
    sums = Sums(Weights(shape, torch.zeros(shape.params, dtype=torch.int64)), kernels)
    image = model.image(weights)
    with tempfile.TemporaryDirectory() as work, Lanes(available_cores()) as lanes:
        prepare(family.data, Path(work), lambda line: None)
        stream = TokenStream(Path(work), "train")
        n_samples = stream.n_samples(shape.context_length)
        requests = [sample_ids(16 * step, 16, n_samples, 0) for step in range(320)]

        def step(batch: np.ndarray) -> None:
            samples = torch.from_numpy(batch)
            sums.begin(batch.size)
            lanes.map(lambda first: model.gradients(weights, image, samples[first : first + 4], sums), range(0, 16, 4))
            sums.into.flat.zero_()

        with ReadAhead(stream, shape.context_length, requests) as reader:
            for _ in range(20):
                step(reader.take())
            waited, began = reader.wait_seconds, time.perf_counter()
            for _ in range(300):
                step(reader.take())
            ahead = (reader.wait_seconds - waited) / (time.perf_counter() - began)
        reading, began = 0.0, time.perf_counter()
        for samples in requests[:300]:
            asked = time.perf_counter()
            batch = stream.batch(samples, shape.context_length)
            reading += time.perf_counter() - asked
            step(batch)
        seconds = time.perf_counter() - began
    return {"share_read_ahead": ahead, "share_read_when_asked": reading / seconds, "step_seconds": seconds / 300}


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


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
