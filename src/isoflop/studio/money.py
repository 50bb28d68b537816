"""What runs take of a limit: as quoted, or what they took where that is more; of a cancelled one what it took."""

from collections.abc import Sequence

import numpy as np

from isoflop.errors import InputError
from isoflop.report.metrics import Metrics, read_metrics
from isoflop.studio.catalogue import Listed
from isoflop.studio.places import Places


def refuse_dear(places: Places, price: float | None, runs: Sequence[Listed], most: float | None, whose: str) -> None:
    """
    Raises:
        InputError: `price` and what `runs` take are more than `most`, or there is a limit and no price.
    """
    if most is None:
        return
    if price is None:
        raise InputError(f"price: {whose} may spend {most:g}, and this quote has no price; give one a system and hour")
    spent = sum(taken(places, run) for run in runs)
    if spent + price > most:
        raise InputError(f"price: {whose} may spend {most:g}, {spent:.2f} are taken and this is {price:.2f}")


def quoted_price(run: Listed) -> float:
    """0 where none was quoted."""
    price = run.order.quote.get("totals", {}).get("price") if run.order else None
    return float(price) if isinstance(price, int | float) else 0.0


def taken(places: Places, run: Listed) -> float:
    """What a run takes of a limit."""
    if run.order is None:
        return 0.0
    rate = _rate(run)
    took = run.price if run.price is not None else rate * run.seconds
    if run.state != "cancelled":
        return max(quoted_price(run), took)
    # What it trained of models that it did not finish was trained, and paid for.
    folder = places.run(run.name)
    for path in folder.path.glob("models/*/metrics.jsonl"):
        if not folder.result(path.parent.name).exists() and (metrics := read_metrics(path)) is not None:
            took += rate * trained_seconds(metrics)
    return took


def trained_seconds(metrics: Metrics) -> float:
    """Time in steps: pauses are none of it."""
    return float(np.nansum(np.diff(metrics.tokens, prepend=0.0) / metrics.tokens_per_second))


def _rate(run: Listed) -> float:
    """Price of a second of training. On a cluster it goes with the systems; those of this machine share it."""
    if run.order is None:
        return 0.0
    quote = run.order.quote
    seconds = float(quote.get("totals", {}).get("seconds") or 0.0)
    systems = run.order.systems / float(quote.get("systems") or 1) if run.order.cluster else 1.0
    return quoted_price(run) / seconds * systems if seconds else 0.0
