"""Do the commands hold a run directory of 500 models and 10 million steps, a family of 1,000 sizes, 100,000 steps?

    uv run python benchmarks/load.py [FOLDER] [--models 500] [--steps 20000] [--sizes 1000] [--train 100000]

Makes a run directory in FOLDER (2.7 GB; a temporary one by default) with the files that training would leave but for
checkpoints, and runs every command over it that needs none, each in a process of its own: wall-clock seconds, peak
resident memory as the kernel counts it. Then plans a family that lists 1,000 sizes, and trains a tiny model in a
process that looks at its own memory, files and threads on the way. Writes benchmarks/results/load.json.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.config import load_family
from isoflop.data import prepare
from isoflop.durable import SealedLines
from isoflop.pipeline import RunFolder
from isoflop.pipeline.plan import make_plan, store_plan
from isoflop.pipeline.result import Result, fingerprint_of, write_result
from isoflop.recipe import ModelPlan, Plan

RESULTS = Path(__file__).parent / "results" / "load.json"
CONTEXT, SEEDS = 8, 5
HEAD = """
name = "load"
precision = "fp32"
[data]
source = "corpus.jsonl"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 8
held_out_fraction = 0.1
epochs = 1000000
"""
MODEL = """
[[models]]
name = "w{width}"
n_layers = 2
d_model = {width}
n_heads = 2
seeds = {seeds}
recipe = {{ tokens = {tokens}, batch_schedule = [{{ from_tokens = 0, sequences = {sequences} }}] }}
"""
COMMANDS = {
    "plan": ("plan", "load.toml"),
    "law": ("law", "runs/load"),
    "predict": ("predict", "runs/load", "--target", "1e8,2e9"),
    "compare": ("compare", "runs/load"),
    "report": ("report", "runs/load"),
    "report again": ("report", "runs/load"),
    "watch --model": ("watch", "runs/load", "--model", "w16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--models", type=int, default=500, help=f"of the run directory, {SEEDS} of a size")
    parser.add_argument("--steps", type=int, default=20_000, help="that each of them has logged")
    parser.add_argument("--sizes", type=int, default=1000, help="of the family that is planned")
    parser.add_argument("--train", type=int, default=100_000, help="steps that are trained")
    parser.add_argument("--only-train", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_train:
        print(json.dumps(grown(given.folder, given.only_train)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        write_corpus(folder)
        lines = make_run(folder, given.models // SEEDS, given.steps)
        commands = {name: measured(folder, arguments) for name, arguments in COMMANDS.items()}
        (folder / "sizes.toml").write_text(HEAD.replace("load", "sizes") + many_sizes(given.sizes))
        plans = [measured(folder, ("plan", "sizes.toml", "--runs", f"plans-{i}")) for i in range(4)]
        training = [sys.executable, __file__, str(folder), "--only-train", str(given.train)]
        long = json.loads(subprocess.run(training, check=True, capture_output=True, text=True).stdout)
    found = {
        "date": date.today().isoformat(),
        "run": {"models": given.models, "metric_lines": lines},
        "commands": commands,
        # The first measures the machine, which later ones know.
        "plan": {"sizes": given.sizes, "first": plans[0], "later": min(plans[1:], key=lambda one: one["seconds"])},
        "training": long,
    }
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def write_corpus(folder: Path) -> None:
    """A corpus as small as one can be split."""
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def make_run(folder: Path, sizes: int, steps: int) -> int:
    """A run directory with five models of each size, trained so many steps each; the lines of all logs."""
    text = HEAD
    for width in range(8, 8 * sizes + 8, 8):
        sequences = 1 + width // 8
        text += MODEL.format(width=width, seeds=SEEDS, tokens=steps * sequences * CONTEXT, sequences=sequences)
    (folder / "load.toml").write_text(text)
    family, run = load_family(folder / "load.toml"), RunFolder(folder / "runs" / "load")
    prepare(family.data, run.data, lambda line: None)
    plan = make_plan(family, run)
    store_plan(family, plan, run)
    for number, model in enumerate(plan.models):
        losses = losses_of(model, number)
        log_steps(run, model, losses)
        write_result(run, result_of(plan, model, float(losses[-1])))
    return sum(model.steps for model in plan.models)


def losses_of(model: ModelPlan, seed: int) -> np.ndarray[Any, Any]:
    """(steps): a curve on a law, with the scatter of small batches"""
    noise = np.random.default_rng(seed)
    end = (1.7 + 400 / model.shape.params**0.4 + 400 / model.tokens**0.3) * np.exp(noise.normal(0, 0.003))
    share = np.arange(1, model.steps + 1) / model.steps
    return np.asarray(end * share**-0.05 * np.exp(noise.normal(0, 0.02, model.steps)))


def log_steps(run: RunFolder, model: ModelPlan, losses: np.ndarray[Any, Any]) -> None:
    """metrics.jsonl as training writes it"""
    from isoflop.pipeline.watch import _planned

    path = run.model(model.name) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    seals, a_step = SealedLines(path), model.batch_sequences * CONTEXT
    with open(path, "wb") as file:
        for step, loss in enumerate(losses.tolist(), 1):
            line = {"step": step, "tokens": step * a_step, "loss": loss, "lr": _planned(model, step * a_step)}
            line |= {"grad_norm": 1.0, "tokens_per_second": 51234.5, "mfu": 0.41, "wait_seconds": 1e-4}
            file.write(seals.seal({**line, "time": 1.79e9 + step}))


def result_of(plan: Plan, model: ModelPlan, loss: float) -> Result:
    """What training would have left"""
    return Result(
        **{"name": model.name, "size": model.size, "seed": model.seed, "tokens": model.tokens, "steps": model.steps},
        **{"params": model.shape.params, "params_non_embedding": model.shape.params_non_embedding},
        **{"flops": model.flops, "nats_per_token": loss, "bits_per_byte": loss * 0.6, "held_out_tokens": 1000},
        **{"held_out_bytes": 2400, "domains": {}, "seconds": 10.0, "joules": None, "joules_origin": None},
        **{"price": None, "weights_sha256": "0" * 64, "systems": 1, "threads": 1, "isoflop": "0.1.0"},
        **{"processor": plan.machine.processor, "torch": plan.machine.torch, "time": "2026-11-25T00:00:00+00:00"},
        fingerprint=fingerprint_of(model, None),
    )


def many_sizes(count: int) -> str:
    """[[models]] tables of so many sizes"""
    model = '[[models]]\nname = "m{0}"\nn_layers = 2\nd_model = {1}\nn_heads = 2\n'
    return "".join(model.format(i, 8 + 2 * i) for i in range(count))


def measured(folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """A command's wall-clock seconds and peak memory; its last line of errors where it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "isoflop", *arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = said.read().decode().splitlines()[-1:] if process.returncode else []
    processor = usage.ru_utime + usage.ru_stime
    found = {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
    }
    found["exit"] = process.returncode
    print(f"{' '.join(arguments)}: {found} {' '.join(last)}", file=sys.stderr, flush=True)
    return {**found, "says": last[0]} if last else found


def grown(folder: Path, steps: int) -> dict[str, Any]:
    """Trains a tiny model for so many steps; what the process held after a tenth of them and at their end."""
    from isoflop.model import Lanes
    from isoflop.train import Step, train

    family = load_family(folder / "load.toml")
    run = RunFolder(folder / "runs" / "load")
    model = replace(make_plan(family, run).models[0], steps=steps, tokens=steps * 2 * CONTEXT)
    held: list[dict[str, int]] = []

    def on_step(step: Step) -> None:
        if step.step in (steps // 10, steps):
            held.append(holds())

    with Lanes(1) as lanes, tempfile.TemporaryDirectory() as place:
        train(
            model,
            run.data,
            Path(place),
            lanes=lanes,
            whole_systems=1.0,
            peak_flops_per_second=1e12,
            checkpoint_seconds=5.0,
            read_joules=lambda: None,
            on_step=on_step,
            on_event=lambda line: None,
        )
    first, last = held
    return {"steps": steps, "after_a_tenth": first, "at_the_end": last}


def holds() -> dict[str, int]:
    """Anonymous memory, open files, threads and Python objects of this process."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    files, objects = len(os.listdir("/proc/self/fd")), len(gc.get_objects())
    return {"anonymous_kib": anonymous, "files": files, "threads": threading.active_count(), "objects": objects}


if __name__ == "__main__":
    main()
