"""How size and tokens should grow with compute, by the three approaches of Hoffmann et al. 2022, side by side.

1, envelope: the lowest loss of every budget. 2, isoFLOP: the bottom of a curve through each budget's runs. 3,
parametric: the optimum of a fitted L(N, D). Each gives N*(C) ~ C^a and D*(C) ~ C^b.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from isoflop.law.descent import HUBER_DELTA
from isoflop.law.fit import fit_form
from isoflop.law.forms import Array, Form
from isoflop.law.points import budget_of
from isoflop.law.runs import Index, Runs

# Runs of a budget through which a curve's bottom can be read; and for a cubic, one more than its coefficients.
LEAST_RUNS, CUBIC_RUNS = 4, 5
LEAST_BUDGETS = 3
FINE = 400
# A curve's bottom counts when the curve rises by this share of the loss on both sides: flatter valleys have none.
RISE = 1e-3


@dataclass(frozen=True)
class Optimum:
    """N* ~ C^params_exponent and D* ~ C^tokens_exponent over `budgets` budgets; tokens per parameter at the largest.

    None where the points do not allow the approach; `note` says why, or what was left out.
    """

    approach: str
    params_exponent: float | None
    tokens_exponent: float | None
    tokens_per_parameter: float | None
    budgets: int
    note: str = ""


def compare(runs: Runs, forms: tuple[Form, ...], one_ratio: bool, delta: float = HUBER_DELTA) -> list[Optimum]:
    """Every approach that has a meaning for the runs, in the order of the paper; the parabola stands beside the cubic
    for comparison only: it is biased when the exponents differ or the sizes lie off-centre."""
    budgets = _budgets(runs)
    found = [_over(name, [_bottom(runs, rows, name) for rows in budgets]) for name in _CURVES]
    return [_envelope(runs, budgets), *found, *(_parametric(runs, form, one_ratio, delta) for form in forms)]


def _budgets(runs: Runs) -> list[Index]:
    """Row numbers of each budget that has enough sizes for a curve."""
    budget = np.array(budget_of(list(runs.flops)))
    rows = [np.flatnonzero(budget == number) for number in range(budget.max() + 1)]
    return [some for some in rows if len(np.unique(runs.params[some])) >= LEAST_RUNS]


def _envelope(runs: Runs, budgets: list[Index]) -> Optimum:
    best = [rows[np.argmin(runs.y[rows])] for rows in budgets]
    return _over("envelope", [(runs.flops[row], runs.params[row], runs.tokens[row]) for row in best])


_CURVES = ("isoFLOP, cubic", "isoFLOP, Akima", "isoFLOP, parabola")


def _bottom(runs: Runs, rows: Index, curve: str) -> tuple[float, float, float] | None:
    """Logs of C, N* and D* at the bottom of a budget's curve; None where no run lies clearly above it on one side."""
    order = rows[np.argsort(runs.params[rows])]
    size, index = np.unique(runs.params[order], return_inverse=True)
    count = np.bincount(index)
    loss = np.bincount(index, runs.y[order]) / count
    fine = np.linspace(size[0], size[-1], FINE)
    middle = float(size.mean())
    if curve == "isoFLOP, Akima":
        from scipy.interpolate import Akima1DInterpolator  # a second of every command's start, of which few come here

        value = Akima1DInterpolator(size, loss, method="makima")(fine)
    else:
        degree = 3 if curve == "isoFLOP, cubic" and len(size) >= CUBIC_RUNS else 2
        value = np.polyval(np.polyfit(size - middle, loss, degree, w=np.sqrt(count)), fine - middle)
    lowest = int(np.argmin(value))
    if min(value[: lowest + 1].max(), value[lowest:].max()) < value[lowest] + RISE:
        return None
    flops = float(runs.flops[rows].mean())
    tokens = flops - float(np.mean(runs.flops[rows] - runs.params[rows] - runs.tokens[rows])) - float(fine[lowest])
    return flops, float(fine[lowest]), tokens


def _over(approach: str, found: list[tuple[float, float, float] | None]) -> Optimum:
    kept = [one for one in found if one is not None]
    left_out = len(found) - len(kept)
    note = f"{left_out} of {len(found)} budgets left out: their bottom is not between the sizes" if left_out else ""
    if len(kept) < LEAST_BUDGETS:
        needs = f"needs {LEAST_BUDGETS} budgets of {LEAST_RUNS} or more sizes each, with the bottom between them"
        return Optimum(approach, None, None, None, len(kept), needs)
    flops, params, tokens = np.array(kept).T
    by_params, by_tokens = np.polyfit(flops, params, 1), np.polyfit(flops, tokens, 1)
    ratio = np.exp(np.polyval(by_tokens, flops.max()) - np.polyval(by_params, flops.max()))
    return Optimum(approach, float(by_params[0]), float(by_tokens[0]), float(ratio), len(kept), note)


def _parametric(runs: Runs, form: Form, one_ratio: bool, delta: float) -> Optimum:
    name = f"parametric, {form.name}"
    if one_ratio:
        return Optimum(name, None, None, None, 0, "params and tokens move together")
    if len(runs) <= form.n_parameters:
        return Optimum(name, None, None, None, 0, f"needs more than {form.n_parameters} runs")
    theta = fit_form(form, runs.x(form), runs.y, runs.share, delta).theta
    per_token = float(np.median(runs.flops - runs.params - runs.tokens))
    top = float(runs.flops.max())
    sizes = [_best_size(form, theta, flops - per_token) for flops in (top - 0.5, top)]
    slope = (sizes[1] - sizes[0]) / 0.5
    return Optimum(name, slope, 1.0 - slope, float(np.exp(top - per_token - 2 * sizes[1])), 0)


def _best_size(form: Form, theta: Array, product: float) -> float:
    """ln N that minimises the loss where ln N + ln D = product."""

    def loss(size: float) -> float:
        return float(form.log_loss(theta, np.array([[size], [product - size]]))[0])

    # Sizes and tokens in billions have a product below one.
    middle, reach = 0.5 * product, max(0.4 * abs(product), 10.0)
    bounds = (middle - reach, middle + reach)
    return float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
