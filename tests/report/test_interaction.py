"""The page's script in a real browser: what a pointer, the keyboard and the buttons do to a figure."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.report.metrics import Metrics
from isoflop.report.page import figures_of, render, write_report
from isoflop.report.placing import place
from isoflop.report.published import beside_published
from isoflop.report.run import Model, read_run
from isoflop.report.verdict import judge
from tests.report.browser import Look, chromium, look, read_probe

__all__ = ["chromium", "look"]


def test_the_script_draws_what_was_drawn_and_zooming_out_again_gives_it_back(run_directory: Path, look: Look) -> None:
    run = read_run(run_directory)
    probe = read_probe("figure", "redraw")
    (seen,) = look(write_report(run_directory), probe, widths=[1024])
    assert seen["width"] == 960
    figures = figures_of(run, judge(run.forecast, run.models), beside_published(run))
    drawn = figures["compute"].placed
    assert seen["labels"] == [
        label
        for i, panel in enumerate(drawn)
        for label in [text for _, text in panel.x_ticks if text and i == 1] + [t for _, t in panel.y_ticks if t]
    ]
    assert seen["curves"] == [
        t for _, t in figures["curves"].placed[0].x_ticks + figures["curves"].placed[0].y_ticks if t
    ]
    places = [f"translate({x:.2f} {y:.2f})" for panel in drawn for _, x, y, _ in panel.marks]
    found = [one for one in seen["before"] if one.startswith("translate")]
    for ours, theirs in zip(places, found, strict=True):
        assert np.allclose(*([float(n) for n in re.findall(r"[\d.]+", one)] for one in (ours, theirs)), atol=0.02)
    assert seen["zoomed"][0] != seen["before"]
    assert seen["zoomed"][1] != seen["labels"]
    assert seen["after"] == seen["before"]


def test_pointer_and_keyboard_tell_the_points_and_a_legend_switches_them(run_directory: Path, look: Look) -> None:
    probe = read_probe("figure", "pointing")
    (seen,) = look(write_report(run_directory), probe, widths=[1280])
    results = [json.loads(path.read_bytes()) for path in sorted(run_directory.glob("models/*/result.json"))]
    for result in results:
        if result["size"] in ("w32", "w96"):
            told = [one for one in seen["told"] if one and one.startswith(result["name"] + ":")]
            assert told
            assert f"{result['nats_per_token']:.3f} nats/token" in told[0]
    assert not seen["left"]
    assert len(set(seen["steps"])) > 1
    assert all(seen["steps"])
    assert seen["down"] != seen["steps"][-1]
    assert not seen["gone"]
    assert (seen["hidden"], seen["pressed"], seen["held"]) == (6, "false", 2)
    assert seen["focus"]
    assert (seen["role"], seen["live"]) == ("application", "polite")
    assert "Arrow keys" in seen["label"]


def test_a_box_zooms_axes_turn_linear_and_numbers_and_pictures_can_be_taken(run_directory: Path, look: Look) -> None:
    probe = read_probe("figure", "tools")
    (seen,) = look(write_report(run_directory), probe, widths=[1280])
    assert seen["boxed"] != seen["first"] == seen["all"] == seen["again"]
    assert seen["linear"] != seen["first"]
    assert seen["pressed"] == "false"
    assert (seen["root"], seen["style"]) == ("svg", True)
    assert seen["marks"] >= 18
    assert bytes(seen["png"]) == b"\x89PNG"
    assert seen["size"] > 10_000
    measured = [row for row in seen["rows"] if row[0] in ("measured", "held out")]
    assert len(measured) == 8
    assert seen["light"] != seen["dark"]


def test_two_hundred_runs_of_a_million_points_make_a_small_page(
    run_directory: Path, tmp_path: Path, look: Look
) -> None:
    run = read_run(run_directory)
    steps = 5000
    rng = np.random.default_rng(0)

    def model(i: int) -> Model:
        tokens = np.arange(1.0, steps + 1) * 4096 * (1 + i / 40)
        loss = 2.5 + 4 * np.arange(1, steps + 1) ** -0.3 + rng.normal(0, 0.05, steps)
        one = np.ones(steps)
        like: Any = run.models[i % len(run.models)]
        return replace(like, name=f"run {i}", size=f"size {i // 2}", metrics=Metrics(tokens, loss, one, one, one, one))

    page = tmp_path / "many.html"
    page.write_text(
        render(replace(run, models=tuple(model(i) for i in range(200))), datetime.now(UTC)), encoding="utf-8"
    )
    assert page.stat().st_size < 1_100_000
    (seen,) = look(page, read_probe("drawn"), widths=[1280])
    assert seen[0] == 200
    assert 5_000 < seen[1] <= 15_000


def test_every_drawing_fits_a_phone(run_directory: Path) -> None:
    run = read_run(run_directory)
    for figure in figures_of(run, judge(run.forecast, run.models), beside_published(run)).values():
        for panel in place(figure.drawing, 354):
            assert panel.right - panel.left > 250
            assert panel.bottom - panel.top > 40
