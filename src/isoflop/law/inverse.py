"""The law read the other way: which run reaches a loss, which size suits a budget or the tokens there are."""

from dataclasses import dataclass

import numpy as np

from isoflop.errors import InputError
from isoflop.law.forms import Array
from isoflop.law.law import Law, Prediction

# Steps along a ratio of tokens to parameters, or tokens; between them a parabola, or a line, is followed.
FINE = 81
# How far around the points' sizes and compute a wanted run is searched for: nothing further off deserves an answer.
REACH = np.log(1e6)
# Sizes whose over-training is priced, over that of least training compute.
SMALLER = (1.0, 0.8, 0.65, 0.5, 0.35, 0.25)
# The median is followed from the quick mean: so often is what lies between them measured anew.
ROUNDS = 3
# A token served costs the forward pass, a third of a token trained (Sardana et al. 2024, arXiv 2401.00448, eq. 3).
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Choice:
    """A run and what it costs: training, and serving `inference_tokens` with it. `low_flops` and `high_flops` hold the
    training compute that really reaches the wanted loss with 80 %; None where that was not asked."""

    prediction: Prediction
    inference_tokens: float
    total_flops: float
    low_flops: float | None = None
    high_flops: float | None = None


def best_for_budget(law: Law, flops: float) -> Choice:
    """The size and tokens with the lowest loss for a training budget; at the points' ratio where size and tokens move
    together in them.

    Raises:
        InputError: the number is not finite and above 0, or over a factor of a million from the points' budgets.
    """
    _check("budget", flops)
    budgets = _budgets(law)
    if not budgets.min() <= np.log(flops) <= budgets.max():
        raise InputError(f"budget = {flops:.4g}: further from the points than a law can be followed")
    params, tokens = _path(law, np.log([flops]))
    return _choice(law, float(params[0]), float(tokens[0]), 0.0)


def best_for_tokens(law: Law, tokens: float) -> Choice:
    """The size for which these tokens are neither too few nor too many: of the budget whose best run reads them.

    Raises:
        InputError: no budget within a factor of a million of the points' would read so many, or so few.
    """
    _check("tokens", tokens)
    budgets = _budgets(law)
    params, along = _path(law, budgets)
    if not along.min() <= np.log(tokens) <= along.max():
        raise InputError(f"tokens = {tokens:.4g}: further from the points than a law can be followed")
    order = np.argsort(along)
    return _choice(law, float(np.interp(np.log(tokens), along[order], params[order])), float(np.log(tokens)), 0.0)


def cheapest_for_loss(law: Law, loss: float, inference_tokens: float = 0.0) -> Choice:
    """The run that reaches `loss` for the least compute: training, and serving `inference_tokens` afterwards.

    Raises:
        InputError: the law does not say that any run within reach gets there.
    """
    _check("loss", loss)
    budgets = _budgets(law)
    params, tokens = _path(law, budgets)
    low, middle, high = (_reached(budgets, row, np.log(loss)) for row in _levels(law, params, tokens))
    if middle is None:
        floor = float(np.exp(_levels(law, params, tokens)[1].min()))
        raise InputError(
            f"loss = {loss:.4g}: no run within reach of these points gets there; the law ends at {floor:.4g}"
        )
    log_params, log_tokens = (float(np.interp(middle, budgets, path)) for path in (params, tokens))
    if inference_tokens > 0 and law.forecast.ratios is None:
        log_params, log_tokens = _with_inference(law, float(np.log(loss)), log_params, log_tokens, inference_tokens)
    chosen = _choice(law, log_params, log_tokens, inference_tokens)
    bounds = [None if end is None else float(np.exp(end)) for end in (low, high)]
    return Choice(chosen.prediction, inference_tokens, chosen.total_flops, *bounds)


@dataclass(frozen=True)
class Smaller:
    """A smaller model trained longer to the same loss: `share` of the size of least training compute, its FLOPs for
    training and, with serving, in all; and the tokens served from which it is cheaper than that size."""

    share: float
    params: float
    tokens: float
    training_flops: float
    total_flops: float
    break_even_tokens: float


def price_of_smaller(law: Law, loss: float, inference_tokens: float = 0.0) -> list[Smaller]:
    """What smaller models pay in training to reach `loss`, from the size of least training compute down; sizes that no
    tokens within reach bring there are left out. Empty where size and tokens move together in the points.

    Raises:
        InputError: the law does not say that any run within reach gets there.
    """
    if law.forecast.ratios is not None:
        return []
    least = cheapest_for_loss(law, loss).prediction
    per_token = float(np.exp(_per_token(law)))
    found: list[Smaller] = []
    for share in SMALLER:
        size = float(np.log(share * least.params))
        tokens = np.linspace(np.log(least.tokens) - 1, size + np.log(1e5), 4 * FINE)
        middle = _middle(law, np.full_like(tokens, size), tokens)
        reached: float | None = float(np.log(least.tokens))
        for _ in range(ROUNDS):
            if reached is not None:
                reached = _reached(tokens, middle, float(np.log(loss)) - _skew(law, size, reached))
        if reached is None:
            break
        params, training = float(np.exp(size)), float(per_token * np.exp(size + reached))
        total = training + FORWARD_SHARE * per_token * params * inference_tokens
        first = found[0] if found else None
        saved = FORWARD_SHARE * per_token * (first.params - params) if first else 0.0
        even = max(0.0, (training - first.training_flops) / saved) if first and saved else 0.0
        found.append(Smaller(share, params, float(np.exp(reached)), training, total, even))
    return found


def _with_inference(
    law: Law, log_loss: float, log_params: float, log_tokens: float, inference_tokens: float
) -> tuple[float, float]:
    """Logs of the size and tokens of least total compute among runs that reach the loss: smaller sizes, more tokens."""
    per_token = _per_token(law)
    sizes = np.linspace(log_params - np.log(30), log_params, 61)
    tokens = sizes[:, None] + np.linspace(0, np.log(1e5), FINE)
    middle = [_middle(law, np.full_like(row, size), row) for size, row in zip(sizes, tokens, strict=True)]
    found = log_params, log_tokens
    for _ in range(ROUNDS):
        best, wanted = np.inf, log_loss - _skew(law, *found)
        for size, row, losses in zip(sizes, tokens, middle, strict=True):
            reached = _reached(row, losses, wanted)
            if reached is None:
                continue
            total = np.exp(per_token + size) * (np.exp(reached) + FORWARD_SHARE * inference_tokens)
            if total < best:
                best, found = total, (float(size), reached)
    return found


def _path(law: Law, budgets: Array) -> tuple[Array, Array]:
    """Logs of size and tokens (budgets) of the best run of each budget (logs of FLOPs)."""
    product = budgets - _per_token(law)
    if law.forecast.ratios is not None:
        ratio = float(np.median([np.log(point.tokens / point.params) for point in law.points]))
        return 0.5 * (product - ratio), 0.5 * (product + ratio)
    # A ratio of tokens to parameters far outside what was seen is no optimum that anyone measured.
    seen = [np.log(point.tokens / point.params) for point in law.points]
    ratios = np.linspace(min(seen) - 1, max(seen) + 1, FINE)
    sizes = 0.5 * (product[:, None] - ratios)
    loss = _middle(law, sizes.ravel(), (sizes + ratios).ravel()).reshape(sizes.shape)
    chosen = _bottoms(ratios, loss)
    return 0.5 * (product - chosen), 0.5 * (product + chosen)


def _bottoms(at: Array, values: Array) -> Array:
    """Where along `at` (evenly spaced) each row of values is lowest: of the parabola through its three lowest."""
    k = np.clip(np.argmin(values, axis=1), 1, len(at) - 2)
    row = np.arange(len(values))
    left, middle, right = (values[row, k + side] for side in (-1, 0, 1))
    bend = np.maximum(left - 2 * middle + right, 1e-12)
    return np.asarray(at[k] + (at[1] - at[0]) * np.clip(0.5 * (left - right) / bend, -1, 1))


def _budgets(law: Law) -> Array:
    seen = np.log([point.flops for point in law.points])
    return np.linspace(seen.min() - REACH / 4, seen.max() + REACH, 101)


def _levels(law: Law, params: Array, tokens: Array) -> Array:
    """(3, points): 10 %, 50 % and 90 % quantiles of the log loss"""
    return law.forecast.quantiles(params, tokens, params + tokens + _per_token(law))[1:4]


def _middle(law: Law, params: Array, tokens: Array) -> Array:
    return law.forecast.middle(params, tokens, params + tokens + _per_token(law))


def _skew(law: Law, log_params: float, log_tokens: float) -> float:
    """How far the median lies above the quick mean of a plane: forms that foretell far lower losses pull the mean. It
    hardly changes from run to run, but a loss of 2.1 from Hoffmann et al.'s runs took 15 % less compute by the mean."""
    params, tokens = np.array([log_params]), np.array([log_tokens])
    return float(_levels(law, params, tokens)[1, 0] - _middle(law, params, tokens)[0])


def _reached(at: Array, log_loss: Array, wanted: float) -> float | None:
    """Where along `at` the loss first falls to `wanted`; None where it never does."""
    below = np.flatnonzero(log_loss <= wanted)
    if not len(below):
        return None
    k = int(below[0])
    if k == 0:
        return float(at[0])
    share = (log_loss[k - 1] - wanted) / (log_loss[k - 1] - log_loss[k])
    return float(at[k - 1] + share * (at[k] - at[k - 1]))


def _per_token(law: Law) -> float:
    """ln of training FLOPs per parameter and token, as the points count them"""
    return float(np.median([np.log(point.flops / (point.params * point.tokens)) for point in law.points]))


def _choice(law: Law, log_params: float, log_tokens: float, inference_tokens: float) -> Choice:
    flops = float(np.exp(_per_token(law) + log_params + log_tokens))
    prediction = law.predict(float(np.exp(log_params)), float(np.exp(log_tokens)), flops)
    serving = FORWARD_SHARE * np.exp(_per_token(law) + log_params) * inference_tokens
    return Choice(prediction, inference_tokens, flops + float(serving))


def _check(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name} = {value}: give a finite number above 0")
