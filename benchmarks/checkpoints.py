"""What saving costs a training: tokens a second with a checkpoint every so many seconds over none, by turns.

    uv run python benchmarks/checkpoints.py [--models small 111M] [--seconds 30] [--turn 100] [--turns 3]

Trains with `isoflop.train.train` on the pocket corpus in GPT-2's tokens, from new weights at each turn, with 4,096
tokens a step. A turn's first step counts for nothing. Writes benchmarks/results/checkpoints.json.
"""

import argparse
import contextlib
import os
import tempfile
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter

from isoflop.config import load_family
from isoflop.data import prepare
from isoflop.durable import write_json
from isoflop.model import Lanes
from isoflop.recipe import BatchStage, ModelPlan, plan_family
from isoflop.systems import measure_machine
from isoflop.train import Step, train

RESULTS = Path(__file__).parent / "results" / "checkpoints.json"
CORPUS = Path(__file__).parent.parent / "corpora" / "pocket.jsonl.zst"
CONTEXT, SEQUENCES = 1024, 4
FAMILY = f"""
name = "saved"
[data]
source = "{CORPUS}"
tokenizer = {{ kind = "gpt2" }}
context_length = {CONTEXT}
epochs = 1_000
[[models]]
name = "small"
n_layers = 6
d_model = 384
n_heads = 6
[[models]]
name = "111M"
n_layers = 10
d_model = 768
n_heads = 12
"""


class TurnIsOverError(Exception):
    """Enough steps were seen."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["small", "111M"], choices=["small", "111M"])
    parser.add_argument("--seconds", type=float, default=30.0, help="from one checkpoint to the next")
    parser.add_argument("--turn", type=float, default=100.0, help="seconds of a turn")
    parser.add_argument("--turns", type=int, default=3, help="of each")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        (folder / "saved.toml").write_text(FAMILY)
        family = load_family(folder / "saved.toml")
        prepare(family.data, folder / "data", lambda line: None)
        plans = {model.name: model for model in plan_family(family, measure_machine()).models}
        for name in given.models:
            turns = []
            for i in range(given.turns):
                order = (given.seconds, inf) if i % 2 else (inf, given.seconds)
                rates = {seconds: rate(plans[name], folder, seconds, given.turn) for seconds in order}
                turns.append(1 - rates[given.seconds] / rates[inf])
                print(f"{name}: {rates[given.seconds]:,.0f} of {rates[inf]:,.0f} tokens/s", flush=True)
            state = 12 * plans[name].shape.params
            rows.append({"model": name, "state_bytes": state, "seconds": given.seconds, "shares": turns})
            rows[-1]["share"] = median(turns)
            print(f"{name}: {median(turns):.2%} of the time goes into saving {state / 1e9:.2f} GB", flush=True)
    machine = measure_machine()
    about = {"date": date.today().isoformat(), "processor": machine.processor, "cores": machine.cores}
    write_json(RESULTS, {**about, "torch": version("torch"), "load_average_before": load, "rows": rows})


def rate(plan: ModelPlan, folder: Path, checkpoint_seconds: float, turn: float) -> float:
    """Tokens a second of a turn."""
    steps = 1_000
    schedule = (BatchStage(0, SEQUENCES),)
    plan = replace(
        plan, steps=steps, tokens=steps * SEQUENCES * CONTEXT, batch_schedule=schedule, microbatch_sequences=1
    )
    seen: list[float] = []

    def on_step(step: Step) -> None:
        seen.append(perf_counter())
        if seen[-1] - seen[0] > turn:
            raise TurnIsOverError

    run = tempfile.TemporaryDirectory(dir=folder)
    with run as place, Lanes(measure_machine().lanes) as lanes, contextlib.suppress(TurnIsOverError):
        train(
            plan,
            folder / "data",
            Path(place),
            lanes=lanes,
            whole_systems=1.0,
            peak_flops_per_second=1e12,
            checkpoint_seconds=checkpoint_seconds,
            read_joules=lambda: None,
            on_step=on_step,
            on_event=print,
        )
    return (len(seen) - 1) * SEQUENCES * CONTEXT / (seen[-1] - seen[0])


if __name__ == "__main__":
    main()
