"""The figure of every model's training loss against the tokens it has read."""

from collections.abc import Mapping, Sequence

import numpy as np

from isoflop.report.drawing import Array, Axis, Drawing, Panel, Shape, line, padded
from isoflop.report.metrics import Metrics, smoothed, thinned
from isoflop.report.numbers import count, loss, short_count
from isoflop.report.run import Model

TITLE = "Training loss against tokens"
RAW_POINTS = 400
SMOOTH_POINTS = 160


def draw_loss_curves(
    name: str, models: Sequence[Model], shades: Mapping[str, float], width: int, height: int
) -> Drawing | None:
    """Training loss against tokens on a log axis; None where no step is logged."""
    logged = [(model, model.metrics) for model in models if model.metrics and np.isfinite(model.metrics.loss).any()]
    if not logged:
        return None
    smooth = [smoothed(metrics.tokens, metrics.loss, SMOOTH_POINTS) for _, metrics in logged]
    tokens = np.concatenate([t for t, _ in smooth])
    means = np.concatenate([y for _, y in smooth])
    low = min(float(np.nanmin(metrics.loss)) for _, metrics in logged)
    # A spike of one step must not press all curves flat; it is cut at the frame.
    high = min(max(float(np.nanmax(metrics.loss)) for _, metrics in logged), 1.1 * float(means.max()))
    x = Axis(*padded(tokens.tolist(), 0.02, log=True), 52, width - 14, True, "training tokens")
    y = Axis(*padded([low, high], 0.04, log=False), height - 46, 30, False, "training loss, nats/token")
    narrow = width < 600
    # The held-out model last, so that it lies on top.
    order = sorted(range(len(logged)), key=lambda i: logged[i][0].held_out)
    raw = tuple(_raw(*logged[i], x, y, shades, RAW_POINTS // (1 + narrow)) for i in order)
    curves = tuple(_curve(logged[i][0], x, y, shades, *smooth[i]) for i in order)
    panel = Panel(x, y, x.ticks(3 if narrow else 8, short_count), y.ticks(6, lambda v: f"{v:.4g}"), raw + curves)
    ends = "; ".join(
        f"{model.name} ends at {loss(float(y[-1]))}" for (model, _), (_, y) in zip(logged, smooth, strict=True)
    )
    return Drawing(
        name, width, height, TITLE, f"One falling curve for each model, in nats per token: {ends}.", (panel,)
    )


def _raw(model: Model, metrics: Metrics, x: Axis, y: Axis, shades: Mapping[str, float], points: int) -> Shape:
    tokens, losses = thinned(metrics.tokens, metrics.loss, points)
    return Shape(line(x.at(tokens), y.at(losses)), f"raw {_role(model)}", shade=shades[model.name])


def _curve(model: Model, x: Axis, y: Axis, shades: Mapping[str, float], tokens: Array, means: Array) -> Shape:
    hover = f"{model.name}: {loss(float(means[-1]))} nats/token after {count(float(tokens[-1]))} tokens"
    return Shape(line(x.at(tokens), y.at(means)), f"curve {_role(model)}", hover, shades[model.name])


def _role(model: Model) -> str:
    return "held" if model.held_out else "ladder"
