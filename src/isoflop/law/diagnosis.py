"""What a reader of a law must beware of: data that cannot carry it, parameters that are not there, targets too far."""

from collections.abc import Sequence

import numpy as np

from isoflop.law.forecast import Forecast
from isoflop.law.points import COUNTED_HERE, Point
from isoflop.law.runs import Runs, sizes_under_a_name
from isoflop.recipe.flops import six_nd

# A floor counts as seen when at least SURE of the mixture puts it above FLOOR_SHARE of the lowest loss.
SURE = 0.95
FLOOR_SHARE = 0.05
# A loss is suspect when it lies this many times the typical distance, and at least this share, off the robust line.
FAR_OFF = 10.0
FAR_OFF_AT_LEAST = 0.1
# So many of them are named.
NAMED = 5
# Seeds of one size and tokens differ by less: more is another learning rate, batch or schedule.
SEEDS_DIFFER = 0.03
# The largest size and tokens of a set are at least these, and the smallest within SMALLER of them, or they are in other
# units. FLOPs lie within OFF_SIX_ND of 6ND: attention of tiny widths takes more, experts that rest less. A loss is at
# least what the best public models leave of the easiest text, in nats a token or bits a byte, and at most ln of a
# vocabulary of a million.
LEAST = {"params": 1e4, "tokens": 1e5}
SMALLER, OFF_SIX_ND = 100.0, 100.0
# No ladder leaves out this factor between a size and the next: below it, a row was written in millions or billions.
GAP = 1000.0
PLAUSIBLE_LOSS = (0.3, 13.9)
# A loss that falls by less than this exponent of compute does not fall: laws of language models have 0.02 and more.
LEAST_EXPONENT = 1e-3
# A factor of ten is no less for having been rounded.
DECADE = 10 * (1 - 1e-9)
# The robust line looks at every pair of points.
MOST_IN_PAIRS = 500


def floor_range(forecast: Forecast) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of the irreducible loss E over the mixture; forms without a floor say 0."""
    floors = [
        (member.form.named(draw).get("E") or 0.0, member.weight / member.draws.theta.shape[1])
        for member in forecast.members
        for draw in member.draws.theta.T
    ]
    values, weights = np.array(floors).T
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    low, high = (values[order][min(np.searchsorted(share, level), len(values) - 1)] for level in (1 - SURE, SURE))
    return float(low), float(high)


def floor_warning(forecast: Forecast, runs: Runs) -> str | None:
    """What to say where the data cannot tell an irreducible loss from none; None where they can."""
    low, high = floor_range(forecast)
    if low > FLOOR_SHARE * float(np.exp(runs.y.min())):
        return None
    if high == 0:
        return "the points show no irreducible loss E: the forms that fit have none; it may show with more compute"
    return (
        f"the irreducible loss E is not identified: anything from {low:.2g} to {high:.2g} fits; do not quote "
        "one (the forecast weighs them all)"
    )


def unidentified(forecast: Forecast, runs: Runs, one_ratio: bool) -> list[str]:
    """Why parameters of this law are not to be quoted, in a few words each; empty where they may be."""
    found = []
    if floor_warning(forecast, runs) is not None:
        low, high = floor_range(forecast)
        found.append(f"irreducible loss anywhere from {low:.2g} to {high:.2g}" if high else "no irreducible loss seen")
    span = float(np.exp(np.ptp(runs.params)))
    if span < DECADE:
        found.append(f"sizes span a factor {span:.2g} only")
    if one_ratio:
        found.append("size and tokens move together")
    return found


def data_warnings(points: Sequence[Point], runs: Runs, one_ratio: bool) -> list[str]:
    """About the points themselves."""
    found = []
    doubled = len(points) - len(runs)
    if doubled:
        found.append(
            f"{doubled} duplicated row{'s' * (doubled > 1)} counted once; seeds of a size need their own name under run"
        )
    mixed = [(name, len(sizes)) for name, sizes in sizes_under_a_name(points).items() if len(sizes) > 1]
    if mixed:
        more = f" ({len(mixed) - 1} more have several)" if len(mixed) > 1 else ""
        found.append(
            f"run {mixed[0][0]} has {mixed[0][1]} sizes{more}: a training run has one, so each size counts as a run; "
            "give every run its own name"
        )
    found += _units(points)
    sizes = np.unique(runs.params)
    if len(sizes) < 4:
        found.append(f"{len(sizes)} sizes: a bend cannot be told from noise; add a size")
    span = float(np.exp(sizes[-1] - sizes[0]))
    if span < DECADE:
        found.append(f"sizes span a factor {span:.2g}, under a decade: exponents are local, extrapolate by small steps")
    if one_ratio:
        ratio = np.exp(runs.tokens - runs.params)
        text = f"{ratio.min():.3g}" if ratio.max() < 1.2 * ratio.min() else f"{ratio.min():.3g} to {ratio.max():.3g}"
        found.append(
            f"params and tokens move together (tokens per parameter {text}): the law holds along that line only; "
            "train one size on more tokens to tell them apart"
        )
    n_runs = len(set(runs.run))
    if n_runs < len(runs):
        found.append(
            f"{len(runs)} points come from {n_runs} run{'s' * (n_runs > 1)}: a run counts once; checkpoints before "
            "the end of the learning-rate decay lie above the law"
        )
    keys = np.stack([runs.flops, runs.params, runs.tokens])
    if np.unique(keys, axis=1).shape[1] == n_runs and np.isnan(runs.noise).any():
        found.append("no size was trained twice: run-to-run noise is guessed from the scatter (near 0.5 %); add seeds")
    if np.polyfit(runs.flops, runs.y, 1)[0] > -LEAST_EXPONENT:
        found.append("loss does not fall with compute: check the points")
    return found + _unlike_seeds(runs) + _far_off(runs)


def _units(points: Sequence[Point]) -> list[str]:
    """Columns whose numbers no language model has: written in millions or billions, or no loss. Runs of this program
    have no such doubt: a family may be as small, and its text as easy, as one likes."""
    if all(point.convention == COUNTED_HERE for point in points):
        return []
    found = []
    for name, least in LEAST.items():
        largest = max(getattr(point, name) for point in points)
        smallest = min(points, key=lambda point: float(getattr(point, name)))
        if largest < least:
            found.append(f"{name} are at most {largest:.4g}: in millions or billions? Write them out, as in 1.1e8")
        elif getattr(smallest, name) < least / SMALLER or _gap(points, name):
            found.append(
                f"{smallest.run}: {name} = {getattr(smallest, name):.4g}: in millions or billions? Write it out, as in "
                "1.1e8"
            )
    ratio = float(np.median([point.flops / six_nd(point.params, point.tokens) for point in points]))
    if not 1 / OFF_SIX_ND < ratio < OFF_SIX_ND and not found:
        found.append(f"flops are {ratio:.3g} times 6 x params x tokens: in other units? Leave the column out for 6ND")
    low, high = min(point.loss for point in points), max(point.loss for point in points)
    if low < PLAUSIBLE_LOSS[0]:
        found.append(f"a loss of {low:.3g} is below what any text leaves uncertain (0.3): check its unit")
    if high > PLAUSIBLE_LOSS[1]:
        found.append(f"a loss of {high:.3g} is above that of guessing among a million tokens: check its unit")
    return found


def _gap(points: Sequence[Point], name: str) -> bool:
    values = np.sort([getattr(point, name) for point in points])
    return bool(np.any(values[1:] >= GAP * values[:-1]))


def _far_off(runs: Runs) -> list[str]:
    """The runs that a line through the others, log loss over log FLOPs, cannot explain."""
    some = np.linspace(0, len(runs) - 1, min(len(runs), MOST_IN_PAIRS)).astype(int)
    # The slope of Theil and Sen: the median over all pairs of points.
    first, second = np.triu_indices(len(some), 1)
    apart = runs.flops[some][second] - runs.flops[some][first]
    slope = float(np.median((runs.y[some][second] - runs.y[some][first])[apart != 0] / apart[apart != 0]))
    off = runs.y - slope * runs.flops
    off -= np.median(off)
    limit = max(FAR_OFF * float(np.median(np.abs(off))), FAR_OFF_AT_LEAST)
    far = np.flatnonzero(np.abs(off) > limit)
    found = [
        f"{runs.run[i]}: loss {np.exp(runs.y[i]):.4g} lies far off the others (a line through them says "
        f"{np.exp(runs.y[i] - off[i]):.3g}); check it, the law bends towards it"
        for i in far[np.argsort(-np.abs(off[far]), kind="stable")][:NAMED]
    ]
    return found + [f"and {len(far) - NAMED} more lie as far off"] * (len(far) > NAMED)


def _unlike_seeds(runs: Runs) -> list[str]:
    """Runs of one size and tokens that differ by more than seeds do, or not at all."""
    _, index = np.unique(np.stack([runs.params, runs.tokens]), axis=1, return_inverse=True)
    index = index.ravel()
    low, high = np.full(index.max() + 1, np.inf), np.full(index.max() + 1, -np.inf)
    np.minimum.at(low, index, runs.y)
    np.maximum.at(high, index, runs.y)
    apart = int(np.sum(high - low > SEEDS_DIFFER))
    repeated = np.bincount(index) > 1
    alike = int(np.sum(repeated & (high == low)))
    if 2 * alike > repeated.sum():
        return [
            f"{alike} group{'s' * (alike > 1)} of runs with the same params, tokens and loss under several names: "
            "seeds differ, and a run given twice makes noise look like nothing; leave all but one out"
        ]
    if not apart:
        return []
    return [
        f"runs of the same params and tokens differ by up to {100 * np.expm1((high - low).max()):.3g} % ({apart} such "
        "groups): seeds do not; of sweeps over learning rate or batch keep the best run"
    ]


def target_warnings(
    points: Sequence[Point], targets: Sequence[tuple[float, float, float]], ratios: tuple[float, float] | None
) -> list[str]:
    """About predictions for targets (params, tokens, flops)."""
    top = max(point.flops for point in points)
    bottom = min(point.flops for point in points)
    found = []
    for params, tokens, flops in targets:
        where = f"params {params:.4g}, tokens {tokens:.4g}"
        if flops > 10 * top:
            found.append(
                f"{where}: {flops / top:.3g} times the compute of the largest run; beyond 10 times few laws hold"
            )
        elif flops < bottom / 10:
            found.append(f"{where}: {bottom / flops:.3g} times less compute than the smallest run; expect it to be off")
        if ratios is not None and not 0.5 * np.exp(ratios[0]) <= tokens / params <= 2 * np.exp(ratios[1]):
            found.append(
                f"{where}: {tokens / params:.3g} tokens per parameter, the points have {np.exp(ratios[0]):.3g} to "
                f"{np.exp(ratios[1]):.3g}; their effect was not measured, the interval is widened by rule"
            )
    return found
