"""What benchmarks/load.py measures at full size, small and counted."""

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoflop.config import load_family
from isoflop.model import Lanes
from isoflop.pipeline.plan import plan_document
from isoflop.recipe import BatchStage, plan_family
from isoflop.train import Step, train
from tests.pipeline.conftest import MACHINE
from tests.streaming.runs import RESIDENT, prepare_data

SIZES = """
name = "sizes"
[data]
source = "corpus.jsonl"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 8
"""


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions of Python `work` calls."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def test_planning_twice_the_sizes_is_twice_the_work(tmp_path: Path) -> None:
    model = '[[models]]\nname = "m{0}"\nn_layers = 2\nd_model = {1}\nn_heads = 2\n'

    def planned(sizes: int) -> int:
        path = tmp_path / f"{sizes}.toml"
        path.write_text(SIZES + "".join(model.format(i, 8 + 2 * i) for i in range(sizes)))

        def plan() -> None:
            family = load_family(path)
            made = plan_family(family, MACHINE)
            assert len(plan_document(family, made)["models"]) == sizes

        return calls_of(plan)

    planned(2)  # what is imported once
    fifty, hundred = planned(50), planned(100)
    assert hundred < 2.3 * fifty


def test_five_times_the_steps_leave_nothing_behind(tmp_path: Path) -> None:
    data, steps = prepare_data(tmp_path), 200
    tokens = steps * RESIDENT.shape.context_length
    plan = replace(RESIDENT, steps=steps, tokens=tokens, batch_schedule=(BatchStage(0, 1),), microbatch_sequences=1)
    held: list[tuple[int, int]] = []

    def on_step(step: Step) -> None:
        if step.step in (steps // 5, steps):
            gc.collect()
            held.append((len(gc.get_objects()), len(os.listdir("/proc/self/fd"))))

    with Lanes(1) as lanes:
        train(
            plan,
            data,
            tmp_path / "run",
            lanes=lanes,
            whole_systems=1.0,
            peak_flops_per_second=1e12,
            checkpoint_seconds=1e9,
            read_joules=lambda: None,
            on_step=on_step,
            on_event=lambda line: None,
        )
    (objects, files), (objects_later, files_later) = held
    # A step that kept one object of its own would have kept 160.
    assert objects_later - objects < 100
    assert files_later == files
