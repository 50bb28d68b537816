"""What the data leave open: draws of a form's parameters, each with the noise that one more run would have.

A ladder has four to eight sizes at one ratio of tokens to parameters; resampling so few points says nothing. Forms of
compute alone are therefore drawn from their posterior on a grid: exact, quick, and with the wide tails of a small
sample (Student's t) because the noise is unknown too. Forms of N and D need dozens of points anyway and are drawn by a
bootstrap of whole training runs. Noise is that of the log loss: relative.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from isoflop.law.descent import HUBER_DELTA, descend
from isoflop.law.fit import fit_form
from isoflop.law.forms import Array, ComputeForm, Form
from isoflop.law.runs import Index, Runs, Sizes, sizes_of

# Relative noise of one run. Before any data: 0.5 %, within a factor of 2.2 (0.35 % in Dey et al. 2023 for 111M to 13B;
# 0.3 to 1.5 % below a million parameters), and falling by exp(-fall) for every factor e of compute.
SEED_NOISE = np.geomspace(5e-4, 5e-2, 10)
SEED_NOISE_PRIOR = (5e-3, 0.8)
FALL = np.array([0.0, 0.15, 0.3, 0.45])
# A size lies off its family's line whatever the seed: its shape and learning rate are not exactly its neighbours'.
JITTER = np.geomspace(3e-4, 3e-2, 7)
JITTER_PRIOR = (2e-3, 1.0)
# A draw needs no more digits than its spread has, and what all of them start from fewer still: derivatives at which a
# descent may stop, and steps at most.
ROUGHLY = 1e-5, 100
START = 1e-3, 60
# Floor over lowest loss, and highest loss over ceiling: anything from none to nine tenths.
BEND = np.linspace(0.0, 0.9, 19)
BEND_OF_TWO = np.linspace(0.0, 0.9, 10)


@dataclass(frozen=True)
class Draws:
    """Equally likely parameter vectors (n_parameters, draws) and the noise of a new run under each (draws).

    At log flops x it is sqrt(jitter^2 + seed^2), seed = seed_top * exp(fall * max(0, top - x)): beyond the largest size
    that was seen it is not trusted to fall further. `drift` is how far the form strays from the truth for every factor
    e of size or tokens between a new run and the nearest that was seen.
    """

    theta: Array
    jitter: Array
    seed_top: Array
    fall: Array
    drift: Array
    top: float

    @property
    def n(self) -> int:
        return len(self.jitter)

    def noise(self, flops: Array) -> Array:
        """(draws, points) at natural logs of flops (points)."""
        seed = self.seed_top[:, None] * np.exp(self.fall[:, None] * np.maximum(0.0, self.top - flops))
        return np.hypot(self.jitter[:, None], seed)

    def error(self, flops: Array, distance: Array) -> Array:
        """(draws, points): the noise of a run, and the form's straying at `distance` (points)."""
        return np.hypot(self.noise(flops), self.drift[:, None] * distance)


def posterior_draws(
    form: ComputeForm, runs: Runs, rng: np.random.Generator, n: int, ceiling: float | None = None
) -> Draws:
    """n draws of a form of compute alone; a form with a ceiling has `ceiling` for it where that is known.

    Given its bends (floor, ceiling) and the noise, the form is a line z = b0 + b1 (x - middle) in x = ln C, with a
    Gaussian posterior. Bends and noise live on a grid, weighted by prior times likelihood. The prior is flat in the log
    loss and its slope at the middle of the ladder, whatever the bends.
    """
    sizes = sizes_of(runs)
    middle = float(np.average(sizes.flops, weights=sizes.weight))
    dx = sizes.flops - middle
    seed, fall, jitter = (axis.ravel() for axis in np.meshgrid(SEED_NOISE, FALL, JITTER, indexing="ij"))
    variance, log_prior = _noise(sizes, dx, seed, fall, jitter)  # (noises, sizes), (noises)
    floor, inverse_ceiling, z, stretch = _bends(
        form, np.exp(sizes.mean), ceiling
    )  # (bends) twice, (bends, sizes) twice

    # Precisions of z are 1 / (variance * stretch^2): a product of noise and bend, so every sum over sizes is a matrix
    # product (bends, sizes) @ (sizes, noises).
    per_noise, per_bend = (1.0 / variance).T, 1.0 / stretch**2
    s0, s1, s2 = per_bend @ per_noise, (per_bend * dx) @ per_noise, (per_bend * dx**2) @ per_noise
    t0, t1, t2 = (per_bend * z) @ per_noise, (per_bend * z * dx) @ per_noise, (per_bend * z**2) @ per_noise
    determinant = s0 * s2 - s1**2
    b0, b1 = (s2 * t0 - s1 * t1) / determinant, (s0 * t1 - s1 * t0) / determinant
    misfit = t2 - b0 * t0 - b1 * t1
    log_posterior = log_prior - 0.5 * (misfit + np.log(variance).sum(axis=1) + np.log(determinant))
    log_posterior -= 2.0 * np.log(_stretch_at(np.exp(b0), floor[:, None], inverse_ceiling[:, None]))

    cells = systematic(np.exp(log_posterior - log_posterior.max()).ravel(), n, rng)
    bend, noise = np.unravel_index(cells, log_posterior.shape)
    cell = bend, noise
    slope = b1[cell] + rng.standard_normal(n) * np.sqrt(s0[cell] / determinant[cell])
    level = b0[cell] - (slope - b1[cell]) * s1[cell] / s0[cell] + rng.standard_normal(n) / np.sqrt(s0[cell])
    top = int(np.argmax(sizes.flops))
    given = sizes.noise[top]
    return Draws(
        theta=form.of_line(level - slope * middle, -slope, floor[bend], inverse_ceiling[bend]),
        jitter=jitter[noise],
        seed_top=np.full(n, given) if np.isfinite(given) else seed[noise] * np.exp(-fall[noise] * dx[top]),
        fall=fall[noise],
        drift=np.zeros(n),
        top=float(sizes.flops[top]),
    )


def bootstrap_draws(
    form: Form, runs: Runs, counts: Array, rng: np.random.Generator, n: int, delta: float = HUBER_DELTA
) -> Draws:
    """n draws of any form: refits under random weights, by Huber's loss at `delta`, with the residuals' spread.
    `counts` (points) is how much each counts for, their sum how many runs they are worth.

    Each training run gets an exponential weight, shared by its points (the Bayesian bootstrap, Rubin 1981): unlike
    picking runs with replacement it never leaves fewer sizes than parameters.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(runs.run))}
    of_run = np.array([names[name] for name in runs.run])
    weights = rng.standard_exponential((n, len(names)))[:, of_run] * counts
    x = runs.x(form)
    start = fit_form(form, x, runs.y, counts, delta, *START).theta
    # Nearly absolute losses hold a descent in the corners of its start, however near.
    near = delta >= HUBER_DELTA
    ends = descend(form, x, runs.y, weights, delta, np.repeat(start[:, None], n, axis=1), *ROUGHLY, near)
    freedom = max(float(counts.sum()) - form.n_parameters, 1.0)
    residual = runs.y - form.log_loss(ends.theta, x)
    spread = np.sqrt(residual**2 @ counts / rng.chisquare(freedom, n))
    nothing = np.zeros(n)
    return Draws(ends.theta, nothing, spread, nothing, nothing, float(runs.flops.max()))


def mixture_quantiles(mean: Array, sd: Array, weight: Array, levels: Sequence[float]) -> Array:
    """Quantiles (levels, points) of mixtures of Gaussians with mean and sd (draws, points) and weight (draws)."""
    share = (weight / weight.sum())[:, None]
    found = []
    for level in levels:
        low, high = (mean - 10.0 * sd).min(axis=0), (mean + 10.0 * sd).max(axis=0)
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = (share * ndtr((middle - mean) / sd)).sum(axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        found.append(0.5 * (low + high))
    return np.stack(found)


def systematic(weight: Array, n: int, rng: np.random.Generator) -> Index:
    """n indices with probability proportional to weight, in random order; scatters less than independent choices."""
    edges = np.cumsum(weight / weight.sum())
    picked = np.searchsorted(edges, (np.arange(n) + rng.random()) / n)
    return rng.permutation(np.minimum(picked, len(weight) - 1))


def _noise(sizes: Sizes, dx: Array, seed: Array, fall: Array, jitter: Array) -> tuple[Array, Array]:
    """Variance of each size's mean under every noise, and each noise's log prior times the likelihood of the seeds."""
    run = (seed[:, None] * np.exp(-fall[:, None] * dx)) ** 2
    run = np.where(np.isfinite(sizes.noise), np.nan_to_num(sizes.noise) ** 2, run)
    variance = jitter[:, None] ** 2 / np.minimum(sizes.weight, 1.0) + run / sizes.weight
    log_prior = -0.5 * (np.log(seed / SEED_NOISE_PRIOR[0]) / SEED_NOISE_PRIOR[1]) ** 2
    log_prior -= 0.5 * (np.log(jitter / JITTER_PRIOR[0]) / JITTER_PRIOR[1]) ** 2
    return variance, log_prior - 0.5 * (sizes.freedom * np.log(run) + sizes.spread / run).sum(axis=1)


def _bends(form: ComputeForm, loss: Array, ceiling: float | None) -> tuple[Array, Array, Array, Array]:
    """E and 1 / Lmax (bends), and at each the line's z and |dz / d ln L| (bends, sizes)."""
    axis = BEND_OF_TWO if form.floor and form.ceiling else BEND
    nothing = np.zeros(1)
    shares = axis if ceiling is None else np.array([loss.max() / ceiling])
    axes = np.meshgrid(axis if form.floor else nothing, shares if form.ceiling else nothing)
    floor, inverse_ceiling = axes[0].ravel() * loss.min(), axes[1].ravel() / loss.max()
    above, below = loss - floor[:, None], 1.0 - inverse_ceiling[:, None] * loss
    return floor, inverse_ceiling, np.log(above / below), loss / above + (1.0 - below) / below


def _stretch_at(line: Array, floor: Array, inverse_ceiling: Array) -> Array:
    """|dz / d ln L| where z = ln(line)."""
    loss = (floor + line) / (1.0 + inverse_ceiling * line)
    return np.asarray(loss / (loss - floor) + inverse_ceiling * loss / (1.0 - inverse_ceiling * loss))
