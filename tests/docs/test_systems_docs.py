"""docs/systems.md says what the formulas say, and its examples start workers."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from isoflop.cli.numbers import digits
from isoflop.cli.scaling_table import print_scaling
from isoflop.config import load_family
from isoflop.pipeline.scaling import foretell_scaling, published_kind
from isoflop.published import published_hardware
from isoflop.recipe import Machine, Shape, plan_family
from isoflop.recipe.layouts import Layout, in_layout
from isoflop.recipe.scaling import Work, streamed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
MACHINE = Machine("test", 2, 2, 8 * 2**30, "2.13.0", "cpu", 9e11, 2e11, "2026-11-24T00:00:00+00:00")
KINDS = {row.name: row for row in published_hardware()}


def test_the_table_of_systems_is_what_plan_prints(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_family(load_family(ROOT / "families" / "cerebras-gpt.toml"), MACHINE)
    print_scaling(foretell_scaling(plan, [1, 16, 64, 256, 1024], None, "h100-80gb"))
    printed = [without_number(line) for line in capsys.readouterr().out.splitlines()]
    (block,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        assert without_number(line) in printed


def without_number(line: str) -> str:
    """Only the first row of a number of systems has it, and the page shows some rows only."""
    return re.sub(r"^ *[\d,]* +", "", line).rstrip()


def published_rows() -> Iterator[tuple[str, str, str, str]]:
    with (ROOT / "tests" / "recipe" / "published_runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            layers, width, heads, vocabulary = (int(row[k]) for k in ("n_layers", "d_model", "n_heads", "vocab_size"))
            cuts = [int(row[k]) for k in ("tensor", "pipeline", "data", "microbatch_sequences", "chunks")]
            work = Work(Shape(layers, width, heads, vocabulary, 2048), int(row["batch_sequences"]), 1)
            layout = Layout(*cuts, row["shards"], recompute=True, scores_kept=True)  # type: ignore[arg-type]
            seconds = in_layout(work, layout, published_kind(KINDS[row["hardware"]]), "").step_seconds
            if row["step_seconds"]:
                said, ours, unit = float(row["step_seconds"]), seconds, "s"
            else:
                flops = 4 * layers * (24 * width**2 + 4 * 2048 * width) + 6 * vocabulary * width
                said = float(row["tflops_per_second"])
                ours, unit = flops * work.tokens / seconds / layout.devices / 1e12, "TFLOP/s"
            yield row["name"], f"{digits(said)} {unit}", f"{digits(ours)} {unit}", f"{100 * (ours / said - 1):+.0f} %"


def test_the_table_of_published_runs_is_what_the_formulas_give() -> None:
    section = PAGE.split("### Checked against published runs")[1].split("\n## ")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines() if "| " in line]
    assert rows[2:] == list(published_rows())


def test_andromeda_is_foretold_as_the_page_says() -> None:
    work = Work(Shape(24, 2048, 16, 50_257, 10_240), 512, 1, reproducible=False)
    four, sixteen = (streamed(work, systems, published_kind(KINDS["cs2"])) for systems in (4, 16))
    assert f"foretold are {four.step_seconds / sixteen.step_seconds:.2f} times" in PAGE


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_every_example_elsewhere_is_yaml_and_starts_workers(text: str) -> None:
    assert yaml.safe_load(text)
    assert re.search(r"isoflop,? worker", text)
