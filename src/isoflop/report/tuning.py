"""The figure of a tuning: loss against each value that was searched."""

import io
from collections.abc import Mapping, Sequence

TITLES = {
    "peak_lr": "base learning rate",
    "init_std": "initialisation",
    "embedding_multiplier": "embedding multiplier",
}


def draw_tuning(points: Sequence[tuple[Mapping[str, float], float]], best: Mapping[str, float]) -> str:
    """An SVG with a panel for each value: every trial's loss in nats per token, the best trial ringed.

    The same points give the same file.
    """
    import matplotlib

    # Deterministic: ids from a salt, no date; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "isoflop", "svg.fonttype": "none", "font.size": 9}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        panels = figure.subplots(1, len(TITLES), sharey=True)
        for panel, (key, title) in zip(panels, TITLES.items(), strict=True):
            panel.plot([values[key] for values, _ in points], [loss for _, loss in points], "o", color="#4477aa")
            ringed = [(values[key], loss) for values, loss in points if values == best]
            panel.plot(*zip(*ringed, strict=True), "o", color="#cc3311", markersize=11, markerfacecolor="none")
            panel.set_xscale("log")
            panel.set_xlabel(title)
            panel.grid(alpha=0.25)
        panels[0].set_ylabel("held-out loss, nats per token")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
