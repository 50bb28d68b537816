"""What `isoflop evaluate` prints: held-out losses, then a table of tasks for each number of examples."""

from typing import TYPE_CHECKING

from isoflop.cli import numbers as n
from isoflop.cli.table import print_table
from isoflop.cli.tables import print_results

if TYPE_CHECKING:
    from isoflop.pipeline.task_scores import TaskScore
    from isoflop.pipeline.tasks import Evaluation


def print_evaluation(evaluation: "Evaluation") -> None:
    """Losses and accuracies; the tasks of a group stand in tasks.json only."""
    print_results(evaluation.results)
    scores = [(name, score) for name, of_model in evaluation.scores.items() for score in of_model]
    for shots in sorted({score.shots for _, score in scores}):
        _print_shots(shots, [(name, score) for name, score in scores if score.shots == shots])
    groups = sorted({score.task for _, score in scores if score.members})
    if groups:
        print(f"task by task in models/*/tasks.json: {', '.join(groups)}")
    for note in evaluation.notes:
        print(f"    {note}" if note.startswith("hf ") else f"note: {note}")


def _print_shots(shots: int, scores: "list[tuple[str, TaskScore]]") -> None:
    inside = {member for _, score in scores for member in score.members}
    tasks = list(dict.fromkeys(score.task for _, score in scores if score.task not in inside))
    by_row: dict[tuple[str, int], dict[str, TaskScore]] = {}
    for name, score in scores:
        by_row.setdefault((name, score.step), {})[score.task] = score
    some = next(iter(by_row.values()))
    several = len({name for name, _ in by_row}) < len(by_row)
    print(f"\n{shots} examples before each question: accuracy in per cent +- standard error")
    print_table(
        ["model", *(["step"] if several else []), *(_short(task) for task in tasks)],
        [
            *(
                [
                    name,
                    *([f"{step:,}"] if several else []),
                    *(_accuracy(row[task]) if task in row else n.MISSING for task in tasks),
                ]
                for (name, step), row in by_row.items()
            ),
            ["guessing", *([""] if several else []), *(_chance(some.get(task)) for task in tasks)],
        ],
    )


def _short(task: str) -> str:
    return task.removeprefix("heldout_").replace("_", " ")


def _accuracy(score: "TaskScore") -> str:
    figure = score.figure
    if score.metric not in ("acc", "exact_match"):
        return f"{n.digits(figure.value)} ({score.metric})"
    error = "" if figure.stderr is None else f" +- {100 * figure.stderr:.1f}"
    return f"{100 * figure.value:.1f}{error}"


def _chance(score: "TaskScore | None") -> str:
    return n.MISSING if score is None or score.chance is None else f"{100 * score.chance:.1f}"
