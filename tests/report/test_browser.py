"""The page in a real browser: at a phone's and a desk's width, light and dark, finished, unfinished and hostile."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from isoflop.durable import write_json
from isoflop.report.page import write_report
from isoflop.report.run import Foretold
from tests.report.browser import WIDTHS, Look, chromium, look, read_probe

__all__ = ["chromium", "look"]

LAYOUT = read_probe("layout")


def change(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_bytes()), **values})


def assert_readable(frame: dict[str, Any]) -> None:
    """Nothing reaches past the right edge, nothing was fetched, every figure is there, no word lies on another."""
    assert frame["scroll_width"] <= frame["width"]
    assert frame["resources"] == []
    for drawing in frame["drawings"]:
        left, right, width, height = drawing["box"]
        assert left >= 0
        assert right <= frame["width"]
        assert width > 0.75 * min(frame["width"], 340)
        assert height > 50
        for left, right, width, height in drawing["marks"]:
            assert right <= frame["width"]
            assert left >= 0
            assert width + height > 5
    for left, right, _, height, text in frame["texts"] + frame["headings"]:
        assert left >= 0, text
        assert right <= frame["width"] + 1, text
        assert height >= 11, text
    for labels in frame["labels"]:
        for i, (left, right, top, bottom, text) in enumerate(labels):
            for other_left, other_right, other_top, other_bottom, other in labels[i + 1 :]:
                apart = right <= other_left or other_right <= left or bottom <= other_top + 4 or other_bottom <= top + 4
                assert apart, (text, other)


def test_a_finished_run_is_readable_at_both_widths(
    compared_run: Path, tmp_path: Path, foretold: Foretold, look: Look
) -> None:
    directory = shutil.copytree(compared_run, tmp_path / "pocket")
    frames = look(write_report(directory, foretold), LAYOUT)
    assert [frame["width"] for frame in frames] == list(WIDTHS)
    for frame in frames:
        assert_readable(frame)
        # The verdict, published, law, three tasks (those with examples are folded away), memory, speed, time, curves.
        assert len(frame["drawings"]) == 10
        assert frame["plots"] == 11


def test_dark_is_dark_and_light_is_light(run_directory: Path, look: Look) -> None:
    page = write_report(run_directory)
    for dark in (False, True):
        for frame in look(page, LAYOUT, dark=dark):
            background, ink = (sum(map(int, re.findall(r"\d+", frame[name])[:3])) for name in ("background", "ink"))
            assert (background < 120 < 600 < ink) if dark else (ink < 120 < 600 < background)


def test_an_empty_run_is_readable(tmp_path: Path, look: Look) -> None:
    (tmp_path / "empty").mkdir()
    for frame in look(write_report(tmp_path / "empty"), LAYOUT):
        assert_readable(frame)
        # What others published is there to compare with: losses, and tasks without and with examples.
        assert frame["plots"] == 17


def test_hostile_and_endless_names_run_nothing_and_break_nothing(
    compared_run: Path, tmp_path: Path, look: Look, foretold: Foretold
) -> None:
    run_directory = shutil.copytree(compared_run, tmp_path / "pocket")
    endless = "W" * 64
    hostile = "</title></svg></script><script>console.error(1)</script><img src=x onerror=console.error(2)>"
    plan = json.loads((run_directory / "plan.json").read_bytes())
    for model in plan["models"]:
        model["size"] = endless + model["size"]
    plan["models"].append({**plan["models"][0], "name": endless, "size": hostile})
    change(run_directory / "plan.json", models=plan["models"], family=endless, machine={endless: endless + hostile})
    shutil.copytree(run_directory / "models" / "w80", run_directory / "models" / endless)
    result = {"name": hostile, "joules_origin": hostile, "weights_sha256": endless * 3}
    change(run_directory / "models" / endless / "result.json", **result)
    change(run_directory / "forecast.json", model=hostile + endless, warnings=[endless * 3, hostile])
    change(run_directory / "data" / "manifest.json", licence=endless + hostile, notice=endless * 5 + hostile)
    comparison = json.loads((run_directory / "compare.json").read_bytes())
    for model in comparison["models"]:
        model.update(family=hostile + model["family"], model=endless + hostile, text=hostile, source=hostile)
    for row in [*comparison["openness"], *comparison["needed"]]:
        row.update(family=endless + hostile, note=hostile, source=endless * 3, why_not=hostile)
    write_json(run_directory / "compare.json", {**comparison, "notes": [hostile, endless * 3]})
    tasks = json.loads((run_directory / "models" / "w80" / "tasks.json").read_bytes())
    tasks["scores"].append({**tasks["scores"][0], "task": hostile + endless})
    write_json(run_directory / "models" / "w80" / "tasks.json", tasks)
    (scaling,) = foretold.scalings
    scaling = {**scaling, "model": hostile + endless, "hardware": {**scaling["hardware"], "name": endless}}
    for frame in look(write_report(run_directory, Foretold((scaling,))), LAYOUT):
        assert_readable(frame)
