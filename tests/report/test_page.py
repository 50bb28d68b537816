"""The page tells what the run directory holds: all of it, nothing else, and whatever state it is in."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from isoflop.durable import write_json
from isoflop.errors import InputError
from isoflop.report.numbers import MISSING
from isoflop.report.page import render, write_report
from isoflop.report.run import read_run
from isoflop.report.table import Table

HOSTILE = '<script>alert("x")</script>\'"&'
FILES = ["plan.json", "data/manifest.json", "forecast.json", "law.json", "models/w64/result.json"]


class Page(HTMLParser):
    """The elements of a page with their attributes, the cells of its tables' rows, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data.replace("\n", "")

    def row(self, first: str, nth: int = 0) -> list[str]:
        """The cells of the nth row whose first cell begins with `first`."""
        return [row for row in self.rows if row[0].startswith(first)][nth]


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_bytes())
    edit(document)
    write_json(path, document)


def with_loss_at(directory: Path, share: float) -> float:
    """Moves the held-out model's loss to `share` of the way through the 95 % interval; returns its median."""
    forecast = json.loads((directory / "forecast.json").read_bytes())
    loss = forecast["low_95"] + share * (forecast["high_95"] - forecast["low_95"])
    change(directory / "models" / "w96" / "result.json", lambda result: result.update(nats_per_token=loss))
    return float(forecast["loss"])


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.02, "inside"), (0.98, "inside"), (-0.02, "outside"), (1.02, "outside")]
)
def test_the_headline_tells_forecast_interval_measurement_and_error(
    run_directory: Path, share: float, verdict: str
) -> None:
    foretold = with_loss_at(run_directory, share)
    measured = json.loads((run_directory / "models" / "w96" / "result.json").read_bytes())["nats_per_token"]
    forecast = json.loads((run_directory / "forecast.json").read_bytes())
    text = page_of(run_directory).text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        f"The pocket family foretold {foretold:.3f} nats/token (95 % interval {forecast['low_95']:.3f} to "
        f"{forecast['high_95']:.3f}) for its held-out model w96; it measured {measured:.3f}, {verdict} the interval "
        f"and {abs(100 * (measured / foretold - 1)):.1f} % {'below' if share < 0.5 else 'above'} the forecast."
    ) in text


def test_other_seeds_of_the_held_out_size_are_tests_too(run_directory: Path) -> None:
    with_loss_at(run_directory, 0.5)
    plan = json.loads((run_directory / "plan.json").read_bytes())
    for seed, nats in ((1, 3.3), (2, 9.9)):
        name = f"w96-s{seed}"
        plan["models"].append({**plan["models"][-1], "name": name})
        shutil.copytree(run_directory / "models" / "w96", run_directory / "models" / name)
        path = run_directory / "models" / name / "result.json"
        change(path, lambda result, name=name, nats=nats: result.update(name=name, nats_per_token=nats))  # type: ignore[misc]
    write_json(run_directory / "plan.json", plan)
    assert "2 of 3 seeds inside" in page_of(run_directory).text


def test_the_tables_hold_each_models_numbers_with_their_units(run_directory: Path) -> None:
    page = page_of(run_directory)
    plan = json.loads((run_directory / "plan.json").read_bytes())["models"][-1]
    result = json.loads((run_directory / "models" / "w96" / "result.json").read_bytes())
    family = page.row("w96")
    assert family[1:5] == ["3", "96", "6", "459k"]
    assert family[6:11] == ["9.18M", f"{plan['steps']:,}", "16", "4,096", "8.00e-3"]
    assert family[11:] == [f"{result['nats_per_token']:.3f}", f"{result['bits_per_byte']:.3f}"]
    cost = page.row("w96", nth=1)
    assert cost[1] == f"{result['flops']:.2e}".replace("e+", "e")
    assert cost[4:6] == ["40.0k", "34.6"]
    assert cost[3] == cost[2]  # of one system
    assert cost[6:8] == [f"{result['joules'] / 3600:.3f}", "declared"]
    total = page.row("measured, 8 models")
    results = [json.loads(path.read_bytes()) for path in run_directory.glob("models/*/result.json")]
    assert total[1] == f"{sum(r['flops'] for r in results):.2e}".replace("e+", "e")
    assert total[8] == f"{sum(r['price'] for r in results):.5f}"
    assert page.row("books")[1:4] == ["900", "1.50M", "3.70\N{NO-BREAK SPACE}MB"]
    for sha in ("ef" * 32, "cd" * 32, result["weights_sha256"]):
        assert sha in page.text


def test_the_law_is_told_with_its_warnings(run_directory: Path) -> None:
    page = page_of(run_directory)
    law = json.loads((run_directory / "law.json").read_bytes())
    for form in law["forms"]:
        assert page.row(form["name"])[-1] == f"{100 * form['weight']:.1f}"
    assert all(warning in page.text for warning in law["warnings"])


def test_a_sum_over_an_unknown_is_unknown(run_directory: Path) -> None:
    change(run_directory / "models" / "w32" / "result.json", lambda result: result.update(joules=None))
    assert page_of(run_directory).row("measured, 8 models")[5] == MISSING


def test_names_and_texts_from_files_are_escaped(run_directory: Path) -> None:
    def hostile(plan: dict[str, Any]) -> None:
        plan["family"] = plan["machine"]["processor"] = plan["currency"] = HOSTILE
        plan["machine"][HOSTILE] = HOSTILE
        for model in plan["models"]:
            model["size"] = HOSTILE + model["size"]

    change(run_directory / "plan.json", hostile)
    folder = run_directory / "models" / '<img src=x onerror="y">'
    shutil.copytree(run_directory / "models" / "w32", folder)
    change(
        folder / "result.json",
        lambda result: result.update(name=HOSTILE, joules_origin=HOSTILE, weights_sha256=HOSTILE),
    )
    change(run_directory / "data" / "manifest.json", lambda m: m.update(licence=HOSTILE, notice=HOSTILE))
    domains = {HOSTILE: {"documents": 1, "tokens": 1, "bytes": 1}}
    change(run_directory / "data" / "manifest.json", lambda m: m["splits"]["train"].update(domains=domains))
    change(run_directory / "forecast.json", lambda f: f.update(model=HOSTILE + "w96", time=HOSTILE, warnings=[HOSTILE]))
    change(run_directory / "law.json", lambda law: law["forms"][0].update(name=HOSTILE, equation=HOSTILE, note=HOSTILE))
    page = page_of(run_directory)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) >= 12
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("missing", FILES)
def test_without_one_file_the_rest_is_told_and_the_gap_is_named(run_directory: Path, missing: str) -> None:
    (run_directory / missing).unlink()
    page = page_of(run_directory)
    assert "This run is not complete" in page.text
    assert (missing if "models" not in missing else "1 of 8 models have no result yet: w64") in page.text


@pytest.mark.parametrize("damaged", FILES)
@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"models": 3, "model": 4, "forms": [1]}', "\0", "[" * 100_000])
def test_a_damaged_file_is_named_and_no_error(run_directory: Path, damaged: str, content: str) -> None:
    (run_directory / damaged).write_text(content)
    page = page_of(run_directory)
    assert "This run is not complete" in page.text
    assert damaged in page.text


def test_a_finished_run_has_no_gaps(finished_run: Path) -> None:
    assert read_run(finished_run).gaps == ()


def test_a_family_without_held_out_model_misses_no_forecast(run_directory: Path) -> None:
    (run_directory / "forecast.json").unlink()
    change(run_directory / "plan.json", lambda plan: [model.update(held_out=False) for model in plan["models"]])
    page = page_of(run_directory)
    assert "8 of 8 models trained, no model held out to test a forecast" in page.text
    assert "not complete" not in page.text


def test_an_empty_directory_gives_a_page_that_says_so(tmp_path: Path) -> None:
    text = page_of(tmp_path).text
    assert all(name in text for name in ("plan.json", "data/manifest.json", "law.json", "forecast.json"))


def test_numbers_that_are_null_or_nan_are_dashes(run_directory: Path) -> None:
    kept = {"name", "model", "size", "held_out", "models", "points", "warnings", "machine", "batch_schedule", "family"}

    def forget(document: dict[str, Any]) -> None:
        document.update(dict.fromkeys(document.keys() - kept))

    def forget_all(plan: dict[str, Any]) -> None:
        for part in (plan, *plan["models"]):
            forget(part)

    change(run_directory / "plan.json", forget_all)
    for path in [run_directory / "forecast.json", *run_directory.glob("models/*/result.json")]:
        change(path, forget)
    nan = '{"tokens": 9, "loss": NaN, "mfu": null}\n'
    (run_directory / "models" / "w32" / "metrics.jsonl").write_text(nan)
    write_json(run_directory / "models" / "w48" / "result.json", {"name": "w48", "flops": 1e12, "nats_per_token": None})
    page = page_of(run_directory)
    assert page.row("w48")[-2:] == [MISSING, MISSING]
    assert not re.search(r"\b(nan|None|inf|Undefined)\b", page.text)


def test_no_such_directory_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run directory"):
        write_report(tmp_path / "none")


def test_the_page_needs_no_network_and_no_other_file_and_runs_its_own_script_only(finished_run: Path) -> None:
    page = Page(render(read_run(finished_run), datetime.now(UTC)))
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:text/csv;")) or value == "data:,"
    without_names = page.html.replace('"http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|@import|url\((?!#)|\bfetch\(|XMLHttpRequest|\beval\(", without_names)
    script = re.search(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert script is not None
    allowed = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"


def test_ids_are_unique_and_every_reference_to_one_is_met(finished_run: Path) -> None:
    page = Page(render(read_run(finished_run), datetime.now(UTC)))
    ids = [value for _, attributes in page.elements if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    referred = re.findall(r"url\(#([^)]+)\)", page.html) + re.findall(r'href="#([^"]+)"', page.html)
    referred += " ".join(re.findall(r'aria-labelledby="([^"]+)"', page.html)).split()
    assert set(referred) <= set(ids)


def test_figures_have_titles_descriptions_captions_that_name_their_files_and_data(finished_run: Path) -> None:
    page = Page(render(read_run(finished_run), datetime.now(UTC)))
    figures = [part.split("</figure>")[0] for part in page.html.split("<figure")[1:]]
    assert len(figures) == 6
    for figure in figures:
        if 'id="downstream-5"' in figure:
            continue
        caption = figure.split("<figcaption>")[1].split("</figcaption>")[0]
        assert re.search(r"\.jsonl?</code>", caption)
        assert figure.count('role="img"') == figure.count("<desc ") == figure.count('.csv"') >= 1


def test_the_csv_of_a_figure_holds_every_measured_number_exactly(finished_run: Path) -> None:
    page = Page(render(read_run(finished_run), datetime.now(UTC)))
    links = {a["download"]: a["href"] for tag, a in page.elements if tag == "a" and "download" in a}
    assert links.keys() >= {"openness.csv", "published.csv", "verdict.csv", "compute.csv", "curves.csv"}
    text = unquote(str(links["compute.csv"]).partition(",")[2])
    rows = {row["name"]: row for row in csv.DictReader(text.splitlines()) if row["kind"] in ("measured", "held out")}
    for file in finished_run.glob("models/*/result.json"):
        result = json.loads(file.read_bytes())
        assert float(rows[result["name"]]["loss (nats/token)"]) == result["nats_per_token"]
        assert float(rows[result["name"]]["training FLOPs"]) == result["flops"]


def test_a_name_that_a_spreadsheet_would_run_is_text() -> None:
    assert Table(("name", "loss"), (("=HYPERLINK(1)", -1.5),)).csv() == "name,loss\n'=HYPERLINK(1),-1.5\n"


def test_the_same_run_gives_the_same_page_wherever_it_lies(finished_run: Path, run_directory: Path) -> None:
    now = datetime.now(UTC)
    assert render(read_run(finished_run), now) == render(read_run(run_directory), now)


def test_a_long_run_stays_small_and_quick(run_directory: Path) -> None:
    steps = 50_000
    with open(run_directory / "models" / "w96" / "metrics.jsonl", "w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            loss = 3 + 4 * step**-0.3 + (step * 7919 % 101) / 500
            file.write(f'{{"tokens": {step * 4096}, "loss": {loss}, "mfu": 0.4, "tokens_per_second": 1e5}}\n')
    begin = time.process_time()
    size = write_report(run_directory).stat().st_size
    assert time.process_time() - begin < 5
    # Of which published models take 350 kB.
    assert size < 600_000


def test_reporting_imports_no_torch() -> None:
    program = "import isoflop.report.page, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
