"""The published families: every setting compared, every difference listed with its reason."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.config import Family, load_family
from isoflop.errors import FamilyError
from isoflop.pipeline.published import NO_REASON, compare, planned_settings, published_settings
from isoflop.published import published_recipes
from isoflop.recipe import Machine, plan_family

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


def test_the_papers_way_of_counting_flops_gives_the_published_two_digits() -> None:
    for model, one in zip(
        plan_family(family("cerebras-gpt"), MACHINE).models, published_recipes("Cerebras-GPT"), strict=True
    ):
        assert model.flops_paper == pytest.approx(one.flops, rel=0.021)
        assert model.flops_6nd == 6 * one.params * model.tokens


def test_both_tables_of_the_package_tell_of_the_same_models() -> None:
    with open(ROOT / "src/isoflop/published/cerebras_gpt.csv", encoding="utf-8") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    for one in published_recipes("Cerebras-GPT"):
        row = rows[one.model]
        assert (int(row["params"]), int(row["tokens"]), float(row["flops"])) == (one.params, one.tokens, one.flops)
