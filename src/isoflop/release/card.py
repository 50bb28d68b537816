"""The model card: what a released model is, what it reached, what was foretold, and how to train it again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from isoflop.data import Manifest
from isoflop.recipe.plan import ModelPlan
from isoflop.release.inert import front_matter, inert


@dataclass(frozen=True)
class Measured:
    """What training and held-out evaluation gave. `joules` is None where nothing is known of the power drawn.

    `threads`, `processor` and `torch` (its version) are those of the training: bits depend on them. `system_seconds`
    counts a second on half of a system as half; `mfu` is the share of the machine's measured matrix rate; `price` is in
    `currency`.
    """

    nats_per_token: float
    bits_per_byte: float
    seconds: float
    joules: float | None
    joules_origin: str | None
    threads: int
    processor: str
    torch: str
    system_seconds: float | None = None
    mfu: float | None = None
    price: float | None = None
    currency: str | None = None


@dataclass(frozen=True)
class Scored:
    """What the model reached on a downstream task with `shots` examples, by lm-evaluation-harness.

    `value` is that of `metric`; `stderr` and what guessing reaches (`chance`) are None where not known. `data_set` is
    its name on the hub, None for a task cut from the held-out documents.
    """

    task: str
    shots: int
    metric: str
    value: float
    stderr: float | None
    chance: float | None
    items: int
    data_set: str | None
    harness: str


@dataclass(frozen=True)
class SavedStep:
    """A checkpoint on the way that is released too, in `checkpoints/step-<step>`."""

    step: int
    tokens: int


@dataclass(frozen=True)
class Spike:
    """A step whose loss or gradient was not finite or far above the `limit` that those before it gave, and the answer.

    `kind` is "loss", "gradient" or "not finite"; `documents` are how many its batch was of.
    """

    step: int
    kind: str
    loss: float
    grad_norm: float
    limit: float | None
    answer: str
    documents: int


@dataclass(frozen=True)
class Change:
    """A setting that was another up to the end of `step`."""

    step: int
    setting: str
    was: str
    now: str


@dataclass(frozen=True)
class Foretold:
    """The held-out loss in nats per token as the law gave it before the model was trained, at the ISO time `time`."""

    loss: float
    low_80: float
    high_80: float
    low_95: float
    high_95: float
    time: str


@dataclass(frozen=True)
class Card:
    """Everything a released folder says beside its tensors. The texts may hold anything: they are rendered inert.

    `data` is the manifest of the tokens it was trained on; `foretold` is None for a model of the ladder. `documents`
    are further files by name: `family.json` and `law.json` of its run. `datasets` are names on the hub.
    """

    family: str
    description: str
    plan: ModelPlan
    data: Manifest
    measured: Measured
    foretold: Foretold | None
    weights_sha256: str
    scores: tuple[Scored, ...] = ()
    checkpoints: tuple[SavedStep, ...] = ()
    spikes: tuple[Spike, ...] = ()
    changes: tuple[Change, ...] = ()
    documents: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()


def render(card: Card) -> str:
    """README.md: YAML front matter that Hugging Face reads, then the card in Markdown."""
    plan = card.plan
    body = (
        _templates()
        .get_template("card.md.jinja")
        .render(card=card, plan=plan, shape=plan.shape, p=plan.parametrisation)
    )
    return front_matter(_metadata(card)) + body


def _metadata(card: Card) -> dict[str, Any]:
    """Keys as huggingface.co/docs/hub/model-cards lists them; `model-index` holds the results."""
    metrics = [
        {"type": "loss", "name": "held-out loss, nats per token", "value": card.measured.nats_per_token},
        {"type": "bits_per_byte", "name": "held-out bits per byte", "value": card.measured.bits_per_byte},
    ]
    first, *others = (source.file for source in card.data.sources)
    dataset = {"type": "text", "name": f"{first} and {len(others)} more" if others else first, "split": "held_out"}
    return {
        "license": "apache-2.0",
        **({"datasets": card.datasets} if card.datasets else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["isoflop", "gpt2", "scaling-law"],
        "family": card.family,
        "description": card.description,
        "data_licence": card.data.licence,
        "model-index": [
            {
                "name": card.plan.name,
                "results": [
                    {"task": _TASK, "dataset": dataset, "metrics": metrics},
                    *(_result(score) for score in card.scores),
                ],
            }
        ],
    }


_TASK = {"type": "text-generation", "name": "Text Generation"}


def _result(score: Scored) -> dict[str, Any]:
    """One entry of the model-index; a standard error stands as a metric of its own, as there is no key for it."""
    metrics = [{"type": score.metric, "name": score.metric, "value": score.value}]
    if score.stderr is not None:
        name = f"{score.metric}_stderr"
        metrics.append({"type": name, "name": name, "value": score.stderr})
    dataset = {
        "type": score.data_set or "text",
        "name": score.task,
        "args": {"num_few_shot": score.shots},
    }
    return {"task": _TASK, "dataset": dataset, "metrics": metrics}


@cache
def _templates() -> Environment:
    # `finalize` passes every value that a template shows through `inert`: no place can forget to.
    environment = Environment(
        loader=PackageLoader("isoflop.release", "templates"),
        finalize=inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["metric"] = lambda value, name: (
        f"{100 * value:.1f}" if name.startswith("acc") else f"{value:.4g}"
    )
    environment.filters["digits"] = lambda number, digits=4: f"{number:.{digits}g}"
    return environment
