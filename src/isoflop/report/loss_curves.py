"""The figure of every model's training loss against the tokens it has read."""

from collections.abc import Mapping, Sequence

import numpy as np

from isoflop.report.drawing import Drawing, Line, Panel
from isoflop.report.figure import Figure
from isoflop.report.metrics import smoothed, thinned
from isoflop.report.numbers import loss
from isoflop.report.run import Model
from isoflop.report.scale import Array, Scale, padded
from isoflop.report.table import Key, Table

TITLE = "Training loss against tokens"
# Points on the whole page, shared by the runs: with many runs each is thinned more.
RAW_POINTS, MOST_RAW = 6_000, 400
SMOOTH_POINTS, MOST_SMOOTH = 9_000, 160


def draw_loss_curves(models: Sequence[Model], colours: Mapping[str, str], keys: Sequence[Key]) -> Figure | None:
    """Training loss against tokens on a log axis; None where no step is logged.

    `colours` has each model's class, `keys` the legend of sizes.
    """
    logged = [(model, model.metrics) for model in models if model.metrics and np.isfinite(model.metrics.loss).any()]
    if not logged:
        return None
    raw_points, points = _share(RAW_POINTS, MOST_RAW, len(logged)), _share(SMOOTH_POINTS, MOST_SMOOTH, len(logged))
    smooth = {model.name: smoothed(metrics.tokens, metrics.loss, points) for model, metrics in logged}
    raw = {model.name: thinned(metrics.tokens, metrics.loss, raw_points) for model, metrics in logged}
    means = np.concatenate([y for _, y in smooth.values()])
    low = min(float(np.nanmin(metrics.loss)) for _, metrics in logged)
    # A spike of one step must not press all curves flat; it is cut at the frame.
    high = min(max(float(np.nanmax(metrics.loss)) for _, metrics in logged), 1.1 * float(means.max()))
    tokens = np.concatenate([t for t, _ in smooth.values()])
    x = Scale(*padded([tokens.min(), tokens.max()], 0.02, log=True), True, "training tokens", "count", "tokens")
    y = Scale(*padded([low, high], 0.04, log=False), False, "training loss, nats/token", "loss", "nats/token")
    # The held-out model last, so that it lies on top.
    order = sorted((model for model, _ in logged), key=lambda model: model.held_out)
    lines = [Line(*raw[m.name], f"raw {colours[m.name]}", series=m.size, silent=True) for m in order]
    lines += [Line(*smooth[m.name], colours[m.name], m.name, m.size) for m in order]
    ends = "; ".join(f"{name} ends at {loss(float(means[-1]))}" for name, (_, means) in smooth.items())
    told = f"One falling curve for each model, in nats per token: {ends}."
    drawing = Drawing("curves", TITLE, told, (Panel(x, y, tuple(lines)),), 430, 340)
    return Figure(drawing, tuple(keys), _table(smooth))


def _share(points: int, most: int, runs: int) -> int:
    return max(30, min(most, points // runs))


def _table(smooth: Mapping[str, tuple[Array, Array]]) -> Table:
    """The heavy lines: single steps are in metrics.jsonl, all of them."""
    rows = [
        (name, round(t), float(f"{value:.6g}"))
        for name, (tokens, means) in smooth.items()
        for t, value in zip(tokens.tolist(), means.tolist(), strict=True)
    ]
    return Table(("model", "tokens", "training loss, mean (nats/token)"), tuple(rows))
