"""Downstream tasks: the native model against the harness's own Hugging Face loader, alternating.

uv run python benchmarks/evaluation.py RUNS/pocket --model w80 --out benchmarks/results/evaluation.json

RUNS/pocket holds the trained model and its release. Both answer the held-out suite on the same cores in fp32; what is
timed is the answering alone. The accuracies of both are in the result.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

os.environ |= {"TQDM_DISABLE": "1", "DISABLE_MULTIPROC": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from lm_eval.models.huggingface import HFLM

from isoflop.data import load_manifest
from isoflop.data.tokenizer import load_tokenizer
from isoflop.evaluate.harness import Encoder, NativeModel, load_tasks
from isoflop.evaluate.suite import make_suite
from isoflop.evaluate.task_data import TaskData
from isoflop.model import Lanes, Reader
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.weights import finished_weights
from isoflop.systems.machine import available_cores, measure_machine


class Heard:
    """Prints notes."""

    def __init__(self) -> None:
        self.note = print


def main() -> None:
    """Times both and writes the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="w80")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 64], help="batch sizes of the loader")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = RunFolder(given.run)
    family, plan = stored_plan(folder)
    (model,) = (model for model in plan.models if model.name == given.model)
    suite = make_suite(folder.data, folder.suite, family.data.context_length)
    tasks = load_tasks(suite.names, [folder.suite], TaskData())
    tokenizer = load_tokenizer(folder.data / "tokenizer.json")
    end_of_text = load_manifest(folder.data).tokenizer.end_of_text
    weights = finished_weights(model, folder, Heard())  # type: ignore[arg-type]
    cores = available_cores()
    loaders = {
        f"loader, batch {batch}": HFLM(str(folder.release(model.name)), device="cpu", batch_size=batch)
        for batch in given.batch
    }
    found: dict[str, dict[str, object]] = {}
    for shots in (0, 5):
        seconds: dict[str, list[float]] = {name: [] for name in ("native", *loaders)}
        for _ in range(given.rounds):
            for name, times in seconds.items():
                torch.set_num_threads(cores)
                with Lanes(cores) if name == "native" else Threads(cores) as lanes:
                    asked = (
                        NativeModel(Reader(weights, model.shape), Encoder(tokenizer, end_of_text), lanes)  # type: ignore[arg-type]
                        if name == "native"
                        else loaders[name]
                    )
                    begin = time.perf_counter()
                    outcomes = tasks.run(asked, shots, given.limit)  # type: ignore[arg-type]
                    times.append(time.perf_counter() - begin)
                found[f"{name}, {shots} shots"] = {
                    "seconds": round(median(times), 2),
                    "all": [round(one, 2) for one in times],
                    **{one.task: one.metrics["acc"].value for one in outcomes if one.task in suite.names},
                }
                print(shots, name, f"{times[-1]:.1f} s", flush=True)
    document = {"model": model.name, "params": model.shape.params, "machine": measure_machine().to_json(), **found}
    print(json.dumps(document, indent=2))
    if given.out:
        given.out.write_text(json.dumps(document, indent=2) + "\n")


class Threads:
    """All cores for PyTorch's own threads, as the loader takes them."""

    def __init__(self, count: int) -> None:
        torch.set_num_threads(count)

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main()
