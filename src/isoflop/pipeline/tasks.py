"""Downstream tasks of a family's models: what is not measured yet is, the rest is read."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from isoflop.config import Family
from isoflop.errors import InputError
from isoflop.pipeline.evaluate import evaluate_family
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.task_scores import Figure, TaskScore, add_task_scores, read_task_scores
from isoflop.pipeline.weights import finished_weights, saved_steps, weights_at
from isoflop.published import published_tasks

if TYPE_CHECKING:
    from isoflop.evaluate.harness import Outcome, Tasks
    from isoflop.evaluate.task_data import TaskData
    from isoflop.model import Weights
    from isoflop.pipeline.result import Result
    from isoflop.published import PublishedTask
    from isoflop.recipe import ModelPlan

HELD_OUT, PUBLISHED = "heldout", "published"
INSTALL = "downstream tasks need lm-evaluation-harness: pip install 'isoflop[eval]'"
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
MOST_SHOTS = 100
_TELL_SECONDS = 5.0


@dataclass(frozen=True)
class Wish:
    """What to ask: tasks, numbers of examples, which model (None: all) and step (None: the last, "all": every saved).

    `data_dir` holds data sets, `task_folder` own tasks; `download` allows to fetch data from the hub.
    """

    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    limit: int | None = None
    model: str | None = None
    step: int | Literal["all"] | None = None
    data_dir: Path | None = None
    task_folder: Path | None = None
    download: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass
class Evaluation:
    """Held-out losses of the trained models, and the scores asked for by model; `notes` say what was left out."""

    results: "list[Result]"
    scores: dict[str, list[TaskScore]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Checkpoint:
    """A model after a step; `weights_sha256` is known before they are loaded only of a finished training."""

    plan: "ModelPlan"
    step: int
    weights_sha256: str | None


def wish_of(family: Family, **given: Any) -> Wish:
    """What the family file asks for, with what is given instead; None is nothing given."""
    said = family.evaluation
    wish = Wish(tuple(said.tasks), tuple(said.shots), said.limit, data_dir=said.data_dir, task_folder=said.task_folder)
    return replace(wish, **{key: value for key, value in given.items() if value is not None})


def parse_wish(tasks: str | None, shots: str | None, step: str | None, precision: str | None) -> dict[str, Any]:
    """What the command line says as text.

    Raises:
        InputError: it cannot be read.
    """
    given: dict[str, Any] = {}
    if tasks is not None:
        given["tasks"] = tuple(name.strip() for name in tasks.split(",") if name.strip())
        if not given["tasks"]:
            raise InputError(f"--tasks {tasks!r}: give names, as in --tasks heldout,hellaswag")
    if shots is not None:
        given["shots"] = tuple(_whole(part) for part in shots.split(","))
        if not all(number is not None and number <= MOST_SHOTS for number in given["shots"]):
            raise InputError(f"--shots {shots!r}: give whole numbers up to {MOST_SHOTS}, as in --shots 0,5")
    if step is not None:
        given["step"] = "all" if step == "all" else _whole(step)
        if given["step"] is None:
            raise InputError(f"--step {step!r}: give the number of a saved step, or all")
    if precision is not None:
        if precision not in _DTYPES:
            raise InputError(f"--precision {precision!r}: use fp32 or bf16")
        given["precision"] = precision
    return given


def _whole(text: str) -> int | None:
    """A whole number from 0 on, None if it is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def evaluate_tasks(family: Family, folder: RunFolder, listener: Listener, wish: Wish) -> Evaluation:
    """Held-out losses, and what the models reach on the tasks; run again it does only what is missing.

    Raises:
        InputError: no model is trained, a task, model or step is not known, or the data of a task are not at hand.
        WorkError: a fault while working; every score so far is kept.
    """
    from isoflop.evaluate.task_data import TaskData

    evaluation = Evaluation(evaluate_family(family, folder, listener))
    checkpoints = _checkpoints(family, folder, evaluation.results, wish)
    data = TaskData(wish.data_dir, wish.download)
    with locked(folder):
        questions = _questions(family, folder, wish, data, evaluation.notes)
        stored = {one.plan.name: read_task_scores(folder, one.plan.name) for one in checkpoints}

        def found(one: _Checkpoint, shots: int) -> list[TaskScore]:
            return [score for score in stored[one.plan.name] if _fits(score, one, shots, wish)]

        missing = [
            (one, shots, names)
            for shots in wish.shots
            for one in checkpoints
            if (names := [name for name in questions.names if name not in {score.task for score in found(one, shots)}])
        ]
        if missing:
            for one, scores in _measure(folder, listener, wish, data, questions, missing):
                add_task_scores(folder, one.plan.name, scores)
                stored[one.plan.name] = read_task_scores(folder, one.plan.name)
    for one in checkpoints:
        said = evaluation.scores.setdefault(one.plan.name, [])
        for shots in wish.shots:
            of = {score.task: score for score in found(one, shots)}
            said += [of[name] for task in questions.names for name in (task, *of[task].members)]
    return evaluation


def _checkpoints(family: Family, folder: RunFolder, results: "list[Result]", wish: Wish) -> list[_Checkpoint]:
    hashes = {result.name: result.weights_sha256 for result in results}
    known = [model for model in make_plan(family, folder).models if wish.step is not None or model.name in hashes]
    if wish.model is not None and wish.model not in [model.name for model in known]:
        there = ", ".join(model.name for model in known)
        raise InputError(f"--model {wish.model}: no such model is trained; there are {there}")
    found = []
    for model in known:
        if wish.model not in (None, model.name):
            continue
        last = model.steps if wish.step is None else wish.step
        steps = saved_steps(model, folder) if last == "all" else [last]
        found += [_Checkpoint(model, step, hashes.get(model.name) if step == model.steps else None) for step in steps]
    return found


def _fits(score: TaskScore, one: _Checkpoint, shots: int, wish: Wish) -> bool:
    """Whether it is a measurement of that checkpoint, as it is wished for."""
    same = (score.shots, score.limit, score.step, score.precision) == (shots, wish.limit, one.step, wish.precision)
    return same and one.weights_sha256 in (None, score.weights_sha256)


@dataclass(frozen=True)
class _Questions:
    """The harness's names of what is asked, the folders where their YAML lies, and what guessing reaches."""

    names: list[str]
    folders: list[Path]
    chances: dict[str, float]


def _questions(family: Family, folder: RunFolder, wish: Wish, data: "TaskData", notes: list[str]) -> _Questions:
    """Suites spelt out. Of the published tasks those whose data are at hand; the notes say what is left out."""
    names: list[str] = []
    folders = [] if wish.task_folder is None else [wish.task_folder]
    published = {task.harness_task: task for task in published_tasks()}
    chances = {name: task.chance for name, task in published.items()}
    for name in wish.tasks:
        if name == HELD_OUT:
            from isoflop.evaluate.suite import make_suite

            suite = make_suite(folder.data, folder.suite, family.data.context_length)
            chances |= suite.chances
            names += suite.names
            folders.append(folder.suite)
            if suite.left_out:
                notes.append(f"too little held-out text for {', '.join(suite.left_out)}: fewer than 50 questions")
        elif name == PUBLISHED:
            names += _at_hand(list(published.values()), data, notes)
        else:
            names.append(name)
    if not names:
        raise InputError(f"nothing to ask: {'; '.join(notes)}")
    return _Questions(list(dict.fromkeys(names)), folders, chances)


def _at_hand(tasks: "list[PublishedTask]", data: "TaskData", notes: list[str]) -> list[str]:
    """The harness's names of those whose data set is here; a note names the others."""
    from isoflop.evaluate.task_data import fetch_command

    here, away = [], []
    for task in tasks:
        try:
            data.place(task.harness_task, task.data_set)
            here.append(task)
        except InputError:
            away.append(task)
    if away:
        notes.append(
            f"left out, as their data sets are not on this machine: {', '.join(task.harness_task for task in away)}. "
            "With network add --download; without, run this elsewhere, bring DATA here and add --data-dir DATA:"
        )
        notes += dict.fromkeys(fetch_command(task.data_set) for task in away)
    return [task.harness_task for task in here]


def _measure(
    folder: RunFolder,
    listener: Listener,
    wish: Wish,
    data: "TaskData",
    questions: _Questions,
    missing: list[tuple[_Checkpoint, int, list[str]]],
) -> Iterator[tuple[_Checkpoint, list[TaskScore]]]:
    """Asks what is missing: a round of questions after the other, each of all models."""
    _prepare(wish.download)
    import torch

    from isoflop.data import load_manifest
    from isoflop.data.manifest import TOKENIZER_FILE
    from isoflop.data.tokenizer import load_tokenizer
    from isoflop.evaluate.harness import Encoder, NativeModel, harness_folders, load_tasks
    from isoflop.model import Lanes, Reader, weights_sha256
    from isoflop.systems.machine import available_cores

    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = Encoder(load_tokenizer(folder.data / TOKENIZER_FILE), load_manifest(folder.data).tokenizer.end_of_text)
    folders = [*questions.folders, *harness_folders({task.harness_folder for task in published_tasks()})]
    loaded: dict[tuple[str, ...], Tasks] = {}
    with Lanes(1 if device == "cuda" else available_cores()) as lanes:
        for one, shots, names in missing:
            if tuple(names) not in loaded:
                loaded[tuple(names)] = load_tasks(names, folders, data)
            weights, tokens = _weights(one, folder, listener)
            reader = Reader(weights, one.plan.shape, getattr(torch, _DTYPES[wish.precision]), device)
            told = _Told(listener, f"{one.plan.name}, {shots} shots")
            outcomes = loaded[tuple(names)].run(NativeModel(reader, encoder, lanes, told.more), shots, wish.limit)
            told.done()
            sha256 = one.weights_sha256 or weights_sha256(weights)
            yield one, [_score(outcome, one, tokens, sha256, wish, questions.chances) for outcome in outcomes]


def _weights(one: _Checkpoint, folder: RunFolder, listener: Listener) -> "tuple[Weights, int]":
    if one.weights_sha256 is not None:
        return finished_weights(one.plan, folder, listener), one.plan.tokens
    return weights_at(one.plan, folder, one.step, listener)


def _score(
    outcome: "Outcome", one: _Checkpoint, tokens: int, sha256: str, wish: Wish, chances: dict[str, float]
) -> TaskScore:
    metrics = {name: Figure(metric.value, metric.stderr) for name, metric in outcome.metrics.items()}
    return TaskScore(
        task=outcome.task,
        shots=outcome.shots,
        limit=wish.limit,
        step=one.step,
        tokens=tokens,
        weights_sha256=sha256,
        precision=wish.precision,
        metric="acc" if "acc" in metrics else next(iter(metrics)),
        chance=chances.get(outcome.task),
        metrics=metrics,
        gold_bits_per_byte=outcome.gold_bits_per_byte,
        items=outcome.items,
        members=outcome.members,
        version=outcome.version,
        items_sha256=outcome.items_sha256,
        harness=version("lm-eval"),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _prepare(download: bool) -> None:
    """Checks that the harness is there and sets what its libraries read when they are loaded.

    Raises:
        InputError: it is not.
    """
    try:
        version("lm-eval")
    except PackageNotFoundError:
        raise InputError(INSTALL) from None
    # Progress bars and processes of their own would come between; without --download nothing may wait for a network.
    os.environ |= {"TQDM_DISABLE": "1", "DISABLE_MULTIPROC": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not download:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


class _Told:
    """Tells the listener now and then how many requests are answered; lanes call it side by side."""

    def __init__(self, listener: Listener, what: str) -> None:
        self._listener, self._what = listener, what
        self._lock = Lock()
        self._answered, self._began = 0, time.monotonic()
        self._told_at = self._began

    def more(self, answered: int) -> None:
        with self._lock:
            self._answered += answered
            now = time.monotonic()
            if now - self._told_at >= _TELL_SECONDS:
                self._told_at = now
                self._listener.note(f"{self._what}: {self._answered:,} requests answered")

    def done(self) -> None:
        seconds = time.monotonic() - self._began
        self._listener.note(f"{self._what}: {self._answered:,} requests answered in {seconds:.1f} s")
