"""A step that goes wrong is told with its documents and answered as the plan says: alike everywhere, always."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from isoflop.errors import DivergenceError, Interrupted, WorkError
from isoflop.interrupts import Pending
from isoflop.model import Lanes, weights_sha256
from isoflop.recipe import ModelPlan
from isoflop.systems.group import ALONE, Systems
from isoflop.train import Step, Trained, train
from isoflop.train.learner import Learner
from isoflop.train.spikes import Healthy, read_spikes
from isoflop.train.streamed import StreamedLearner
from tests.streaming.runs import DISK, HOST, RESIDENT, STEPS, prepare_data
from tests.systems.test_group import on_threads

EXECUTIONS = pytest.mark.parametrize("plan", [RESIDENT, DISK, HOST], ids=["resident", "disk", "host"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[float, float]]:
    """Steps whose loss and gradient norm are changed by such factors, wherever they are computed."""
    factors: dict[int, tuple[float, float]] = {}
    for kind in (Learner, StreamedLearner):
        gradients, norm = kind.gradients, kind.norm

        def changed(
            self: Any, microbatches: Sequence[Callable[[], Tensor]], tokens: int, before: Any = gradients
        ) -> float:
            self.step = int(self._systems.place.rpartition(" ")[2])
            return float(before(self, microbatches, tokens) * factors.get(self.step, (1.0, 1.0))[0])

        def changed_norm(self: Any, before: Any = norm) -> float:
            return float(before(self) * factors.get(self.step, (1.0, 1.0))[1])

        monkeypatch.setattr(kind, "gradients", changed)
        monkeypatch.setattr(kind, "norm", changed_norm)
    monkeypatch.setattr("isoflop.train.spikes.LEAST", 4)
    monkeypatch.setattr("isoflop.train.spikes.REWIND_STEPS", 5)
    return factors


def run(
    data: Path,
    folder: Path,
    plan: ModelPlan,
    on_step: Callable[[Step], None] = lambda step: None,
    systems: Systems = ALONE,
    events: list[str] | None = None,
) -> Trained:
    with Lanes(1) as lanes:
        return train(
            plan,
            data,
            folder,
            lanes=lanes,
            whole_systems=1.0,
            peak_flops_per_second=1e12,
            checkpoint_seconds=0.02,
            read_joules=lambda: None,
            on_step=on_step,
            on_event=(events if events is not None else []).append,
            systems=systems,
        )


def spikes(folder: Path) -> list[dict[str, Any]]:
    return read_spikes(folder / "spikes.json")


def test_a_healthy_run_has_no_spikes_and_the_bits_of_any_answer(data: Path, tmp_path: Path) -> None:
    hashes = set()
    for answer in ("warn", "skip", "rewind"):
        events: list[str] = []
        plan = replace(RESIDENT, on_spike=answer)
        hashes.add(weights_sha256(run(data, tmp_path / answer, plan, events=events).weights))
        assert events == []
        assert not (tmp_path / answer / "spikes.json").exists()
    assert len(hashes) == 1


@pytest.mark.parametrize(("factors", "kind"), [((9.0, 1.0), "loss"), ((1.0, 99.0), "gradient")])
def test_a_spike_is_told_with_the_documents_of_its_batch_and_the_run_goes_on(
    data: Path, tmp_path: Path, sick: dict[int, tuple[float, float]], factors: tuple[float, float], kind: str
) -> None:
    sick[8] = factors
    events: list[str] = []
    assert run(data, tmp_path, RESIDENT, events=events).steps == STEPS
    (spike,) = spikes(tmp_path)
    assert (spike["step"], spike["kind"], spike["answer"]) == (8, kind, "the update was made")
    assert {passage["source"] for passage in spike["documents"]} == {"texts.jsonl"}
    assert sum(passage["tokens"] for passage in spike["documents"]) == 4 * 33
    assert len(events) == 1
    assert "step 8" in events[0]
    assert "is a spike" in events[0]
    path = tmp_path / "spikes.json"
    path.write_text(path.read_text().replace('"step": 8', '"step": 7'))
    assert run(data, tmp_path, RESIDENT, events=events).steps == STEPS
    assert f"{path}: damaged (its SHA-256" in events[1]


@EXECUTIONS
@pytest.mark.parametrize("answer", ["skip", "rewind"])
def test_an_answered_spike_gives_the_same_bits_in_any_execution_and_through_any_stops(
    data: Path, tmp_path: Path, sick: dict[int, tuple[float, float]], plan: ModelPlan, answer: str
) -> None:
    sick |= {8: (math.nan, 1.0), 13: (9.0, 1.0)}
    wanted = weights_sha256(run(data, tmp_path / "wanted", replace(RESIDENT, on_spike=answer)).weights)
    plan = replace(plan, on_spike=answer)
    for stop in (6, 8, 11, 14):

        def at(step: Step, stop: int = stop) -> None:
            if step.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted):
            run(data, tmp_path / "stopped", plan, at)
    assert weights_sha256(run(data, tmp_path / "stopped", plan).weights) == wanted
    assert spikes(tmp_path / "stopped") == spikes(tmp_path / "wanted")
    assert [one["step"] for one in spikes(tmp_path / "wanted")] == [8, 13]
    without = replace(RESIDENT, on_spike="warn")
    sick.clear()
    assert weights_sha256(run(data, tmp_path / "without", without).weights) != wanted


def test_going_back_is_training_without_the_batches_in_between(
    data: Path, tmp_path: Path, sick: dict[int, tuple[float, float]]
) -> None:
    sick[8] = (math.inf, 1.0)
    gone_back = run(data, tmp_path / "rewind", replace(RESIDENT, on_spike="rewind"))
    # The slow way: steps 6 to 8, which followed the checkpoint of step 5, make no update.
    sick |= dict.fromkeys((6, 7, 8), (math.inf, 1.0))
    passed_over = run(data, tmp_path / "skip", replace(RESIDENT, on_spike="skip"))
    assert weights_sha256(gone_back.weights) == weights_sha256(passed_over.weights)


@pytest.mark.parametrize("answer", ["skip", "rewind"])
def test_systems_answer_alike(
    data: Path,
    tmp_path: Path,
    sick: dict[int, tuple[float, float]],
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("isoflop.train.loop.deferred", lambda: nullcontext(Pending()))  # threads hear no signals
    sick[8] = (math.nan, 1.0)
    plan = replace(RESIDENT, on_spike=answer)
    wanted = weights_sha256(run(data, tmp_path / "alone", plan).weights)

    def part(systems: Systems) -> str:
        return weights_sha256(run(data, tmp_path / "two", plan, systems=systems).weights)

    assert on_threads(2, part) == [wanted] * 2
    assert spikes(tmp_path / "two") == spikes(tmp_path / "alone")


@pytest.mark.parametrize("answer", ["skip", "rewind"])
def test_more_spikes_than_allowed_stop_the_run_with_its_cause(
    data: Path, tmp_path: Path, sick: dict[int, tuple[float, float]], answer: str
) -> None:
    sick |= dict.fromkeys(range(7, STEPS + 1), (math.nan, 1.0))
    plan = replace(RESIDENT, on_spike=answer, spikes_allowed=3)
    for _ in range(2):  # started again it ends at the same step, and never trains for ever
        with pytest.raises(DivergenceError, match=r"step 10: over recipe.spikes_allowed = 3.*lower recipe.peak_lr"):
            run(data, tmp_path, plan)
        assert [one["step"] for one in spikes(tmp_path)] == [7, 8, 9, 10]


def test_a_damaged_checkpoint_to_go_back_to_is_named(
    data: Path, tmp_path: Path, sick: dict[int, tuple[float, float]]
) -> None:
    sick[8] = (math.nan, 1.0)

    def damage(step: Step) -> None:
        if step.step == 7:
            path = tmp_path / "checkpoints" / "gen-00000005" / "layer-0.0.safetensors"
            path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(WorkError, match=r"gen-00000005: the checkpoint that on_spike = 'rewind' .* is damaged"):
        run(data, tmp_path, replace(RESIDENT, on_spike="rewind"), damage)


def test_a_falling_loss_and_steady_noise_are_no_spikes() -> None:
    healthy = Healthy([])
    for step in range(1, 400):
        loss = 2 + 8 / step + 0.05 * math.sin(step * 12.9898) * math.cos(step * 78.233)
        assert healthy.judge(loss, 1 / loss) is None
        healthy.add(loss, 1 / loss)
    assert len(healthy.recent) == 64
