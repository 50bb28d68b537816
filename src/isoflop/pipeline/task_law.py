"""The law of accuracy on a task, of a run directory's models or of anyone's table."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.errors import InputError
from isoflop.given import csv_text
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import read_results
from isoflop.pipeline.task_scores import Figure, TaskScore, read_task_scores
from isoflop.recipe.flops import six_nd

if TYPE_CHECKING:
    from isoflop.law.downstream import Accuracy, DownstreamLaw, TaskPoint
    from isoflop.pipeline.predict import Target


# Instead of a task's name: the mean of all that the models were asked alike.
AVERAGE = "average"


@dataclass(frozen=True)
class TaskQuestion:
    """Which accuracy: a task of a run directory, or a column of a CSV file with, if measured, the column of the loss on
    its right answers; `chance` is the accuracy of guessing, where the run directory does not say."""

    accuracy: str
    task_loss: str | None = None
    chance: float | None = None


@dataclass(frozen=True)
class TaskLaw:
    """The law, the points it was fitted to, and how it foretells the largest budget from the rest (None: not
    asked; empty: these are too few)."""

    question: TaskQuestion
    law: "DownstreamLaw"
    points: tuple["TaskPoint", ...]
    tests: tuple[tuple["TaskPoint", "Accuracy"], ...] | None = None

    def predict(self, targets: Sequence["Target"]) -> list["Accuracy"]:
        """The accuracy of each target."""
        return [self.law.predict(target.params, target.tokens, self._flops(target)) for target in targets]

    def beyond(self, target: "Target") -> float:
        """Its compute over that of the largest run: how far the law is followed."""
        return self._flops(target) / max(point.flops for point in self.points)

    def _flops(self, target: "Target") -> float:
        """Counted as those of the points of the nearest size"""
        near = min(self.points, key=lambda point: abs(math.log(point.params / target.params)))
        return target.params * target.tokens * (near.flops / (near.params * near.tokens))

    def to_json(self) -> dict[str, Any]:
        """What `isoflop law --accuracy --json` prints."""
        ways = [{"kind": way.kind, "weight": way.weight, "error": way.error} for way in self.law.ways]
        tests = [
            {"run": point.run, "params": point.params, "tokens": point.tokens, "measured": point.accuracy, **vars(said)}
            for point, said in self.tests or ()
        ]
        return {
            **asdict(self.question),
            "runs": len(self.points),
            "kind": self.law.kind,
            "ways": ways,
            "sigmoid": vars(self.law.sigmoid),
            "held_out": tests,
        }


def task_law(path: Path, question: TaskQuestion, test: bool = False) -> TaskLaw:
    """The law of one task; with `test`, also judged on the largest budget.

    Raises:
        InputError: there are no such points, too few for a law, or chance is not known.
    """
    from isoflop.law.downstream import LEAST_RUNS, fit_downstream

    points, chance = _of_folder(find_run(path), question) if path.is_dir() else _of_table(path, question)
    if chance is None:
        raise InputError(f"{path}: give --chance, the accuracy of guessing (0.25 with four answers)")
    try:
        law = fit_downstream(points, chance)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    largest = max(point.flops for point in points)
    rest = [point for point in points if point.flops < largest / 1.05]
    tests: list[tuple[TaskPoint, Accuracy]] = []
    if test and len(rest) >= LEAST_RUNS and len({point.flops for point in rest}) > 2:
        judge = fit_downstream(rest, chance)
        held = [point for point in points if point.flops >= largest / 1.05]
        tests = [(point, judge.predict(point.params, point.tokens, point.flops)) for point in held]
    return TaskLaw(
        TaskQuestion(question.accuracy, question.task_loss, chance), law, tuple(points), tuple(tests) if test else None
    )


def _of_table(path: Path, question: TaskQuestion) -> tuple[list["TaskPoint"], float | None]:
    from isoflop.law.downstream import TaskPoint

    reader = csv.DictReader(io.StringIO(csv_text(path)))
    try:
        header = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        rows = [(reader.line_num, row) for row in reader if any(row.get(name) for name in header)]
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num}: not valid CSV ({error})") from None
    wanted = [
        "params",
        "tokens",
        question.accuracy.lower(),
        *([question.task_loss.lower()] if question.task_loss else []),
    ]
    missing = [name for name in wanted if name not in header]
    if missing:
        there = ", ".join(filter(None, header))[:160]
        raise InputError(f"{path}, row 1: no column {', '.join(missing)}; there are {there}")
    found = []
    for number, row in rows:
        # A run that was not asked this task says nothing of it.
        if not (row[wanted[2]] or "").strip():
            continue
        params, tokens, accuracy, *losses = (_number(f"{path}, row {number}", name, row[name]) for name in wanted)
        flops = _number(f"{path}, row {number}", "flops", row["flops"]) if "flops" in header else six_nd(params, tokens)
        run = (row.get("run") or "").strip() or f"row {number}"
        found.append(TaskPoint(params, tokens, flops, losses[0] if losses else None, accuracy, run))
    return found, question.chance


def _of_folder(folder: RunFolder, question: TaskQuestion) -> tuple[list["TaskPoint"], float | None]:
    """The finished models of a family that were asked the task."""
    from isoflop.law.downstream import TaskPoint

    results = read_results(folder, stored_plan(folder)[1])
    all_scores = {result.name: read_task_scores(folder, result.name) for result in results}
    if question.accuracy == AVERAGE:
        all_scores = _averages(all_scores)
    scores = _alike(all_scores, question.accuracy)
    if not scores:
        asked = {score.task for some in all_scores.values() for score in some}
        there = f"asked were {', '.join(sorted(asked))}" if asked else "run isoflop evaluate first"
        raise InputError(f"{folder.path}: no model has an accuracy on {question.accuracy!r}; {there}")
    chance = question.chance
    found = []
    for result in results:
        score = scores.get(result.name)
        if score is None:
            continue
        chance = score.chance if chance is None else chance
        found.append(
            TaskPoint(
                float(result.params),
                float(result.tokens),
                float(result.flops),
                score.gold_bits_per_byte,
                score.figure.value,
                result.name,
            )
        )
    return found, chance


def _averages(scores: dict[str, list[TaskScore]]) -> dict[str, list[TaskScore]]:
    """For each way of asking, the mean over the accuracies that all models asked so have in common; a group is one."""
    ways: dict[tuple[Any, ...], dict[str, dict[str, TaskScore]]] = {}
    for name, some in scores.items():
        members = {member for score in some for member in score.members}
        last = max((score.step for score in some), default=0)
        for score in some:
            if score.metric == "acc" and score.chance is not None and score.task not in members and score.step == last:
                way = (score.shots, score.limit, score.precision)
                ways.setdefault(way, {}).setdefault(name, {})[score.task] = score
    found: dict[str, list[TaskScore]] = {name: [] for name in scores}
    for of_models in ways.values():
        common = set.intersection(*(set(tasks) for tasks in of_models.values()))
        if len(common) > 1:
            for name, tasks in of_models.items():
                found[name].append(_mean([tasks[task] for task in sorted(common)]))
    return found


def _mean(scores: Sequence[TaskScore]) -> TaskScore:
    losses = [score.gold_bits_per_byte for score in scores if score.gold_bits_per_byte is not None]
    return replace(
        scores[0],
        task=AVERAGE,
        metric="acc",
        metrics={"acc": Figure(math.fsum(score.figure.value for score in scores) / len(scores), None)},
        chance=math.fsum(score.chance or 0.0 for score in scores) / len(scores),
        gold_bits_per_byte=math.fsum(losses) / len(losses) if len(losses) == len(scores) else None,
        items=sum(score.items for score in scores),
        members=(),
    )


def _alike(scores: dict[str, list[TaskScore]], task: str) -> dict[str, TaskScore]:
    """The scores of the models' last steps on a task, all with the number of examples and questions that most models
    have in common; of equals, the fewest examples."""
    of_task = {name: [score for score in some if score.task == task] for name, some in scores.items()}
    ways = Counter((score.shots, score.limit) for some in of_task.values() for score in some)
    if not ways:
        return {}
    way = max(ways, key=lambda way: (ways[way], -way[0]))
    kept = {name: [s for s in some if (s.shots, s.limit) == way] for name, some in of_task.items()}
    return {name: max(some, key=lambda score: score.step) for name, some in kept.items() if some}


def _number(where: str, name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{where}: {name} = {(text or '')[:40]!r} is not a number") from None
