"""tasks.json: what one trained model reached on downstream tasks, by task, examples and checkpoint."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from isoflop.durable import write_json
from isoflop.errors import WorkError
from isoflop.pipeline.folder import RunFolder


@dataclass(frozen=True)
class Figure:
    """A figure and its standard error; None where the harness gives none."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class TaskScore:
    """One task with `shots` examples before each question, at one checkpoint.

    `metric` names the headline among `metrics`; `chance` is what guessing reaches in it, None if not known. `limit` is
    the most questions asked, None for all. `gold_bits_per_byte` is the loss on the right answers. `members` are the
    tasks of a group. `version` is the task's, `items_sha256` a hash of its questions, `harness` the version of
    lm-evaluation-harness that scored.
    """

    task: str
    shots: int
    limit: int | None
    step: int
    tokens: int
    weights_sha256: str
    precision: str
    metric: str
    chance: float | None
    metrics: dict[str, Figure]
    gold_bits_per_byte: float | None
    items: int
    members: tuple[str, ...]
    version: str
    items_sha256: str
    harness: str
    time: str

    @property
    def figure(self) -> Figure:
        """The headline."""
        return self.metrics[self.metric]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal keys: the same measurement."""
        return (self.task, self.shots, self.limit, self.step, self.precision)


def read_task_scores(folder: RunFolder, name: str) -> list[TaskScore]:
    """The scores of a model; none while it has none.

    Raises:
        WorkError: tasks.json is damaged.
    """
    path = folder.task_scores(name)
    try:
        scores = TypeAdapter(_Document).validate_json(path.read_bytes(), strict=True).scores
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WorkError(f"{path}: cannot read ({error.strerror}); check its permissions and its disk") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))} {first['msg']}") from None
    if any(score.metric not in score.metrics for score in scores):
        raise _damaged(path, "a headline is not among the metrics")
    return list(scores)


def add_task_scores(folder: RunFolder, name: str, scores: list[TaskScore]) -> None:
    """Puts tasks.json in place with `scores`; they replace what was measured the same before.

    Raises:
        WorkError: the file that is there is damaged, or it cannot be written.
    """
    merged = {score.key: score for score in [*read_task_scores(folder, name), *scores]}
    ordered = sorted(merged.values(), key=lambda score: (score.step, score.shots, score.task, score.limit or 0))
    write_json(folder.task_scores(name), asdict(_Document(1, name, tuple(ordered))))


@dataclass(frozen=True)
class _Document:
    format: int
    model: str
    scores: tuple[TaskScore, ...]


def _damaged(path: Path, reason: str) -> WorkError:
    return WorkError(f"{path}: damaged ({reason}); delete it and run isoflop evaluate again")
