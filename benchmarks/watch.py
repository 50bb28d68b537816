"""Do alarms sound where a run goes wrong, and stay silent where none does? Real small runs with planted faults.

    uv run python benchmarks/watch.py [FOLDER]

Trains 12 runs of four sizes (24 to 50 thousand parameters, some 500 steps each), which lead what is expected; 20
healthy ones, six of a size that was trained and 14 of a larger; and two of the larger for each fault and each place it
begins. Takes half an hour on one core; runs that FOLDER holds already are not trained again. Faults are planted in the
trainer from here: it does not know them. Alarms are those that a user gets; those of the loss alone stand beside them.
Writes benchmarks/results/watch.json.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import isoflop.train.loop as loop
from isoflop.config import load_family
from isoflop.errors import DivergenceError
from isoflop.law.track import Record, Track
from isoflop.model import Lanes
from isoflop.pipeline import RunFolder
from isoflop.pipeline.law import ceiling_of
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.train import make_ready
from isoflop.pipeline.watch import ModelWatch, planned_rate
from isoflop.recipe import ModelPlan
from isoflop.report.metrics import read_metrics

RESULTS = Path(__file__).parent / "results" / "watch.json"
CORPUS = Path(__file__).parents[1] / "corpora" / "pocket.jsonl.zst"
SEEDS = {16: 3, 20: 3, 24: 9, 28: 3, 32: 14}
FINISHED, LARGEST, VOCABULARY = 3, "w32", 1024
PLACES = (0.0, 0.3, 0.6)
FAMILY = f"""
name = "watched"
precision = "fp32"
[data]
source = "{CORPUS}"
licence = "listed text by text in corpora/NOTICE"
tokenizer = {{ kind = "bpe", vocab_size = {VOCABULARY} }}
context_length = 64
[recipe]
tokens_per_parameter = 20
"""
MODEL = '\n[[models]]\nname = "w{0}"\nn_layers = 2\nd_model = {0}\nn_heads = 2\nseeds = {1}\n'


class Silent:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *heard, **more: None


@contextmanager
def rate_times(factor: float, plan: ModelPlan, place: float) -> Iterator[None]:
    planned = loop.learning_rate

    def rate(tokens: int, /, **rest: Any) -> float:
        return planned(tokens, **rest) * (factor if tokens > place * plan.tokens else 1.0)

    with patch.object(loop, "learning_rate", rate):
        yield


@contextmanager
def never_falling(plan: ModelPlan, place: float) -> Iterator[None]:
    planned = loop.learning_rate

    def rate(tokens: int, /, **rest: Any) -> float:
        return planned(min(tokens, max(plan.warmup_tokens, int(place * plan.tokens))), **rest)

    with patch.object(loop, "learning_rate", rate):
        yield


@contextmanager
def random_tokens(share: float, plan: ModelPlan, place: float) -> Iterator[None]:
    read = 0

    class Corrupted(loop.ReadAhead):
        def take(self) -> Any:
            nonlocal read
            batch = super().take()
            read += len(batch)
            if read > place * plan.steps * plan.batch_sequences:
                batch = batch.copy()
                wrong = batch[: max(1, round(share * len(batch)))]
                wrong[:] = np.random.default_rng(read).integers(0, VOCABULARY, wrong.shape)
            return batch

    with patch.object(loop, "ReadAhead", Corrupted):
        yield


@contextmanager
def dead_layer(layer: int, plan: ModelPlan, place: float) -> Iterator[None]:
    update = loop.Learner.update

    def update_and_kill(learner: loop.Learner, norm: float, lr: float, step: int) -> None:
        update(learner, norm, lr, step)
        if step > place * plan.steps:
            for name in ("attn.c_proj.weight", "mlp.c_proj.weight"):
                learner.weights[f"transformer.h.{layer}.{name}"].zero_()
            learner._intact.take(learner._held())  # a layer that died in training, no bit that flipped in memory

    with patch.object(loop.Learner, "update", update_and_kill):
        yield


FAULTS: dict[str, Callable[[ModelPlan, float], Any]] = {
    "rate doubled": lambda plan, place: rate_times(2.0, plan, place),
    "rate times four": lambda plan, place: rate_times(4.0, plan, place),
    "rate never falls": never_falling,
    "all tokens random": lambda plan, place: random_tokens(1.0, plan, place),
    "a tenth of the tokens random": lambda plan, place: random_tokens(0.1, plan, place),
    "first layer dead": lambda plan, place: dead_layer(0, plan, place),
    "last layer dead": lambda plan, place: dead_layer(1, plan, place),
}


def train(plan: ModelPlan, data: Path, folder: Path) -> None:
    """To its end, or to where the trainer itself stops it."""
    if not (folder / "done").exists():
        with Lanes(1) as lanes, suppress(DivergenceError):
            loop.train(
                plan,
                data,
                folder,
                lanes=lanes,
                whole_systems=1.0,
                peak_flops_per_second=1e11,
                checkpoint_seconds=1e9,
                read_joules=lambda: None,
                on_step=lambda step: None,
                on_event=print,
            )
        (folder / "done").write_text("")
        print(folder.name)


def record(plan: ModelPlan, folder: Path) -> Record:
    log = read_metrics(folder / "metrics.jsonl")
    assert log is not None
    steps, end = np.diff(log.tokens, prepend=0.0), float(np.mean(log.loss[-20:]))
    progress = log.tokens / plan.tokens
    return Record(plan.name, float(plan.shape.params), progress, log.loss, steps, planned_rate(plan), end)


def watch(track: Track, plan: ModelPlan, folder: Path) -> dict[str, Any]:
    """Its alarms, and where its end was foretold to be at half its way. A run that the trainer stopped has an alarm for
    that, after its last step."""
    log = read_metrics(folder / "metrics.jsonl")
    assert log is not None
    watching = ModelWatch(track, plan)
    assert watching.watch is not None
    alarms: list[dict[str, Any]] = []
    half = None
    for tokens, loss, lr, unreached in zip(log.tokens, log.loss, log.lr, np.nan_to_num(log.unreached), strict=True):
        alarms += watching.see(tokens, loss, lr, int(unreached))
        if half is None and tokens >= plan.tokens / 2:
            half = watching.watch.standing()
    if len(log.tokens) < plan.steps:
        alarms.append({"step": len(log.tokens) + 1, "kind": "stopped"})
    assert half is not None
    end = float(np.mean(log.loss[-20:]))
    return {
        "run": plan.name,
        "end": end,
        "inside_80": half.final_low_80 <= end <= half.final_high_80,
        "inside_95": half.final_low_95 <= end <= half.final_high_95,
        "half": asdict(half),
        "alarms": alarms,
    }


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/watch-benchmark")
    root.mkdir(parents=True, exist_ok=True)
    (root / "watched.toml").write_text(FAMILY + "".join(MODEL.format(*one) for one in SEEDS.items()))
    family, folder = load_family(root / "watched.toml"), RunFolder(root / "runs" / "watched")
    plan = make_plan(family, folder)
    plans = plan.models
    make_ready(family, plan, plans, folder, Silent())  # type: ignore[arg-type]
    for plan in plans:
        train(plan, folder.data, root / "out" / plan.name)
    seen: dict[str, int] = {}
    finished, healthy = [], []
    for plan in plans:
        seen[plan.size] = seen.get(plan.size, 0) + 1
        few = seen[plan.size] <= FINISHED and plan.size != LARGEST
        (finished if few else healthy).append(plan)
    track = Track([record(plan, root / "out" / plan.name) for plan in finished], ceiling_of(folder))
    found = [watch(track, plan, root / "out" / plan.name) for plan in healthy]
    faulty = []
    for name, fault in FAULTS.items():
        for place in PLACES:
            for plan in [plan for plan in healthy if plan.size == LARGEST][:2]:
                own = root / "out" / f"{name} at {place}, {plan.name}"
                with fault(plan, place):
                    train(plan, folder.data, own)
                at = int(place * plan.steps)
                after = [alarm for alarm in watch(track, plan, own)["alarms"] if alarm["step"] > at]
                by_loss = [alarm["step"] - at for alarm in after if alarm["kind"] in ("level", "jump")]
                first = {"steps_to_alarm": after[0]["step"] - at, "kind": after[0]["kind"]} if after else {}
                row = {"fault": name, "place": place, "run": plan.name, "steps_to_alarm": None, **first}
                faulty.append({**row, "steps_by_loss_alone": by_loss[0] if by_loss else None})
    summary = {
        "finished": len(finished),
        "healthy": len(found),
        "healthy_with_alarm": sum(bool(one["alarms"]) for one in found),
        "end_inside_80": sum(one["inside_80"] for one in found),
        "end_inside_95": sum(one["inside_95"] for one in found),
    }
    print(json.dumps(summary, indent=1))
    for row in faulty:
        print(row)
    RESULTS.write_text(json.dumps({**summary, "faults": faulty, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
