"""Figures as files: each opens by itself, and none leaves its folder."""

import csv
import io
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from isoflop.durable import write_json
from isoflop.report.files import write_figures
from isoflop.report.run import Foretold

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(compared_run: Path, foretold: Foretold, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    write_figures(compared_run, folder, foretold)
    return folder


def test_every_figure_is_there_as_svg_png_and_csv(folder: Path) -> None:
    names = {
        "openness",
        "verdict",
        "published",
        "compute",
        "curves",
        "memory",
        "speed-1",
        "time",
        "task-0-heldout_cloze",
    }
    names |= {"task-5-heldout_cloze", "task-0-lambada", "task-0-piqa"}
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.{ending}" for name in names for ending in ("svg", "png", "csv")),
    }


def test_an_svg_stands_alone_with_title_and_legend_and_no_colour_left_open(folder: Path) -> None:
    for path in folder.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.tag == f"{SVG}svg"
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text
        assert "href" not in text
        title = root.find(f"{SVG}text")
        assert title is not None
        assert title.text
    words = [text.text for text in ElementTree.parse(folder / "compute.svg").getroot().iter(f"{SVG}text")]
    assert {"held out, measured", "law, median", "w96"} <= set(words)


def test_a_png_shows_the_colours_of_the_figure(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "compute.png").convert("RGB")).reshape(-1, 3)
    assert pixels.shape[0] > 1_000_000
    for colour in ((0xC2, 0x41, 0x0C), (0xE4, 0xE8, 0xF0), (0x1B, 0x1C, 0x1F)):
        assert (np.abs(pixels.astype(int) - colour).max(axis=1) <= 4).any(), colour


def test_the_csv_of_openness_has_a_row_a_family(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((folder / "openness.csv").read_text(encoding="utf-8"))))
    assert [row["family"] for row in rows] == ["pocket", "Cerebras-GPT", "GPT-4"]


def test_a_task_named_like_a_path_stays_in_the_folder(compared_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared_run, tmp_path / "run")
    path = run / "models" / "w96" / "tasks.json"
    scores = json.loads(path.read_bytes())["scores"]
    write_json(path, {"scores": [{**scores[0], "task": "../../../evil<x>", "members": []}]})
    for written in write_figures(run, tmp_path / "deep" / "figures"):
        assert written.parent == tmp_path / "deep" / "figures"
    assert not list(tmp_path.glob("evil*"))
