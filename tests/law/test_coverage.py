"""Over random ladders, whatever way they bend, intervals hold the next run as often as they promise."""

from collections.abc import Callable

import numpy as np

from isoflop.law.forecast import forecast
from isoflop.law.forms import COMPUTE_FORMS, Array, ComputeForm, Form
from isoflop.law.intervals import Draws, posterior_draws
from isoflop.law.points import Point
from isoflop.law.runs import Runs, runs_of

LADDERS = 150


def truth(rng: np.random.Generator) -> Callable[[float], float]:
    """A log loss over log compute (0 mid-ladder): straight, with a floor, saturating, with both, or a parabola."""
    slope, level = rng.uniform(0.06, 0.25), np.log(rng.uniform(2, 5))
    floor, ceiling, bend = rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.75), rng.uniform(-0.02, 0.02)
    kinds: list[Callable[[float], float]] = [
        lambda x: -slope * x,
        lambda x: np.log(floor + (1 - floor) * np.exp(-min(slope / (1 - floor), 0.6) * x)),
        lambda x: -np.log(1 - ceiling + ceiling * np.exp(min(slope / ceiling, 0.6) * x)),
        lambda x: np.log(floor + (1 - floor) / (1 - ceiling + ceiling * np.exp(min(slope / ceiling, 0.6) * x))),
        lambda x: -slope * x + 0.5 * bend * x * x,
    ]
    shape = kinds[rng.integers(len(kinds))]
    return lambda x: float(level + shape(x))


def trial(rng: np.random.Generator) -> tuple[Array, float]:
    """Quantiles for a held-out run of 1.5 to 2.5 times the top rung's compute, and the log loss it then has."""
    rungs = int(rng.integers(4, 7))
    x = np.concatenate([[0.0], np.cumsum(np.log(rng.uniform(1.5, 3.0, rungs - 1)))])
    target = x[-1] + np.log(rng.uniform(1.5, 2.5))
    law, top, bottom = truth(rng), rng.uniform(0.003, 0.007), rng.uniform(0.007, 0.015)
    jitter = rng.choice([0.0, 0.001, 0.003])
    seeds = [[1] * rungs, [3, 3] + [1] * (rungs - 2), [3] * rungs][rng.integers(3)]

    def measured(at: float, n: int) -> Array:
        noise = np.exp(np.interp(at, [0, x[-1]], [np.log(bottom), np.log(top)]))
        return np.asarray(law(at - x.mean()) + rng.normal(0, jitter) + rng.normal(0, noise, n))

    def draw(form: Form, seen: Runs, n: int) -> Draws | None:
        return posterior_draws(form, seen, rng, n) if isinstance(form, ComputeForm) else None

    points = [
        Point(np.exp(at / 2), 20 * np.exp(at / 2), float(np.exp(y)), 120 * np.exp(at), f"{at}-{seed}")
        for at, n in zip(x, seeds, strict=True)
        for seed, y in enumerate(measured(at, n))
    ]
    joined = forecast(COMPUTE_FORMS, runs_of(points), draw, None)
    inputs = (np.array([v]) for v in (target / 2, target / 2 + np.log(20), target + np.log(120)))
    return joined.quantiles(*inputs)[:, 0], float(measured(target, 1)[0])


def test_intervals_hold_the_next_run_as_often_as_they_promise_and_are_narrow() -> None:
    rng = np.random.default_rng(11)
    results = [trial(rng) for _ in range(LADDERS)]
    quantiles, came = np.array([q for q, _ in results]), np.array([y for _, y in results])
    inside_95 = np.mean((quantiles[:, 0] < came) & (came < quantiles[:, 4]))
    inside_80 = np.mean((quantiles[:, 1] < came) & (came < quantiles[:, 3]))
    half_width = np.median(quantiles[:, 4] - quantiles[:, 0]) / 2
    off = np.median(np.abs(quantiles[:, 2] - came))
    print(f"95 %: {inside_95:.3f}, 80 %: {inside_80:.3f}, half-width {half_width:.4f}, off {off:.4f}")
    assert inside_95 >= 0.90
    assert 0.70 <= inside_80 <= 0.92
    assert half_width < 0.04
    assert off < 0.012
