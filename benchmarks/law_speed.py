"""How long do 4,000 bootstraps and a 4,500-start grid take? All at once, and one by one with SciPy, in one run.

    uv run python benchmarks/law_speed.py

240 points of Hoffmann et al. 2022, Chinchilla's form, Huber's loss at delta 1e-3. The SciPy loop has the same objective
and analytic gradient, scaled so that BFGS reaches the bottom. The two take turns, so that what else the machine does
hits both alike: ROUNDS times all resamples at once, then PART of them one by one; medians and the ratio of each round
are kept, wall-clock and processor seconds (of all cores). Writes benchmarks/results/law_speed.json.
"""

import itertools
import json
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from isoflop.law.descent import HUBER_DELTA, Descent, descend
from isoflop.law.fit import fit_form
from isoflop.law.forms import FORMS
from isoflop.published import published_set

RESULTS = Path(__file__).parent / "results" / "law_speed.json"
RESAMPLES, PART, ROUNDS = 4000, 100, 5


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `work` returns, and its wall-clock and processor seconds"""
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    table = published_set("chinchilla")
    params, tokens, loss = (np.array(table.numbers(column)) for column in ("params", "tokens", "loss"))
    kept = np.argsort(loss)[:240]
    x, y, form = np.log([params[kept], tokens[kept]]), np.log(loss[kept]), FORMS["chinchilla"]
    best = fit_form(form, x, y, np.ones(240)).theta
    weights = np.random.default_rng(42).multinomial(240, np.full(240, 1 / 240), size=RESAMPLES).astype(float)

    def at_once() -> Descent:
        return descend(form, x, y, weights, HUBER_DELTA, np.repeat(best[:, None], RESAMPLES, axis=1))

    centre = x.mean(axis=1)
    start = form.shifted(best, -centre)

    def objective(theta: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
        fitted, jacobian = form.log_loss_and_jacobian(theta, x - centre[:, None])
        residual = y - fitted
        size = np.abs(residual)
        huber = np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
        scale = 100 / (HUBER_DELTA * w.sum())
        return scale * (w @ huber), -scale * (jacobian @ (w * np.clip(residual, -HUBER_DELTA, HUBER_DELTA)))

    def one_by_one(some: np.ndarray) -> np.ndarray:
        options = {"gtol": 1e-8}
        return np.array([minimize(objective, start, w, jac=True, method="BFGS", options=options).x for w in some])

    rounds, apart = [], []
    for k in range(ROUNDS):
        part = slice(k * PART, (k + 1) * PART)
        ends, ours, ours_processor = timed(at_once)
        loop, scipy, scipy_processor = timed(lambda part=part: one_by_one(weights[part]))
        more = RESAMPLES / PART
        rounds.append((ours, ours_processor, more * scipy, more * scipy_processor, more * scipy / ours))
        apart.append(np.abs(form.shifted(loop.T, centre) - ends.theta[:, part]))
    ours, ours_processor, scipy, scipy_processor, ratio = np.median(rounds, axis=0)

    zero_to_two, floor, scale = np.arange(0, 2.1, 0.5), np.arange(-1, 1.1, 0.5), np.arange(0, 26, 5)
    grid = itertools.product(scale, zero_to_two, scale, zero_to_two, floor)
    starts = np.array(list(grid)).T
    found, seconds, processor = timed(lambda: descend(form, x, y, np.ones(240), HUBER_DELTA, starts))
    at_best = found.objective <= found.objective.min() * (1 + 1e-6)
    result = {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "bootstraps": RESAMPLES,
        "rounds": ROUNDS,
        "batched_seconds": round(ours, 2),
        "batched_processor_seconds": round(ours_processor, 2),
        "scipy_loop_seconds": round(scipy, 1),
        "scipy_loop_processor_seconds": round(scipy_processor, 1),
        "ratio": round(ratio, 1),
        "median_difference": float(np.median(apart)),
        "largest_gradient": float(ends.gradient_norm.max()),
        "grid_starts": starts.shape[1],
        "grid_seconds": round(seconds, 2),
        "grid_processor_seconds": round(processor, 2),
        "grid_at_best": int(at_best.sum()),
        "grid_objective": float(found.objective.min()),
    }
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
