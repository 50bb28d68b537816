"""docs/run-directory.md names the keys that the files have."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from isoflop.config import Family
from isoflop.data import Manifest
from isoflop.law import Point, fit_law
from isoflop.pipeline.comparison import Comparison
from isoflop.pipeline.forecast import Forecast
from isoflop.pipeline.plan import plan_document
from isoflop.pipeline.result import Result
from isoflop.pipeline.task_scores import TaskScore
from isoflop.recipe import Machine, plan_family
from isoflop.train import Step

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
MACHINE = Machine("a processor", 2, 2, 2**34, "2.15.0", "cpu", 8e11, 2e11, "2026-11-24T09:00:00+00:00")


def test_plan_json() -> None:
    data = {"source": Path("x"), "tokenizer": {"kind": "gpt2"}, "context_length": 64}
    model = {"name": "a", "n_layers": 1, "d_model": 8, "n_heads": 1}
    family = Family.model_validate({"name": "f", "data": data, "models": [model]})
    plan = plan_document(family, plan_family(family, MACHINE))

    assert sorted(keys_under("plan.json")) == sorted([*plan, *plan["models"][0]])


def test_law_json() -> None:
    points = [Point(10.0**k, 20 * 10.0**k, 4 - 0.3 * k, 120 * 100.0**k, f"{k}") for k in (5, 6, 7, 8)]

    assert sorted(keys_under("law.json")) == sorted(fit_law(points).to_json())


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("data/manifest.json", list(Manifest.model_fields)),
        ("models/&lt;name&gt;/result.json", [field.name for field in fields(Result)]),
        ("models/&lt;name&gt;/tasks.json", [field.name for field in fields(TaskScore)]),
        ("compare.json", [field.name for field in fields(Comparison)]),
        ("forecast.json", [field.name for field in fields(Forecast)]),
    ],
)
def test_records(heading: str, names: list[str]) -> None:
    assert sorted(keys_under(heading)) == sorted(names)


def test_metrics_are_those_of_a_step_that_the_contract_names() -> None:
    found = keys_under("models/&lt;name&gt;/metrics.jsonl")

    steps = ["step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "wait_seconds"]
    assert found == [*steps, "joules", "time", "link_bytes", "crc"]
    assert {*steps, "time", "link_bytes"} <= {field.name for field in fields(Step)}


def keys_under(heading: str) -> list[str]:
    """The keys of all tables under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return [key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)]
