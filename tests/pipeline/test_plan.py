"""The run directory gives back the plan that was stored in it."""

from pathlib import Path

import pytest

from isoflop.config import load_family
from isoflop.pipeline import RunFolder
from isoflop.pipeline.plan import store_plan, stored_plan
from isoflop.recipe import Machine, plan_family

ROOT = Path(__file__).parents[2]
MACHINE = Machine("a processor", 2, 2, 2**34, "2.15.0", "cpu", 9e11, 2e11, "2026-11-25T00:00:00+00:00")


@pytest.mark.parametrize("name", ["pocket", "pocket-mup", "cerebras-gpt", "cerebras-gpt-mup"])
def test_a_stored_plan_comes_back_with_the_recipes_of_family_and_models(name: str, tmp_path: Path) -> None:
    family = load_family(ROOT / "families" / f"{name}.toml")
    plan = plan_family(family, MACHINE)
    folder = RunFolder(tmp_path / name)
    store_plan(family, plan, folder)
    again, stored = stored_plan(folder)
    assert stored == plan
    assert again == family


def test_what_a_models_table_says_goes_before_either_way_of_the_family_to_say_it(tmp_path: Path) -> None:
    table = "[[models]]\nname = '{}'\nn_layers = 1\nd_model = 32\nn_heads = 2\n{}\n"
    path = tmp_path / "t.toml"
    path.write_text(
        "name = 't'\n[data]\nsource = '.'\ntokenizer = { kind = 'bpe', vocab_size = 300 }\ncontext_length = 32\n"
        "[recipe]\ntokens = 100_000\nwarmup_tokens = 5_000\nbatch_schedule = [{ from_tokens = 0, sequences = 8 }]\n"
        + table.format("a", "")
        + table.format("b", "recipe = { tokens_per_parameter = 2.0, warmup_fraction = 0.5 }")
    )
    a, b = plan_family(load_family(path), MACHINE).models
    assert (a.tokens, a.warmup_tokens) == (99_840, 4_864)  # 390 whole steps of 256 tokens fit, 19 into the warm-up
    assert b.tokens == 2 * b.shape.params // 256 * 256
    assert b.warmup_tokens == b.tokens // 2
