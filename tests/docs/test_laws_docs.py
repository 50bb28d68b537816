"""docs/laws.md: its Python runs, its commands have the options that it names, its figures are those that were kept."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import isoflop.law
from isoflop.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")


def test_the_python_on_the_page_runs() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert isinstance(names["law"], isoflop.law.Law)


def test_what_the_page_names_of_the_library_is_there() -> None:
    table = PAGE.split("| in `isoflop.law` | |")[1].split("\n\n")[0]
    names = set(re.findall(r"`([a-zA-Z_]+)(?:\(|`)", table))
    public = {name for name in names if hasattr(isoflop.law, name)}
    assert {"read_points", "fit_law", "price_of_smaller", "fit_downstream", "TaskPoint", "Point"} <= public


@pytest.mark.parametrize("command", ["law", "predict"])
def test_commands_have_the_options_on_the_page(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    lines = re.findall(rf"uv run isoflop {command} .*", PAGE)
    assert lines
    for option in {option for line in lines for option in re.findall(r"--[a-z-]+", line)}:
        assert option in shown, option


def test_the_coverage_on_the_page_is_that_of_the_kept_results() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "law_intervals.json").read_text())
    for rows in kept["pooled"].values():
        for method, found in rows.items():
            covered = f"{found['covered_95']:.2f} | {found['covered_80']:.2f}"
            assert re.search(rf"\| {re.escape(method)} \| {re.escape(covered)} \|", PAGE), (method, covered)
