"""docs/recipes.md shows what `isoflop plan` prints of the published families, all deviations included."""

from pathlib import Path

from isoflop.config import load_family
from isoflop.pipeline.published import compare
from isoflop.recipe import Machine, plan_family

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
MACHINE = Machine("a processor", 2, 2, 2**34, "2.15.0", "cpu", 8e11, 2e11, "2026-11-25T09:00:00+00:00")


def test_every_deviation_is_on_the_page_with_its_reason() -> None:
    for name in ("cerebras-gpt", "cerebras-gpt-mup"):
        family = load_family(ROOT / "families" / f"{name}.toml")
        comparison = compare(family, plan_family(family, MACHINE))
        assert comparison is not None
        for one in comparison.differences:
            assert any(line.startswith(f"| {one.what} |") and one.reason in line for line in PAGE.splitlines()), (
                one.what
            )


def test_the_table_of_the_seven_models_is_the_plan() -> None:
    family = load_family(ROOT / "families" / "cerebras-gpt.toml")
    comparison = compare(family, plan_family(family, MACHINE))
    assert comparison is not None
    for one in comparison.models:
        plan = one.plan
        assert plan.shape.params == one.recipe.params
        flops = [plan.flops, plan.flops_6nd, plan.flops_paper]
        shown = [f"{plan.shape.params:,}", f"{plan.tokens:,}", *(_scientific(count, 2) for count in flops)]
        assert f"| {plan.name} | {' | '.join(shown)} | {_scientific(one.recipe.flops, 1)} |" in PAGE


def _scientific(count: float, digits: int) -> str:
    return f"{count:.{digits}e}".replace("e+", "e")
