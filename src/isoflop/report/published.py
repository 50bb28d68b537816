"""The figure of loss against compute beside published families, and how each family is drawn everywhere on the page."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.report.drawing import Drawing, Line, Mark, Panel, Words
from isoflop.report.figure import PUBLISHED, Figure
from isoflop.report.numbers import count, loss, scientific
from isoflop.report.records import Compared, Comparison
from isoflop.report.scale import Array, Scale, padded
from isoflop.report.table import Key, Table

# The published families that isoflop comes with look the same in every report.
KNOWN = {
    "Cerebras-GPT": ("p0", "square"),
    "Cerebras-GPT muP": ("p1", "up"),
    "Pythia": ("p2", "dot"),
    "Pythia deduped": ("p3", "down"),
    "GPT-J": ("p4", "cross"),
    "GPT-NeoX": ("p5", "saltire"),
    "OPT": ("p6", "hexagon"),
}
TITLE_Y = "held-out loss, bits per byte"
OURS = ("held", "diamond")


@dataclass(frozen=True)
class Placed:
    """A model that has a place in the figure."""

    model: Compared
    flops: float
    loss: float


def styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Colour class and glyph of each family."""
    ours = {model.family for model in comparison.models if model.ours}
    others = sorted({model.family for model in comparison.models} - ours - KNOWN.keys())
    more = itertools.cycle(itertools.product(("hexagon", "square", "up", "down"), PUBLISHED))
    added = {family: (colour, glyph) for family, (glyph, colour) in zip(others, more, strict=False)}
    return {**KNOWN, **added, **dict.fromkeys(ours, OURS)}


def draw_published(comparison: Comparison) -> Figure | None:
    """Bits per byte against training FLOPs, both logarithmic, a line for each family; None where no loss is known."""
    placed = [
        Placed(model, model.flops, model.bits_per_byte)
        for model in comparison.models
        if model.flops and model.bits_per_byte and model.flops > 0 and model.bits_per_byte > 0
    ]
    if not placed:
        return None
    x = Scale(*padded([p.flops for p in placed], 0.05, log=True), True, "training FLOPs", "flops", "FLOPs")
    y = Scale(*padded([p.loss for p in placed], 0.08, log=True), True, TITLE_Y, "loss", "bits/byte")
    families = _by_family(placed)
    style = styles(comparison)
    lines = [
        Line(*_xy(members), f"{style[name][0]} thin", name, name, silent=True) for name, members in families.items()
    ]
    marks = [
        Mark(p.flops, p.loss, style[name][1], style[name][0], _told(p), name)
        for name, members in reversed(families.items())
        for p in members
    ]
    words = [_name(name, members, style[name][0]) for name, members in families.items()]
    told = "; ".join(_described(name, members) for name, members in families.items())
    drawing = Drawing(
        "published",
        "Loss against training compute beside published families",
        f"Bits per byte: {told}.",
        (Panel(x, y, tuple(lines), tuple(marks), tuple(words)),),
        430,
        380,
    )
    keys = [Key(name, style[name][1], style[name][0], name) for name in families]
    return Figure(drawing, tuple(keys), _table(families))


def _xy(members: Sequence[Placed]) -> tuple[Array, Array]:
    return np.array([p.flops for p in members]), np.array([p.loss for p in members])


def _by_family(placed: Sequence[Placed]) -> dict[str, list[Placed]]:
    """Ours first, each family by growing compute."""
    families: dict[str, list[Placed]] = {}
    for p in sorted(placed, key=lambda p: (not p.model.ours, p.model.family, p.flops)):
        families.setdefault(p.model.family, []).append(p)
    return families


def _told(p: Placed) -> str:
    size = f", {count(p.model.params)} parameters" if p.model.params else ""
    where = f"; on {p.model.text}" if p.model.text else ""
    name = p.model.model if p.model.model.startswith(p.model.family) else f"{p.model.family} {p.model.model}"
    return f"{name}{size}: {loss(p.loss)} bits/byte at {scientific(p.flops)} FLOPs{where}"


def _name(name: str, members: Sequence[Placed], colour: str) -> Words:
    first = members[0]
    text = name if len(name) <= 22 else name[:21] + "…"
    return Words(first.flops, first.loss, text, "held" if first.model.ours else colour, series=name)


def _described(name: str, members: Sequence[Placed]) -> str:
    first, last = members[0], members[-1]
    told = f"{name} {loss(first.loss)} at {scientific(first.flops)} FLOPs"
    return told + (f" to {loss(last.loss)} at {scientific(last.flops)}" if last is not first else "")


def _table(families: dict[str, list[Placed]]) -> Table:
    columns = ("family", "model", "parameters", "tokens", "training FLOPs", "bits per byte", "nats per GPT-2 token")
    rows = [
        (name, it.model, it.params, it.tokens, it.flops, it.bits_per_byte, it.nats_per_gpt2_token, it.text, it.source)
        for name, members in families.items()
        for it in (p.model for p in members)
    ]
    return Table((*columns, "text", "source"), tuple(rows))
