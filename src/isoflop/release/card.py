"""The model card: what a released model is, what it reached, what was foretold, and how to train it again."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from isoflop.data import Manifest
from isoflop.recipe.plan import ModelPlan
from isoflop.release.inert import front_matter, inert


@dataclass(frozen=True)
class Measured:
    """What training and held-out evaluation gave. `joules` is None where nothing is known of the power drawn.

    `threads`, `processor` and `torch` (its version) are those of the training: bits depend on them.
    """

    nats_per_token: float
    bits_per_byte: float
    seconds: float
    joules: float | None
    joules_origin: str | None
    threads: int
    processor: str
    torch: str


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

    `data` is the manifest of the tokens it was trained on; `foretold` is None for a model of the ladder.
    """

    family: str
    description: str
    plan: ModelPlan
    data: Manifest
    measured: Measured
    foretold: Foretold | None
    weights_sha256: str


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
                    {
                        "task": {"type": "text-generation", "name": "Text Generation"},
                        "dataset": dataset,
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


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
    environment.filters["digits"] = lambda number, digits=4: f"{number:.{digits}g}"
    return environment
