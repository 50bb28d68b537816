"""Other people's models: the facts they published, each with its source; and those that a user adds."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from isoflop.errors import InputError, WorkError
from isoflop.published.scores import published_scores
from isoflop.published.tasks import published_tasks
from isoflop.published.texts import published_texts

MODELS_FILE = "models.csv"
SHOTS = (0, 5)
NEEDED = ("family", "model", "flops", "source")


@dataclass(frozen=True)
class PublishedModel:
    """One trained model; None where it was not published.

    `flops` is the training compute as its authors counted it, `nats_per_token` the loss on `text` in nats per token of
    `tokenizer`, which has `tokens_per_gpt2_token` tokens for each of GPT-2's on that text: 1 also where the loss was
    published in GPT-2's tokens already. `scores` are accuracies by (task, shots). Cerebras-GPT: the paper's losses, to
    which its law was fitted; its model cards say otherwise.
    """

    family: str
    model: str
    params: float | None
    tokens: float | None
    flops: float
    nats_per_token: float | None
    text: str
    tokenizer: str
    tokens_per_gpt2_token: float | None
    source: str
    stated_bits_per_byte: float | None = None
    scores: Mapping[tuple[str, int], float] = field(default_factory=dict)

    @property
    def nats_per_gpt2_token(self) -> float | None:
        """The loss as if GPT-2's tokenizer had cut the text (Dey et al. 2023): the same nats over its tokens."""
        if self.nats_per_token is not None and self.tokens_per_gpt2_token is not None:
            return self.nats_per_token * self.tokens_per_gpt2_token
        a_byte = gpt2_tokens_per_byte(self.text)
        if self.stated_bits_per_byte is None or a_byte is None:
            return None
        return self.stated_bits_per_byte * math.log(2) / a_byte

    @property
    def bits_per_byte(self) -> float | None:
        """As stated, or from the loss in GPT-2's tokens where it is known how many of them the text has a byte."""
        loss, a_byte = self.nats_per_gpt2_token, gpt2_tokens_per_byte(self.text)
        if self.stated_bits_per_byte is not None or loss is None or a_byte is None:
            return self.stated_bits_per_byte
        return loss * a_byte / math.log(2)

    def average(self, shots: int) -> float | None:
        """The mean accuracy over the seven published tasks; None where one is missing."""
        return average_score({task: value for (task, number), value in self.scores.items() if number == shots})


def published_models(family: str | None = None) -> list[PublishedModel]:
    """The models of this package's tables with their scores, in their order; of one family or all.

    Raises:
        WorkError: a table was changed so that a row cannot be read.
    """
    scores: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for score in published_scores():
        scores.setdefault((score.family, score.model), {})[score.task, score.shots] = score.accuracy
    with (files("isoflop.published") / MODELS_FILE).open(encoding="utf-8") as file:
        try:
            models = [_model(row, scores) for row in csv.DictReader(file)]
        except ValueError as error:
            raise WorkError(f"isoflop/published/{MODELS_FILE}: {error}; install isoflop again") from None
    return [model for model in models if family in (None, model.family)]


def read_models(path: Path) -> list[PublishedModel]:
    """The models of a user's file: the columns of `models.csv`, of which family, model, flops and source must be there.

    A loss is given as `nats_per_token` with `tokens_per_gpt2_token`, or as `bits_per_byte`. Scores stand in columns
    such as `hellaswag_0` and `hellaswag_5`: the task and the number of examples.

    Raises:
        InputError: the file or a row of it cannot be read; names the row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"{path}, row 1: no column {', '.join(missing)}; needed are {', '.join(NEEDED)}")
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot read the models ({error.strerror}); give a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV in UTF-8 ({error})") from None
    if not rows:
        raise InputError(f"{path}: holds no row; give a row for each model")
    models = []
    for number, row in rows:
        try:
            models.append(_model(row, {}))
        except ValueError as error:
            raise InputError(f"{path}, row {number}: {error}") from None
    return models


def average_score(scores: Mapping[str, float]) -> float | None:
    """The mean over the seven published tasks by their short names; None where one is missing."""
    names = [task.task for task in published_tasks()]
    return math.fsum(scores[name] for name in names) / len(names) if all(name in scores for name in names) else None


def gpt2_tokens_per_byte(text: str) -> float | None:
    """How many of GPT-2's tokens that text has a byte; None where it is not known."""
    return next((one.gpt2_tokens_per_byte for one in published_texts() if one.text == text), None)


def _model(
    row: Mapping[str, str | None], scores: Mapping[tuple[str, str], Mapping[tuple[str, int], float]]
) -> PublishedModel:
    said = {key: value.strip() for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
    for key in ("family", "model", "source"):
        if not said.get(key):
            raise ValueError(f"{key} is empty; every model has a name and a source")
    flops = _number(said, "flops")
    if flops is None:
        raise ValueError(f"flops of {said['model']} is empty; give its training compute")
    loss, ratio = _number(said, "nats_per_token"), _number(said, "tokens_per_gpt2_token")
    if loss is not None and ratio is None:
        raise ValueError(
            f"tokens_per_gpt2_token of {said['model']} is empty; give how many of its tokens stand for one of GPT-2's "
            "(1 for GPT-2's own), or the loss as bits_per_byte"
        )
    return PublishedModel(
        family=said["family"],
        model=said["model"],
        params=_number(said, "params"),
        tokens=_number(said, "tokens"),
        flops=flops,
        nats_per_token=loss,
        text=said.get("text", ""),
        tokenizer=said.get("tokenizer", ""),
        tokens_per_gpt2_token=ratio,
        source=said["source"],
        stated_bits_per_byte=_number(said, "bits_per_byte"),
        scores=scores.get((said["family"], said["model"])) or dict(_scores_in(said)),
    )


def _scores_in(said: Mapping[str, str]) -> Iterable[tuple[tuple[str, int], float]]:
    for task in published_tasks():
        for shots in SHOTS:
            value = _number(said, f"{task.task}_{shots}", most=1.0)
            if value is not None:
                yield (task.task, shots), value


def _number(said: Mapping[str, str], key: str, most: float = math.inf) -> float | None:
    text = said.get(key, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 < value <= most):
        wanted = "a share from 0 to 1, not per cent" if most == 1.0 else "a number above 0"
        raise ValueError(f"{key} of {said['model']} is {text[:40]!r}; give {wanted}, or nothing")
    return value
