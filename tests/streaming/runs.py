"""A small run that the tests of this room train in every way."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from isoflop.config import BpeTokenizer, DataSource
from isoflop.data import prepare
from isoflop.model import Lanes
from isoflop.recipe import BatchStage, ModelPlan, Shape, steps_of
from isoflop.systems.group import ALONE, Systems
from isoflop.train import Step, Trained, train

SHAPE = Shape(n_layers=2, d_model=16, n_heads=2, vocab_size=300, context_length=32)
SCHEDULE = (BatchStage(0, 4), BatchStage(1000, 6))
TOKENS = 3000
STEPS = sum(run.steps for run in steps_of(SCHEDULE, TOKENS, 32))
RESIDENT = ModelPlan(
    name="a",
    size="a",
    held_out=False,
    shape=SHAPE,
    seed=3,
    precision="bf16",
    tokens=sum(run.steps * run.sequences for run in steps_of(SCHEDULE, TOKENS, 32)) * 32,
    batch_schedule=SCHEDULE,
    microbatch_sequences=2,
    steps=STEPS,
    peak_lr=1e-2,
    warmup_tokens=300,
    decay="linear",
    final_lr_fraction=0.1,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    flops=1,
    flops_6nd=1,
    flops_paper=1,
    weights_bytes=1,
    optimizer_bytes=1,
    activation_bytes=1,
    seconds=1.0,
    joules=None,
    price=None,
)
DISK = replace(RESIDENT, execution="streamed", store="disk", group_tokens=128)
STAYS = replace(DISK, embeddings_stay=True)
HOST = replace(DISK, store="host")


def prepare_data(folder: Path) -> Path:
    words = ["the", "river", "bends", "north", "of", "a", "quiet", "town", "where", "mills", "once", "turned"]
    lines = [" ".join(words[(i * j + j) % len(words)] for j in range(2, 40)) for i in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    source = DataSource(
        source=folder / "texts.jsonl",
        tokenizer=BpeTokenizer(kind="bpe", vocab_size=300),
        context_length=32,
        held_out_fraction=0.1,
    )
    prepare(source, folder / "data", lambda *_: None)
    return folder / "data"


def run(
    data: Path,
    folder: Path,
    plan: ModelPlan,
    on_step: Callable[[Step], None] = lambda step: None,
    on_event: Callable[[str], None] = lambda text: None,
    systems: Systems = ALONE,
    checkpoint_seconds: float = 0.02,
) -> Trained:
    with Lanes(2) as lanes:
        return train(
            plan,
            data,
            folder,
            lanes=lanes,
            whole_systems=1.0,
            peak_flops_per_second=1e12,
            checkpoint_seconds=checkpoint_seconds,
            read_joules=lambda: None,
            on_step=on_step,
            on_event=on_event,
            systems=systems,
        )


def losses(folder: Path, steps: int = STEPS) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    return [line["loss"] for line in lines]


def stop_at(*steps: int) -> Callable[[Step], None]:
    def on_step(step: Step) -> None:
        if step.step in steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step
