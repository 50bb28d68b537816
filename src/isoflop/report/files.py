"""Every figure as files: SVG that stands alone, PNG, and its data as CSV."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from isoflop.durable import write_bytes, write_text
from isoflop.report.figure import Figure
from isoflop.report.openness import draw_openness
from isoflop.report.page import page_parts, templates
from isoflop.report.placing import WIDTH
from isoflop.report.run import Foretold, read_run
from isoflop.report.table import Key

# Twice the size in CSS pixels: sharp on slides and in print.
PNG_ZOOM = 2
HEAD = 36


def write_figures(run_directory: Path, folder: Path, foretold: Foretold | None = None) -> list[Path]:
    """Writes NAME.svg, NAME.png and NAME.csv of every figure of the report into `folder` and returns their paths.

    Raises:
        InputError: there is no such run directory.
        WorkError: a file cannot be written.
    """
    parts = page_parts(read_run(run_directory, foretold))
    openness = draw_openness(parts.beside)
    figures = [*([openness] if openness else []), *parts.figures.values()]
    figures += [replace(figure, keys=_keys(figure, group.keys)) for group in parts.tasks for figure in group.figures]
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for number, figure in enumerate(figures):
        # A task's name comes from a file: it must not lead out of the folder, nor onto another figure.
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", figure.drawing.name)[:100]
        name += f"-{number}" * (folder / f"{name}.svg" in written)
        svg = svg_of(figure)
        write_text(folder / f"{name}.svg", svg)
        write_bytes(folder / f"{name}.png", png_of(svg))
        write_text(folder / f"{name}.csv", figure.table.csv())
        written += [folder / f"{name}.{ending}" for ending in ("svg", "png", "csv")]
    return written


def svg_of(figure: Figure) -> str:
    """The figure as an SVG with title, legend and its style inside, in light colours."""
    keys, height = _placed_keys(figure.keys, HEAD + figure.drawing.height + 8)
    template = templates().get_template("alone.svg.jinja")
    return (
        template.render(figure=figure, keys=keys, width=WIDTH, height=height, head=HEAD, style=Markup(_style())) + "\n"
    )


def png_of(svg: str) -> bytes:
    """The picture as PNG, its words in matplotlib's font: the same on every machine."""
    import matplotlib
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            background="#ffffff",
            zoom=PNG_ZOOM,
            skip_system_fonts=True,
            font_files=[str(fonts / "DejaVuSans.ttf"), str(fonts / "DejaVuSans-Bold.ttf")],
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
        )
    )


def _keys(figure: Figure, keys: Sequence[Key]) -> tuple[Key, ...]:
    """Those of the legend that the figure draws."""
    drawn: set[str] = set()
    for panel in figure.drawing.panels:
        drawn |= {line.series for line in panel.lines} | {mark.series for mark in panel.marks}
    return tuple(key for key in keys if key.series in drawn)


def _placed_keys(keys: Sequence[Key], top: float) -> tuple[list[tuple[Key, float, float]], float]:
    """Each entry with the middle of its mark, in rows as wide as the figure; and where the last row ends."""
    placed, x, y = [], 12.0, top + 12
    for key in keys:
        length = 40 + 7.4 * len(key.label)
        if x > 12 and x + length > WIDTH:
            x, y = 12.0, y + 22
        placed.append((key, x, y))
        x += length
    return placed, y + 14 if keys else top


@cache
def _style() -> str:
    """The figures' rules with their colours put in: not every program that draws SVG knows custom properties."""
    light = (files("isoflop.report") / "templates" / "style" / "light.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z0-9-]+):\s*([^;]+);", light))
    rules = templates().get_template("style/figure.css.jinja").render()
    return re.sub(r"var\(--([a-z0-9-]+)\)", lambda found: colours[found[1]], rules)
