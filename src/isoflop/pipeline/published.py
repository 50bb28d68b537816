"""A family beside the published one that it repeats: the figures of both, and every difference with its reason."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from isoflop.config import Family
from isoflop.errors import FamilyError
from isoflop.published import PublishedRecipe, published_recipes
from isoflop.recipe import ModelPlan, Plan

NO_REASON = "the family file gives no reason"
# Published values are rounded to six digits.
TOLERANCE = 1e-5
# Ours are counted by another formula; plan shows them beside the published ones, which have two digits.
NOT_COMPARED = ("family", "model", "flops", "source")


@dataclass(frozen=True)
class Beside:
    """One of our models with the published one of its name."""

    plan: ModelPlan
    recipe: PublishedRecipe


@dataclass(frozen=True)
class Difference:
    """`what` differs in the models named, (ours, published) each; a deviation in words has none."""

    what: str
    reason: str
    models: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Comparison:
    """A family beside a published one; `missing` are published models that it leaves out."""

    family: str
    models: tuple[Beside, ...]
    missing: tuple[str, ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """The entry `published` of plan.json."""
        return {
            "family": self.family,
            "models": [asdict(one.recipe) for one in self.models],
            "missing": list(self.missing),
            "deviations": [
                {
                    "what": one.what,
                    "reason": one.reason,
                    "models": {
                        name: {"ours": ours, "published": theirs} for name, (ours, theirs) in one.models.items()
                    },
                }
                for one in self.differences
            ],
        }


def compare(family: Family, plan: Plan) -> Comparison | None:
    """The comparison that the family file asks for, None where it asks for none.

    Every published setting is compared; what differs is listed whether or not the file states it.

    Raises:
        FamilyError: there is no such published family or none of its models here, or what is stated as a deviation
            is none.
    """
    if family.published is None:
        return None
    recipes = {recipe.model: recipe for recipe in published_recipes(family.published.family)}
    if not recipes:
        known = sorted({recipe.family for recipe in published_recipes()})
        raise FamilyError(f"published.family = {family.published.family!r}: unknown; use one of {', '.join(known)}")
    models = [Beside(model, recipes[model.size]) for model in plan.models if model.size in recipes]
    if not models:
        raise FamilyError(f"published.family: no model here has the name of one of its models, {', '.join(recipes)}")
    reasons = {deviation.what: deviation.reason for deviation in family.published.deviations}
    found = _differences(models)
    comparable = published_settings(models[0].recipe).keys()
    for what in reasons:
        if what in comparable and what not in found:
            raise FamilyError(f"published.deviations: {what} does not deviate here; remove it")
    return Comparison(
        family=family.published.family,
        models=tuple(models),
        missing=tuple(name for name in recipes if name not in {one.plan.size for one in models}),
        differences=(
            *(Difference(what, reasons.get(what, NO_REASON), differing) for what, differing in found.items()),
            *(Difference(what, reason, {}) for what, reason in reasons.items() if what not in comparable),
        ),
    )


def published_settings(recipe: PublishedRecipe) -> dict[str, Any]:
    """The settings that are compared, by the names of plan.json."""
    return {key: value for key, value in vars(recipe).items() if key not in NOT_COMPARED}


def planned_settings(model: ModelPlan) -> dict[str, Any]:
    """The same settings of one of our models."""
    document = model.to_json()
    return {
        **document,
        "d_ff": model.shape.d_ff,
        "final_lr": model.peak_lr * model.final_lr_fraction,
        "batch_schedule": tuple((stage.from_tokens, stage.sequences) for stage in model.batch_schedule),
    }


def _differences(models: Iterable[Beside]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Ours and theirs by setting and model, where they differ."""
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for one in models:
        ours = planned_settings(one.plan)
        for what, theirs in published_settings(one.recipe).items():
            if not _same(ours[what], theirs):
                found.setdefault(what, {})[one.plan.name] = (ours[what], theirs)
    return found


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, float) and isinstance(ours, int | float):
        return math.isclose(ours, theirs, rel_tol=TOLERANCE)
    return bool(ours == theirs)
