"""`isoflop compare`: a family beside published ones, per FLOP: losses, tasks, openness, compute for a loss."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.durable import write_json
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.own_models import own_models, own_openness
from isoflop.published import (
    PublishedModel,
    average_score,
    published_law,
    published_models,
    published_openness,
    read_models,
)

if TYPE_CHECKING:
    from isoflop.law import Law

# A law of fewer models is a line through them.
LAW_MODELS = 4
# That of guessing among GPT-2's tokens is 10.8.
MOST_NATS = 12.0
# A run further below the loss asked about is the smallest that the law is followed to.
CLOSE = 1.01


@dataclass(frozen=True)
class Compared:
    """One model. Losses are in nats per token of GPT-2's, `flops` as the Cerebras-GPT paper counts them.

    `comparable`: its loss is of the text that the published law speaks of. Then `law_flops` is what compute-optimal
    training needs for the same loss by that law, and `times_law` the model's own compute over it. `scores` are
    accuracies by examples and task, `averages` their means over the seven published tasks.
    """

    family: str
    model: str
    ours: bool
    params: float | None
    tokens: float | None
    flops: float
    nats_per_gpt2_token: float | None
    bits_per_byte: float | None
    text: str
    tokenizer: str
    tokens_per_gpt2_token: float | None
    comparable: bool
    law_flops: float | None
    times_law: float | None
    scores: dict[int, dict[str, float]]
    averages: dict[int, float | None]
    source: str


@dataclass(frozen=True)
class Needed:
    """The training compute that a family needs for the loss asked about, by the law fitted to its own models.

    The interval holds it with 80 %; None where it is beyond reach. `times_largest` is that compute over the family's
    largest: above 1 the law is followed beyond it. `times_least` is it over the least of all families.
    """

    family: str
    models: int
    flops: float | None
    low_80: float | None
    high_80: float | None
    times_largest: float | None
    times_least: float | None
    why_not: str


@dataclass(frozen=True)
class Comparison:
    """`loss` is the one that `needed` speaks of, in nats per token of GPT-2's on `text`."""

    family: str | None
    text: str
    loss: float
    models: tuple[Compared, ...]
    needed: tuple[Needed, ...]
    openness: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What compare.json holds."""
        return asdict(self)


def compare_run(
    path: Path | None, added: Sequence[Path] = (), loss: float | None = None, text: str | None = None
) -> Comparison:
    """The run directory's models beside the published ones and those of the files `added`; kept in compare.json.

    Without `path` the published ones alone. `text` names the published text that the family's held-out text is, if it
    is one: only then are losses comparable. `loss` defaults to the lowest that every family with a law has reached.

    Raises:
        InputError: there is no such directory, a file cannot be read, or the loss is none.
        WorkError: the data of the run are damaged or compare.json cannot be written.
    """
    law = published_law()
    folder = None if path is None else find_run(path)
    ours = [] if folder is None else own_models(folder, text)
    theirs = [*published_models(), *(model for file in added for model in read_models(file))]
    models = [
        *(_compared(model, True, law.text) for model in ours),
        *(_compared(model, False, law.text) for model in theirs),
    ]
    laws = _laws(models)
    loss = _loss(loss, models, laws)
    comparison = Comparison(
        family=ours[0].family if ours else None,
        text=law.text,
        loss=loss,
        models=tuple(sorted(models, key=lambda model: model.flops)),
        needed=_needed(models, laws, loss),
        openness=_openness(folder),
        notes=tuple(_notes(ours, law.text)),
    )
    if folder is not None:
        write_json(folder.comparison, comparison.to_json())
    return comparison


def keep_comparison(folder: RunFolder) -> None:
    """Writes compare.json if there is none; one that is older than a result or score is made anew.

    Raises:
        WorkError: the data of the run are damaged or compare.json cannot be written.
    """
    shown = [path for name in ("result.json", "tasks.json") for path in folder.path.glob(f"models/*/{name}")]
    newest = max((path.stat().st_mtime_ns for path in shown), default=0)
    if not folder.comparison.exists() or folder.comparison.stat().st_mtime_ns < newest:
        compare_run(folder.path)


def _compared(model: PublishedModel, ours: bool, law_text: str) -> Compared:
    loss = model.nats_per_gpt2_token
    comparable = loss is not None and model.text == law_text
    needs = published_law().flops(loss) if comparable and loss is not None else None
    scores: dict[int, dict[str, float]] = {}
    for (task, shots), value in model.scores.items():
        scores.setdefault(shots, {})[task] = value
    return Compared(
        family=model.family,
        model=model.model,
        ours=ours,
        params=model.params,
        tokens=model.tokens,
        flops=model.flops,
        nats_per_gpt2_token=loss,
        bits_per_byte=model.bits_per_byte,
        text=model.text,
        tokenizer=model.tokenizer,
        tokens_per_gpt2_token=model.tokens_per_gpt2_token,
        comparable=comparable,
        law_flops=needs,
        times_law=None if needs is None else model.flops / needs,
        scores=scores,
        averages={shots: average_score(of) for shots, of in scores.items()},
        source=model.source,
    )


def _laws(models: Sequence[Compared]) -> "dict[str, Law]":
    """A law of each family that has enough comparable models, of the compute alone or with sizes as they tell."""
    from isoflop.law import Point, fit_law

    laws = {}
    for family in dict.fromkeys(model.family for model in models):
        points = [
            Point(
                params=model.params or model.flops**0.5,
                tokens=model.tokens or model.flops**0.5,
                loss=model.nats_per_gpt2_token or 0.0,
                flops=model.flops,
                run=model.model,
                convention="given",
            )
            for model in models
            if model.family == family and model.comparable
        ]
        if len(points) >= LAW_MODELS:
            laws[family] = fit_law(points)
    return laws


def _loss(asked: float | None, models: Sequence[Compared], laws: "dict[str, Law]") -> float:
    """The one asked about; else our lowest where it compares; else the lowest that every family has reached."""
    if asked is not None:
        if not 0 < asked < MOST_NATS:
            raise InputError(f"--loss {asked:g}: give nats per token of GPT-2's, as in --loss 2.0")
        return asked
    reached: dict[str, list[float]] = {}
    for model in models:
        if model.comparable and model.nats_per_gpt2_token is not None:
            reached.setdefault("" if model.ours else model.family, []).append(model.nats_per_gpt2_token)
    return min(reached[""]) if "" in reached else max(min(losses) for name, losses in reached.items() if name in laws)


def _needed(models: Sequence[Compared], laws: "dict[str, Law]", loss: float) -> tuple[Needed, ...]:
    from isoflop.law import cheapest_for_loss

    found = []
    for family, law in laws.items():
        largest = max(model.flops for model in models if model.family == family and model.comparable)
        n = len(law.points)
        try:
            choice = cheapest_for_loss(law, loss)
            if choice.prediction.loss < loss / CLOSE:
                raise InputError(f"loss = {loss:.4g}: far above all that its law was fitted to")
        except InputError as error:
            found.append(Needed(family, n, None, None, None, None, None, str(error)))
            continue
        flops = choice.prediction.flops
        found.append(Needed(family, n, flops, choice.low_flops, choice.high_flops, flops / largest, None, ""))
    least = min((one.flops for one in found if one.flops is not None), default=None)
    told = [
        Needed(**{**asdict(one), "times_least": one.flops / least if one.flops is not None and least else None})
        for one in found
    ]
    return tuple(sorted(told, key=lambda one: (one.flops is None, one.flops or 0.0)))


def _openness(folder: RunFolder | None) -> tuple[dict[str, Any], ...]:
    rows = [row.model_dump() for row in published_openness()]
    if folder is None:
        return tuple(rows)
    return ({**own_openness(folder).model_dump(), "ours": True}, *({**row, "ours": False} for row in rows))


def _notes(ours: Iterable[PublishedModel], law_text: str) -> Iterable[str]:
    other = {model.text for model in ours if model.text != law_text}
    for text in sorted(other):
        yield (
            f"losses of ours are of another text ({text}): not comparable with those on {law_text}; "
            f"where the held-out text is that one, say --text '{law_text}'"
        )
