"""Do intervals keep their word? Public sets with their largest runs held out, ours beside what others do.

    uv run python benchmarks/law_intervals.py

Writes benchmarks/results/law_intervals.json and prints the tables of docs/laws.md. The interval score (Gneiting and
Raftery 2007, eq. 43) is the width plus 40 times (for 95 %) what a loss lies outside; width and score are in per cent of
the loss. Peers: the interval of the fitted curve under resampled runs (Besiroglu et al. 2024), and the same with a
residual added to each, for Chinchilla's form and for the coupled one.

Runs of one set lie off the law together, so that even intervals that are exactly right hold now more, now fewer of them
than they promise. How many, `chance` tells: losses drawn from the forecast itself, one draw of form and parameters for
all held-out runs of a trial and each run's own error, 2,000 times; it gives the range of coverage in 95 % of them.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

# The matrices are small: threads of BLAS would only wait for each other. Before numpy is imported, and in each worker.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray

from isoflop.law import Law, Point, fit_law
from isoflop.law.descent import HUBER_DELTA, descend
from isoflop.law.fit import fit_form
from isoflop.law.forms import FORMS
from isoflop.law.runs import rungs_of, runs_of
from isoflop.published import published_models, published_set

RESULTS = Path(__file__).parent / "results" / "law_intervals.json"
RESAMPLES = 500
BY_CHANCE = 2000
# What 80 % intervals are to hold of each set.
WANTED_80 = (0.72, 0.88)
METHODS = ("isoflop", "pairs bootstrap", "and residuals", "coupled, and residuals")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A law fitted to `seen` and judged on `held`."""

    set: str
    held_out: str
    seen: list[Point]
    held: list[Point]


def points_of(name: str) -> list[Point]:
    if name == "cerebras_gpt":
        models = published_models("Cerebras-GPT")
        return [Point(m.params, m.tokens, m.nats_per_token, m.flops, m.model) for m in models]
    table = published_set(name)
    loss = "c4_nats_per_token" if name == "olmo_ladder" else "loss"
    rows = list(zip(*(table.numbers(column) for column in ("params", "tokens", loss)), strict=True))
    if name == "chinchilla":  # without the five highest losses, as published
        rows = sorted(rows, key=lambda row: row[2])[:-5]
    return [Point(n, d, x, 6.0 * n * d, f"run {i}", convention="6ND") for i, (n, d, x) in enumerate(rows)]


def largest_held_out() -> Iterator[Trial]:
    """The hold-outs for which others' coverage is known, and two ladders."""
    for name, flops in (("chinchilla", 1e21), ("farseer", 5e21), ("marin_comma", 2e19), ("marin_dclm", 2e19)):
        points = points_of(name)
        budget = published_set(name).numbers("budget") if name.startswith("marin") else [p.flops for p in points]
        above = np.array(budget) > flops
        if name == "farseer":
            above = np.array(published_set(name).numbers("held_out")) == 1
        yield _trial(name, f"{above.sum()} largest", points, above)
    points = points_of("cerebras_gpt")
    yield Trial("cerebras_gpt", "6.7B, 13B", points[:5], points[5:])
    points = points_of("olmo_ladder")
    yield Trial("olmo_ladder", "7B-4T, 13B-5T", points[:16], points[16:])


def every_cut() -> Iterator[Trial]:
    """Each of the four large sets with one to four of its eight rungs of compute held out."""
    for name in ("chinchilla", "farseer", "marin_comma", "marin_dclm"):
        points = points_of(name)
        rungs = rungs_of(runs_of(points))
        for k in range(1, min(5, len(rungs) - 3)):
            above = np.zeros(len(points), dtype=bool)
            above[np.concatenate(rungs[-k:])] = True
            yield _trial(name, f"{k} of {len(rungs)} rungs", points, above)


def first_seen_afterwards() -> Iterator[Trial]:
    """Sets that nobody looked at until all that makes an interval was settled: one to three of their rungs held out."""
    sets = {name: points_of(name) for name in ("llama_3", "misfitting", "marin_nemotron")}
    table = published_set("over_training")
    columns = (table.texts("data"), *(table.numbers(name) for name in ("params", "tokens", "loss")), table.texts("run"))
    for data, n, d, loss, run in zip(*columns, strict=True):
        point = Point(n, d, loss, 6.0 * n * d, run, convention="6ND")
        sets.setdefault(f"over_training, {data}", []).append(point)
    for name, points in sets.items():
        rungs = rungs_of(runs_of(points))
        for k in (1, 2, 3):
            above = np.zeros(len(points), dtype=bool)
            above[np.concatenate(rungs[-k:])] = True
            yield _trial(name, f"{k} of {len(rungs)} rungs", points, above)


def _trial(name: str, held_out: str, points: list[Point], above: Array) -> Trial:
    split: dict[bool, list[Point]] = {True: [], False: []}
    for point, out in zip(points, above, strict=True):
        split[bool(out)].append(point)
    return Trial(name, held_out, split[False], split[True])


def isoflop(trial: Trial, law: Law) -> Array:
    found = [law.predict(point.params, point.tokens, point.flops) for point in trial.held]
    return np.log([[p.low_95, p.low_80, p.loss, p.high_80, p.high_95] for p in found])


def bootstrap(trial: Trial, form_name: str, residuals: bool) -> Array:
    """Quantiles of the fitted curve, or of a new run on it, over runs picked with replacement."""
    form, seen, held = FORMS[form_name], runs_of(trial.seen), runs_of(trial.held)
    rng = np.random.default_rng(42)
    n = len(seen)
    theta = fit_form(form, seen.x(form), seen.y, np.ones(n)).theta
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    start = np.repeat(theta[:, None], RESAMPLES, axis=1)
    draws = descend(form, seen.x(form), seen.y, weights, HUBER_DELTA, start, 1e-6).theta
    said = form.log_loss(draws, held.x(form))
    if residuals:
        said += rng.choice(seen.y - form.log_loss(theta, seen.x(form)), size=said.shape)
    return np.quantile(said, [0.025, 0.1, 0.5, 0.9, 0.975], axis=0).T


def chance(trial: Trial, law: Law) -> dict[str, list[float]]:
    """Of the held-out runs, the shares that intervals of 95 and of 80 % hold if the forecast is exactly right: the 2.5
    and 97.5 % quantiles over losses drawn from it."""
    rng, forecast = np.random.default_rng(0), law.forecast
    at = [np.log([getattr(point, name) for point in trial.held]) for name in ("params", "tokens", "flops")]
    low_95, low_80, middle, high_80, high_95 = forecast.quantiles(*at)
    mean, sd, weight = forecast.mixture(*at)
    drawn = rng.choice(len(weight), size=BY_CHANCE, p=weight)
    off = mean[drawn] + sd[drawn] * rng.standard_normal((BY_CHANCE, len(trial.held))) - middle
    y = middle + forecast.stretch * off
    held = {"chance_95": (low_95 <= y) & (y <= high_95), "chance_80": (low_80 <= y) & (y <= high_80)}
    return {name: list(np.quantile(inside.mean(axis=1), [0.025, 0.975])) for name, inside in held.items()}


def judge(quantiles: Array, trial: Trial) -> dict[str, float]:
    y = np.log([point.loss for point in trial.held])
    low_95, low_80, middle, high_80, high_95 = quantiles.T
    outside = np.maximum(low_95 - y, 0) + np.maximum(y - high_95, 0)
    return {
        "covered_95": float(np.mean(outside == 0)),
        "covered_80": float(np.mean((low_80 <= y) & (y <= high_80))),
        "width_95": 100 * float(np.median(high_95 - low_95)),
        "score_95": 100 * float(np.mean(high_95 - low_95 + 40 * outside)),
        "off": 100 * float(np.sqrt(np.mean((middle - y) ** 2))),
    }


def measure(trial: Trial) -> dict[str, object]:
    begin = time.process_time()
    law = fit_law(trial.seen)
    found = {"isoflop": judge(isoflop(trial, law), trial) | chance(trial, law)}
    seconds = time.process_time() - begin
    if len(trial.seen) > 10:
        found["pairs bootstrap"] = judge(bootstrap(trial, "chinchilla", False), trial)
        found["and residuals"] = judge(bootstrap(trial, "chinchilla", True), trial)
        found["coupled, and residuals"] = judge(bootstrap(trial, "coupled", True), trial)
    row = {"set": trial.set, "held_out": trial.held_out, "seen": len(trial.seen), "held": len(trial.held)}
    return {**row, "cpu_seconds": round(seconds, 2), "methods": found}


def pooled(rows: list[dict[str, object]], method: str) -> dict[str, float]:
    """Over held-out runs, each counted once."""
    rows = [row for row in rows if method in row["methods"]]
    share = np.array([row["held"] for row in rows], dtype=float)
    names = ("covered_95", "covered_80", "width_95", "score_95", "off")
    return {name: float(np.average([row["methods"][method][name] for row in rows], weights=share)) for name in names}


def show(title: str, rows: list[dict[str, object]]) -> None:
    print(f"\n{title}\n\n| set | held out | of | method | 95 % | 80 % | width | score | off |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        for method, found in row["methods"].items():
            print(f"| {row['set']} | {row['held_out']} | {row['seen'] + row['held']} | {method} | {_cells(found)} |")
    for method in METHODS:
        print(f"| pooled | | | {method} | {_cells(pooled(rows, method))} |")


def _cells(found: dict[str, float]) -> str:
    covered = f"{found['covered_95']:.2f} | {found['covered_80']:.2f}"
    return f"{covered} | {found['width_95']:.1f} % | {found['score_95']:.1f} | {found['off']:.2f} %"


def show_by_chance(rows: list[dict[str, object]]) -> None:
    """The trials whose 80 % intervals hold fewer or more than wanted, beside what they would by chance."""
    print("\n| set, held out | runs | 80 % | if exactly right | 95 % | if exactly right |\n" + "| --- " * 6 + "|")
    for row in rows:
        one = row["methods"]["isoflop"]
        if not WANTED_80[0] <= one["covered_80"] <= WANTED_80[1] or one["covered_95"] < 0.9:
            ranges = [f"{one[name][0]:.2f} to {one[name][1]:.2f}" for name in ("chance_80", "chance_95")]
            print(
                f"| {row['set']}, {row['held_out']} | {row['held']} | {one['covered_80']:.2f} | {ranges[0]} | "
                f"{one['covered_95']:.2f} | {ranges[1]} |"
            )


def main() -> None:
    parts = {"largest": largest_held_out(), "cuts": every_cut(), "first seen afterwards": first_seen_afterwards()}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        running = {title: pool.map(measure, trials) for title, trials in parts.items()}
        tables = {title: list(rows) for title, rows in running.items()}
    for title, rows in tables.items():
        show(title, rows)
    show_by_chance([row for rows in tables.values() for row in rows])
    summary = {title: {m: pooled(rows, m) for m in METHODS} for title, rows in tables.items()}
    RESULTS.write_text(json.dumps({"pooled": summary, **tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
