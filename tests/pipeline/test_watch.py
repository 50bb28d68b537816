"""A training model is held beside its family's finished runs; real small runs, one healthy and some with a fault."""

import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import isoflop.train.loop as loop
from isoflop.config import load_family
from isoflop.data import ReadAhead
from isoflop.durable import SealedLines
from isoflop.errors import InputError, WorkError
from isoflop.pipeline import RunFolder, watch
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.member import train_member
from isoflop.pipeline.plan import store_plan
from isoflop.pipeline.watch import watch_run
from isoflop.recipe import Plan, plan_family
from isoflop.train.loop import Step
from tests.pipeline.conftest import MACHINE, Heard

CORPUS = Path(__file__).parents[2] / "corpora" / "pocket.jsonl.zst"
MODEL = '\n[[models]]\nname = "w{w}"\nn_layers = 2\nd_model = {w}\nn_heads = 2\nseeds = {n}\n'
FAULT_AT = 0.5


@pytest.fixture(scope="module")
def ladder(undisturbed: Path) -> Path:
    """The family's file: its three small models are trained, with two seeds each and some hundred steps."""
    file = undisturbed / "watched.toml"
    text = (undisturbed / "tiny.toml").read_text().replace("parameter = 1.0", "parameter = 7.0")
    text = text[: text.index("[[models]]")].replace("corpus.jsonl", "pocket.jsonl")
    file.write_text(text + "".join(MODEL.format(w=width, n=n) for width, n in ((16, 2), (20, 2), (24, 2), (28, 1))))
    with zstandard.open(CORPUS, "rt", encoding="utf-8") as texts, open(undisturbed / "pocket.jsonl", "w") as slice_:
        slice_.writelines(islice(texts, 400))
    train(file, ("w16", "w20", "w24"))
    return file


def train(file: Path, names: tuple[str, ...]) -> tuple[RunFolder, Heard]:
    from isoflop.model import Lanes

    family = load_family(file)
    plan, folder, heard = plan_family(family, MACHINE), RunFolder(file.parent / "watched"), Heard()
    manifest = prepare_data(family, folder, heard)
    store_plan(family, plan, folder)
    for model in plan.models:
        if model.size in names:
            with Lanes(1) as lanes:
                train_member(family, plan, model, manifest, folder, heard, lanes)
    return folder, heard


def train_largest(file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Heard, list[dict[str, Any]]]:
    import shutil

    folder = RunFolder(file.parent / "watched")
    shutil.rmtree(folder.model("w28"), ignore_errors=True)
    _, heard = train(file, ("w28",))
    alarms = folder.model("w28") / "alarms.json"
    return heard, json.loads(alarms.read_text()) if alarms.exists() else []


def test_a_healthy_run_is_told_of_and_not_warned(ladder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, alarms = train_largest(ladder, monkeypatch)
    assert not alarms
    assert "warning" not in heard.notes
    assert heard.notes.count("held-out loss at the end") == 3
    (watched,) = watch_run(ladder.parent / "watched", "w28")
    assert watched.finished
    assert not watched.off_track
    # All seven are looked at by seven logs, each read once; of more than may lead none that is finished.
    read: list[str] = []
    record = watch._record
    monkeypatch.setattr(watch, "_record", lambda folder, model: read.append(model.name) or record(folder, model))
    assert len(watch_run(ladder.parent / "watched")) == 7
    assert sorted(read) == ["w16", "w16-s1", "w20", "w20-s1", "w24", "w24-s1", "w28"]
    monkeypatch.setattr(watch, "MOST_LEADING", 6)
    with pytest.raises(InputError, match="7 models are finished and none trains; name one with --model"):
        watch_run(ladder.parent / "watched")
    assert len(watch_run(ladder.parent / "watched", "w28")) == 1


def test_the_studio_draws_the_band_and_says_what_is_off_its_track(
    ladder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoflop.studio.curves import draw_course, draw_courses
    from isoflop.studio.live import Live

    folder = RunFolder(ladder.parent / "watched")
    result = folder.result("w28")
    if not result.exists():
        train_largest(ladder, monkeypatch)
    kept, alarms = result.read_bytes(), folder.model("w28") / "alarms.json"
    result.unlink()  # as if it trained
    try:
        live = Live(folder)
        now = live.read()
        model = next(one for one in now.models if one.name == "w28")
        assert now.off_track == frozenset()
        assert now.standing["w28"].low < now.standing["w28"].expected < now.standing["w28"].high
        figure = draw_course(model, live.watch(model))
        assert figure is not None
        (panel,) = figure.drawing.panels
        assert [(line.series, line.closed) for line in panel.lines[:2]] == [("band", True), ("expected", False)]
        assert panel.x.high >= float(model.planned.tokens)  # drawn to the end that is still to come
        row = {"loss": 3.0, "low_80": 2.9, "high_80": 3.1, "low_95": 2.8, "high_95": 3.2}
        for quoted, ends in (({}, 0), ({"w28": row, "w16": row}, 2)):  # w16 is finished: nothing of it is foretold
            figure = draw_courses(now, quoted)
            assert figure is not None
            (panel,) = figure.drawing.panels
            assert [line.series for line in panel.lines].count("band") == 1
            assert [line.series for line in panel.lines].count("foretold") == ends
            assert panel.x.high >= float(model.planned.tokens)
        assert panel.y.low < 2.8 < 3.2 < panel.y.high
        alarms.write_text(f'[{{"message": "step 4: astray", "time": {time.time()}}}]')
        now = live.read()
        assert now.off_track == frozenset({"w28"})
        assert "w28: step 4: astray" in [told for _, _, told in now.events]
    finally:
        alarms.unlink(missing_ok=True)
        result.write_bytes(kept)


def random_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    class Corrupted(ReadAhead):
        def take(self) -> Any:
            nonlocal taken
            batch, taken = super().take(), taken + 1
            wrong = np.random.default_rng(taken).integers(0, 300, batch.shape)
            return wrong if taken > fault_step() else batch

    monkeypatch.setattr(loop, "ReadAhead", Corrupted)


def doubled_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda t, **rest: planned(t, **rest) * (2 if t > FAULT_AT * rest["tokens"] else 1)
    )


def never_falling_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda t, **rest: planned(min(t, int(FAULT_AT * rest["tokens"])), **rest)
    )


def dead_layer(monkeypatch: pytest.MonkeyPatch, layer: int = 0) -> None:
    update = loop.Learner.update

    def update_and_kill(learner: Any, norm: float, lr: float, step: int) -> None:
        update(learner, norm, lr, step)
        if step > fault_step():
            for name in ("attn.c_proj.weight", "mlp.c_proj.weight"):
                learner.weights[f"transformer.h.{layer}.{name}"].zero_()
            learner._intact.take(learner._held())  # a layer that died in training, no bit that flipped in memory

    monkeypatch.setattr(loop.Learner, "update", update_and_kill)


def dead_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    dead_layer(monkeypatch, layer=1)


def fault_step() -> int:
    """The step after which a fault of the family's largest model begins"""
    return int(FAULT_AT * STEPS)


STEPS = 0


@pytest.mark.parametrize(
    ("fault", "kind", "within"),
    [
        (random_tokens, "jump", 8),
        (dead_layer, "jump", 8),
        (dead_last_layer, "dead", 16),
        (doubled_rate, "rate", 1),
        (never_falling_rate, "rate", 1),
    ],
)
def test_a_fault_is_warned_of_within_so_many_steps(
    ladder: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None], kind: str, within: int
) -> None:
    global STEPS
    STEPS = next(m.steps for m in plan_family(load_family(ladder), MACHINE).models if m.name == "w28")
    fault(monkeypatch)
    heard, alarms = train_largest(ladder, monkeypatch)
    assert alarms[0]["kind"] == kind
    assert fault_step() < alarms[0]["step"] <= fault_step() + within + 1
    assert f"warning: w28: {alarms[0]['message']}" in heard.notes
    (watched,) = watch_run(ladder.parent / "watched", "w28")
    assert [alarm["step"] for alarm in watched.alarms] == [alarm["step"] for alarm in alarms]


def test_without_finished_runs_rates_and_layers_are_watched_all_the_same(
    plan: Plan, folder: RunFolder, heard: Heard
) -> None:
    with pytest.raises(InputError, match="has made no step yet; start isoflop train"):
        watch_run(folder.path)
    model = plan.models[-1]
    log = folder.model(model.name) / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    watching, sealed, lines = watch.TrainingWatch(plan, model, folder, heard), SealedLines(log), []
    for number in range(1, 9):
        tokens = 256 * number
        rate = watch._planned(model, tokens) * (2 if number >= 4 else 1)
        lost = ("h.0.mlp.c_fc.weight",) if number == 8 else ()
        step = Step(number, 8, tokens, 2048, 5.5, rate, 1.0, 1.0, 0.1, 0.0, 1.0, 1.0, unreached=lost)
        lines.append(sealed.seal({"step": number, "tokens": tokens, "loss": 5.5, "lr": rate, "unreached": len(lost)}))
        watching.step(step)
    log.write_bytes(b"".join(lines))
    kept = json.loads((log.parent / "alarms.json").read_bytes())
    assert [(alarm["kind"], alarm["step"]) for alarm in kept] == [("rate", 4), ("dead", 8)]
    assert f"warning: {model.name}: {kept[0]['message']}" in heard.notes
    (watched,) = watch_run(folder.path)
    assert [(alarm["kind"], alarm["step"]) for alarm in watched.alarms] == [("rate", 4), ("dead", 8)]
    assert (watched.step, watched.loss, watched.off_track, watched.standing) == (8, 5.5, True, None)
    assert watched.untracked.startswith("0 finished runs; to expect another's curve takes 6 or more")
    with pytest.raises(InputError, match="--model big: no such model"):
        watch_run(folder.path, "big")
    log.write_bytes(lines[0].replace(b"5.5", b"5.4") + lines[1])
    with pytest.raises(WorkError, match=r"w32/metrics.jsonl: line 1 changed since it was written"):
        watch_run(folder.path)
