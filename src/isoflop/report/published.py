"""The family beside published ones: what is compared, the figure of loss against compute, and how families look."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.published import (
    PublishedModel,
    gpt2_tokens_per_byte,
    published_law,
    published_models,
    published_openness,
)
from isoflop.report.drawing import Drawing, Line, Mark, Panel, Words
from isoflop.report.figure import PUBLISHED, Figure
from isoflop.report.numbers import count, loss, scientific
from isoflop.report.records import Compared, Comparison, OpenFamily
from isoflop.report.run import Model, Run
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
PILE = "Pile test"
LAW_POINTS = 33
TITLE_Y = "held-out loss, bits per byte"
OURS = ("held", "diamond")


@dataclass(frozen=True)
class Placed:
    """A model that has a place in the figure."""

    model: Compared
    flops: float
    loss: float


def beside_published(run: Run) -> Comparison:
    """This family's results as they are now, beside the models of compare.json or, without it, the published ones.

    FLOPs are counted as in the Cerebras-GPT paper where the plan tells them.
    """
    kept = run.comparison or Comparison()
    mine = next((model for model in kept.models if model.ours), None)
    text = mine.text if mine else f"held-out text of {run.family}"
    ours = [_own(run.family, model, text) for model in run.models if model.result]
    theirs = [model for model in kept.models if not model.ours] or [_theirs(model) for model in published_models()]
    openness = kept.openness or tuple(OpenFamily.model_validate(row.model_dump()) for row in published_openness())
    open_now = (run.openness,) if run.openness else tuple(row for row in openness if row.ours)
    known = any(model.bits_per_byte for model in ours)
    other = text != (kept.text or PILE)
    return Comparison(
        text=kept.text or PILE,
        loss=kept.loss,
        models=(*ours, *theirs),
        needed=kept.needed,
        openness=(*open_now, *(row for row in openness if not row.ours)),
        notes=(f"{run.family}'s losses are of another text, so its height says nothing; its slope does",)
        * (known and other),
    )


def _own(family: str, model: Model, text: str) -> Compared:
    result, planned = model.result, model.planned
    assert result is not None
    return Compared(
        family=family,
        model=model.name,
        ours=True,
        params=result.params,
        tokens=result.tokens,
        flops=(planned.flops_paper if planned else None) or result.flops,
        bits_per_byte=result.bits_per_byte,
        text=text,
        source=f"models/{model.name}/result.json",
    )


def _theirs(model: PublishedModel) -> Compared:
    scores: dict[str, dict[str, float | None]] = {}
    for (task, shots), value in model.scores.items():
        scores.setdefault(str(shots), {})[task] = value
    return Compared(
        family=model.family,
        model=model.model,
        params=model.params,
        tokens=model.tokens,
        flops=model.flops,
        nats_per_gpt2_token=model.nats_per_gpt2_token,
        bits_per_byte=model.bits_per_byte,
        text=model.text,
        scores=scores,
        source=model.source,
    )


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
    law = _law_line(placed)
    lines += [law] if law else []
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
    if law:
        keys.append(Key(law.label, "line", law.css, law.series))
    return Figure(drawing, tuple(keys), _table(families))


def _xy(members: Sequence[Placed]) -> tuple[Array, Array]:
    return np.array([p.flops for p in members]), np.array([p.loss for p in members])


def _law_line(placed: Sequence[Placed]) -> Line | None:
    """The published law of compute-optimal training, over the compute of the models on its text."""
    law = published_law()
    a_byte = gpt2_tokens_per_byte(law.text)
    flops = [p.flops for p in placed if p.model.text == law.text]
    if a_byte is None or not flops:
        return None
    x = np.geomspace(min(flops), max(flops), LAW_POINTS)
    y = np.array([law.loss(one) * a_byte / math.log(2) for one in x.tolist()])
    return Line(x, y, "law dashed thin", f"law of {law.name}, {law.source.partition(':')[0]}", "published-law")


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
