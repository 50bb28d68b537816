"""A real small training run: stopped at any step it ends with the same bits, and every step is written once."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.config import BpeTokenizer, DataSource
from isoflop.data import prepare
from isoflop.durable import SealedLines
from isoflop.errors import InputError, Interrupted, WorkError
from isoflop.model import Lanes, load_kernels, weights_sha256
from isoflop.recipe import BatchStage, ModelPlan, Shape, steps_of
from isoflop.train import Step, Trained, train

SHAPE = Shape(n_layers=2, d_model=16, n_heads=2, vocab_size=300, context_length=32)
SCHEDULE = (BatchStage(0, 4), BatchStage(1000, 6))
TOKENS = 3000
STEPS = sum(run.steps for run in steps_of(SCHEDULE, TOKENS, 32))
SWITCH = steps_of(SCHEDULE, TOKENS, 32)[0].steps  # the next step is the first of the larger batch
PLAN = ModelPlan(
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


ONE_LANE = Lanes(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
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
    on_step: Callable[[Step], None] = lambda step: None,
    plan: ModelPlan = PLAN,
    lanes: Lanes = ONE_LANE,
    on_event: Callable[[str], None] = lambda text: None,
    checkpoint_seconds: float = 0.02,
) -> Trained:
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
    )


def stop_at(*steps: int) -> Callable[[Step], None]:
    def on_step(step: Step) -> None:
        if step.step in steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "plain"])
def test_stopped_and_resumed_at_several_steps_gives_the_same_bits(
    data: Path, tmp_path: Path, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr("isoflop.train.loop.load_kernels", lambda: None)
    whole = run(data, tmp_path / "whole")
    for stop in (1, SWITCH, STEPS - 1, STEPS):
        with pytest.raises(Interrupted) as caught:
            run(data, tmp_path / "parts", stop_at(stop))
        assert caught.value.signal_number == signal.SIGTERM
    parts = run(data, tmp_path / "parts")
    assert weights_sha256(parts.weights) == weights_sha256(whole.weights)
    assert (parts.steps, parts.tokens) == (STEPS, PLAN.tokens)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 1


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM, signal.SIGTERM)])
def test_signals_during_a_save_end_the_run_with_one_whole_generation(
    data: Path, tmp_path: Path, numbers: tuple[signal.Signals, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file, hits = os.replace, []

    def hit(source: Path, target: Path) -> None:
        if target.name.startswith("gen-") and not hits:
            hits.append(target.name)
            for number in numbers:
                os.kill(os.getpid(), number)
        replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", hit)
        with pytest.raises(Interrupted) as caught:
            run(data, tmp_path / "hit")
    assert caught.value.signal_number == numbers[0]
    steps = len((tmp_path / "hit" / "metrics.jsonl").read_text().splitlines())
    assert (tmp_path / "hit" / "checkpoints" / "LATEST").read_text() == f"gen-{steps:08d}\n"
    assert not list((tmp_path / "hit" / "checkpoints").glob("*.part"))
    whole = run(data, tmp_path / "whole")
    assert weights_sha256(run(data, tmp_path / "hit").weights) == weights_sha256(whole.weights)


def test_data_without_their_manifest_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"nowhere/manifest.json: cannot read \(No such file"):
        run(data.with_name("nowhere"), tmp_path)


def test_lines_ahead_of_the_checkpoint_and_torn_ones_are_dropped(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(data, tmp_path, stop_at(5))
    metrics = tmp_path / "metrics.jsonl"
    with open(metrics, "a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    run(data, tmp_path)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


def test_a_changed_digit_of_a_line_is_told_and_the_line_left_out(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(data, tmp_path, stop_at(5))
    metrics = tmp_path / "metrics.jsonl"
    content = metrics.read_bytes()
    metrics.write_bytes(content.replace(b'"step": 3, ', b'"step": 8, ', 1))
    events: list[str] = []
    run(data, tmp_path, on_event=events.append)
    assert events == [f"{metrics}: of 1 steps the lines are gone or have changed, line 3 on; the curves lack them"]
    assert SealedLines(metrics).intact(metrics.read_bytes()) == metrics.read_bytes()
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [step for step in range(1, STEPS + 1) if step != 3]


def test_the_loss_does_not_depend_on_how_a_step_is_cut(data: Path, tmp_path: Path) -> None:
    losses = []
    for size in (1, 2):
        plan = replace(PLAN, precision="fp32", microbatch_sequences=size)
        seen: list[float] = []
        run(data, tmp_path / str(size), lambda step, seen=seen: seen.append(step.loss), plan)  # type: ignore[misc]
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_diverging_run_stops_before_its_update(data: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"diverged.*lower recipe.peak_lr"):
        run(data, tmp_path, plan=replace(PLAN, peak_lr=1e30, clip_norm=1e30))


def test_any_number_of_lanes_gives_the_same_bits_also_when_it_changes_on_the_way(data: Path, tmp_path: Path) -> None:
    hashes = set()
    for count in (1, 2, 3):
        with Lanes(count) as lanes:
            hashes.add(weights_sha256(run(data, tmp_path / str(count), lanes=lanes).weights))
    with Lanes(3) as lanes:
        with pytest.raises(Interrupted):
            run(data, tmp_path / "changed", stop_at(9), lanes=lanes)
        hashes.add(weights_sha256(run(data, tmp_path / "changed").weights))
    assert len(hashes) == 1


def test_a_run_begun_with_kernels_does_not_go_on_without_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_kernels() is not None, "the tests need a C compiler"
    with pytest.raises(Interrupted):
        run(data, tmp_path, stop_at(3))
    monkeypatch.setattr("isoflop.train.loop.load_kernels", lambda: None)
    with pytest.raises(InputError, match=r"C compiler.*install gcc"):
        run(data, tmp_path)
