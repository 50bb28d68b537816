"""The published families: every setting compared, every difference listed with its reason."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from isoflop.config import Family, load_family
from isoflop.errors import FamilyError
from isoflop.pipeline.published import NO_REASON, Comparison, compare, planned_settings, published_settings
from isoflop.published import published_models, published_recipes
from isoflop.recipe import Machine, ModelPlan, Plan, learning_rate, plan_family, steps_of

FloatArray = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[2]
MACHINE = Machine("test", 2, 2, 8 * 2**30, "2.15.0", "cpu", 9e11, 2e11, "2026-11-25T00:00:00+00:00")
FILES = {"cerebras-gpt": 7, "cerebras-gpt-mup": 5}


def family(name: str) -> Family:
    return load_family(ROOT / "families" / f"{name}.toml")


@pytest.mark.parametrize("name", FILES)
def test_nothing_published_deviates_but_what_the_file_explains(name: str) -> None:
    comparison = compare(family(name), plan_family(family(name), MACHINE))
    assert comparison is not None
    assert len(comparison.models) == FILES[name]
    assert not comparison.missing
    differing = {one.what: one.models for one in comparison.differences if one.models}
    wanted = {} if name == "cerebras-gpt-mup" else {"tokens": {"13B": (257_066_680_320, 257_067_417_600)}}
    assert differing == wanted
    assert all(one.reason != NO_REASON for one in comparison.differences)


def test_every_published_setting_is_compared() -> None:
    plan = plan_family(family("cerebras-gpt"), MACHINE)
    settings = published_settings(published_recipes("Cerebras-GPT")[0])
    assert settings.keys() <= planned_settings(plan.models[0]).keys()
    assert len(settings) == 29


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("eps", 1e-7, "eps"),
        ("decay", "cosine", "decay"),
        ("init_std", 0.03, "hidden_init_std"),
        ("beta2", 0.99, "beta2"),
    ],
)
def test_a_changed_setting_is_listed_though_the_file_is_silent(key: str, value: object, shown: str) -> None:
    changed = family("cerebras-gpt")
    changed = changed.model_copy(update={"recipe": changed.recipe.model_copy(update={key: value})})
    comparison = compare(changed, plan_family(changed, MACHINE))
    assert comparison is not None
    found = {one.what: one for one in comparison.differences}
    assert found[shown].reason == NO_REASON
    assert "111M" in found[shown].models


def test_a_deviation_that_is_none_and_an_unknown_family_are_refused() -> None:
    good = family("cerebras-gpt")
    assert good.published is not None
    plan = plan_family(good, MACHINE)
    stale = good.published.model_copy(
        update={"deviations": [good.published.deviations[0].model_copy(update={"what": "eps"})]}
    )
    with pytest.raises(FamilyError, match="eps does not deviate here"):
        compare(good.model_copy(update={"published": stale}), plan)
    unknown = good.published.model_copy(update={"family": "GPT-5"})
    with pytest.raises(FamilyError, match=r"published.family = 'GPT-5': unknown; use one of Cerebras-GPT"):
        compare(good.model_copy(update={"published": unknown}), plan)
    with pytest.raises(FamilyError, match="no model here has the name"):
        compare(good, replace(plan, models=tuple(replace(one, size="x") for one in plan.models)))


# The schedules of the configurations: steps of warm-up and decay of each run with one batch, 13B's two in a row, of
# which the second begins at step 38,000 (Cerebras/modelzoo Release 2.10.0; README of Cerebras_GPT, Release 1.9.1).
SCHEDULES = {
    "111M": [(1525, 7512, 0, 9037)],
    "256M": [(693, 8775, 0, 9468)],
    "590M": [(693, 21143, 0, 21836)],
    "1.3B": [(346, 23988, 0, 24334)],
    "2.7B": [(346, 48695, 0, 49041)],
    "6.7B": [(176, 62346, 0, 62522)],
    "13B": [(254, 174081, 0, 57000), (169, 116054, 38000, 116223)],
}


def published_rates(model: ModelPlan, ahead: int) -> FloatArray:
    """Every update's rate as the configurations have it, over the peak; `ahead` 1 is that of the update after it."""
    rates = []
    for warmup, decay, first, last in SCHEDULES[model.name]:
        step = np.arange(first, last) + ahead
        progress = np.clip((step - warmup) / decay, 0, 1)
        left = 1 - progress if model.decay == "linear" else (1 + np.cos(np.pi * progress)) / 2
        rates.append(np.where(step < warmup, step / warmup, 0.1 + 0.9 * left))
    return np.concatenate(rates)


def planned_rates(model: ModelPlan) -> FloatArray:
    keys = ("tokens", "warmup_tokens", "peak_lr", "final_lr_fraction", "decay")
    schedule = {key: getattr(model, key) for key in keys}
    runs = steps_of(model.batch_schedule, model.tokens, model.shape.context_length)
    sequences = np.cumsum(np.concatenate([np.full(run.steps, run.sequences) for run in runs]))
    tokens = (sequences * model.shape.context_length).tolist()
    return np.array([learning_rate(after, **schedule) for after in tokens]) / model.peak_lr


@pytest.mark.parametrize(("name", "warmup"), [("cerebras-gpt", 0.6), ("cerebras-gpt-mup", 0.3)])
def test_rates_differ_from_the_published_by_what_the_deviations_say(name: str, warmup: float) -> None:
    in_warmup, after, shifted = [], [], {}
    plan = plan_family(family(name), MACHINE)
    for model in plan.models:
        ours = planned_rates(model)
        off = np.abs(ours - published_rates(model, ahead=0))
        steps = SCHEDULES[model.name][0][0]
        in_warmup.append(off[:steps].max())
        after.append(off[steps:].max())
        shifted[model.name] = float(np.abs(ours - published_rates(model, ahead=1)).max())
    reasons = {one.what: one.reason for one in _comparison(name, plan).differences}
    assert f"at most {warmup} % of the peak in the warm-up and 1.2e-4 of it after" in reasons["rate of a step"]
    assert warmup - 0.1 < 100 * max(in_warmup) <= warmup
    assert 1.1e-4 < max(after) <= 1.2e-4 * 1.005
    if name == "cerebras-gpt":
        assert "at most 2.4e-6 of the peak apart beside that one step, 1.1e-5 after the" in reasons["rate of 13B"]
        assert 2.3e-6 < shifted.pop("13B") <= 2.4e-6
        assert 1.0e-5 < after[-1] <= 1.1e-5
    assert max(shifted.values()) < 1e-12


def _comparison(name: str, plan: Plan) -> Comparison:
    comparison = compare(family(name), plan)
    assert comparison is not None
    return comparison


def test_the_papers_way_of_counting_flops_gives_the_published_two_digits() -> None:
    for model, one in zip(
        plan_family(family("cerebras-gpt"), MACHINE).models, published_recipes("Cerebras-GPT"), strict=True
    ):
        assert model.flops_paper == pytest.approx(one.flops, rel=0.021)
        assert model.flops_6nd == 6 * one.params * model.tokens


def test_both_tables_of_the_package_tell_of_the_same_models() -> None:
    models = {model.model: model for model in published_models("Cerebras-GPT")}
    for one in published_recipes("Cerebras-GPT"):
        model = models[one.model]
        assert (model.params, model.tokens, model.flops) == (one.params, one.tokens, one.flops)
