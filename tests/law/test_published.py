"""Other people's data give other people's fits: every set, its published answer, and its trap."""

from typing import Any

import numpy as np
import pytest

from isoflop.errors import InputError
from isoflop.law.descent import LEAST_ABSOLUTE, descend
from isoflop.law.fit import fit_form
from isoflop.law.forms import FORMS, Array
from isoflop.law.forms.farseer import LARGEST_POWER
from isoflop.law.schedule import MultiPowerLaw
from isoflop.published import published_models, published_set, set_names

CHINCHILLA, COUPLED = FORMS["chinchilla"], FORMS["coupled"]


def columns(name: str, *wanted: str) -> list[Array]:
    table = published_set(name)
    return [np.array(table.numbers(column)) for column in wanted]


def chinchilla_points(left_out: int = 5) -> tuple[Array, Array]:
    """Inputs and log losses, without the highest losses (Besiroglu et al. 2024, section 2)."""
    params, tokens, loss = columns("chinchilla", "params", "tokens", "loss")
    kept = np.argsort(loss)[: len(loss) - left_out]
    return np.log([params[kept], tokens[kept]]), np.log(loss[kept])


def test_every_set_says_where_it_is_from() -> None:
    for name in set_names():
        table = published_set(name)
        assert all((table.source, table.licence, table.loss_unit, table.holds)), name
        assert len(table.rows) > 5
    with pytest.raises(InputError, match="there are chinchilla, farseer"):
        published_set("none")


@pytest.mark.parametrize(
    ("delta", "left_out", "published"),
    [
        (1e-3, 5, {"A": 477.83, "B": 2143.42, "E": 1.8172, "alpha": 0.34731, "beta": 0.36717}),
        (LEAST_ABSOLUTE, 5, {"A": 482.00, "B": 2085.39, "E": 1.8169, "alpha": 0.34781, "beta": 0.36585}),
        (1e-3, 0, {"A": 495.73, "B": 12845.6, "E": 1.8913, "alpha": 0.3493, "beta": 0.4530}),
    ],
    ids=["Huber", "least absolute deviations", "with outliers"],
)
def test_chinchilla_points_give_each_published_optimum(
    delta: float, left_out: int, published: dict[str, float]
) -> None:
    x, y = chinchilla_points(left_out)
    fit = fit_form(CHINCHILLA, x, y, np.ones_like(y), delta)
    named = CHINCHILLA.named(fit.theta)
    for name, value in published.items():
        assert named[name] == pytest.approx(value, rel=3e-5 if left_out else 2e-4), name
    assert fit.starts_at_best >= 20
    assert fit.gradient_norm < 1e-7
    if delta == 1e-3 and left_out:
        assert fit.objective == pytest.approx(0.00101827404, rel=1e-7)
        # Besiroglu et al. print the optimum of least absolute deviations; by Huber's loss it is not the minimum.
        theirs = np.array([np.log(482.01), 0.3478, np.log(2085.43), 0.3658, np.log(1.8172)])
        assert descend(CHINCHILLA, x, y, np.ones_like(y), delta, theirs[:, None], steps=0).objective[0] > fit.objective


def test_chinchilla_bootstrap_gives_the_published_standard_errors() -> None:
    x, y = chinchilla_points()
    best = fit_form(CHINCHILLA, x, y, np.ones_like(y), LEAST_ABSOLUTE).theta
    weights = np.random.default_rng(42).multinomial(240, np.full(240, 1 / 240), size=2000).astype(float)
    ends = descend(CHINCHILLA, x, y, weights, LEAST_ABSOLUTE, np.repeat(best[:, None], 2000, axis=1), 1e-6)
    a, alpha, b, beta, e = ends.theta
    spread = {"A": np.exp(a), "B": np.exp(b), "E": np.exp(e), "alpha": alpha, "beta": beta, "a": beta / (alpha + beta)}
    # Besiroglu et al. 2024, table 1. Standard errors of coefficients with a long upper tail scatter themselves.
    published = {"A": 124.58, "B": 1293.23, "E": 0.026, "alpha": 0.015, "beta": 0.021, "a": 0.020}
    for name, value in published.items():
        assert np.std(spread[name]) == pytest.approx(value, rel=0.12), name
    intervals = {"A": (285, 744), "E": (1.769, 1.871), "alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    for name, interval in intervals.items():
        assert np.quantile(spread[name], [0.025, 0.975]) == pytest.approx(interval, rel=0.06), name
    assert np.median(spread["a"]) == pytest.approx(0.513, abs=0.005)


def test_cerebras_gpt_and_its_peers_lie_where_the_paper_says() -> None:
    table = published_set("zero_shot")
    flops, loss = (np.array(table.numbers(column)) for column in ("flops", "nats_per_token"))
    law = (flops / 5.984e22) ** -0.0737 + 0.5066  # Dey et al. 2023, eq. 1
    residual = dict(zip(zip(table.texts("family"), table.texts("model"), strict=True), loss / law - 1, strict=True))
    mup = [100 * value for (family, _), value in residual.items() if family == "Cerebras muP"]
    assert np.mean(mup) == pytest.approx(-0.43, abs=0.02)
    assert 100 * residual["NeoX", "20B"] == pytest.approx(1.14, abs=0.03)
    assert 100 * residual["Pythia", "12B"] == pytest.approx(0.36, abs=0.03)
    ours = {model.model: model for model in published_models("Cerebras-GPT")}
    for family, model, count in zip(table.texts("family"), table.texts("model"), flops, strict=True):
        if family == "Cerebras":
            assert ours[model].flops == count


def test_farseer_needs_the_coupled_form_or_its_own() -> None:
    params, tokens, loss, held_out = columns("farseer", "params", "tokens", "loss", "held_out")
    assert (len(loss), held_out.sum()) == (411, 7)
    x, y, new = np.log([params, tokens]), np.log(loss), held_out == 1
    found: dict[str, Any] = {}
    for form in (CHINCHILLA, COUPLED, FORMS["farseer"]):
        theta = fit_form(form, x[:, ~new], y[~new], np.ones(404)).theta
        off = np.exp(form.log_loss(theta, x[:, new])) - loss[new]
        spread = np.sum((loss[new] - loss[new].mean()) ** 2)
        found[form.name] = 1 - np.sum(off**2) / spread, np.mean(np.abs(off / loss[new]))
    # Chinchilla's form on all 404 runs foretells the seven with R^2 < -2 and 3 % off; the coupled form as well as
    # Farseer's nine parameters (R^2 0.91).
    assert found["chinchilla"][0] < -1.8
    assert 0.025 < found["chinchilla"][1] < 0.035
    assert found["coupled"][0] > 0.88
    assert found["coupled"][1] < 0.0065
    assert found["farseer"][0] > 0.91
    assert found["farseer"][1] < 0.0045


def test_farseers_published_parameters_are_read_as_they_are_printed() -> None:
    """Li et al. 2025: exp(-0.0625 N^0.13 + 0.1285) + exp(230.7 N^-0.1729 - 1.544) D^-exp(-1.666 N^0.0459 + 3.133); of
    the 404 runs their median error is half a per cent."""
    form, printed = FORMS["farseer"], ((-0.062465473, 0.13, 0.12848807), (230.73437, -0.1729, -1.54420955))
    theta = []
    for scale, power, constant in (*printed, (-1.66563082, 0.0459, 3.1333472)):
        theta += [scale + constant, scale * power, np.arctanh(power / LARGEST_POWER)]
    named = form.named(np.array(theta))
    assert named == pytest.approx(
        {"E": 0.0}
        | dict(zip(("a3", "gamma", "b3", "a2", "beta", "b2"), (*printed[0], *printed[1]), strict=True))
        | {"a1": -1.66563082, "alpha": 0.0459, "b1": 3.1333472}
    )
    params, tokens, loss = columns("farseer", "params", "tokens", "loss")
    said = np.exp(form.log_loss(np.array(theta), np.log([params, tokens])))
    by_hand = np.exp(-0.062465473 * params**0.13 + 0.12848807) + np.exp(
        230.73437 * params**-0.1729 - 1.54420955
    ) * tokens ** -np.exp(-1.66563082 * params**0.0459 + 3.1333472)
    np.testing.assert_allclose(said, by_hand, rtol=1e-9)
    assert np.median(np.abs(said / loss - 1)) < 0.005


@pytest.mark.parametrize(
    ("name", "runs", "by_params", "by_tokens"), [("marin_comma", 92, 0.405, 0.572), ("marin_dclm", 85, 0.424, 0.552)]
)
def test_marin_budgets_and_optima(name: str, runs: int, by_params: float, by_tokens: float) -> None:
    params, tokens, flops, budget, loss = columns(name, "params", "tokens", "flops", "budget", "loss")
    assert len(loss) == runs
    # As logged the isoFLOP runs would be three times their budget.
    np.testing.assert_allclose(flops, budget, rtol=0.01)
    kind = np.array(published_set(name).texts("kind"))
    exponents = []
    for inputs in (params, tokens):
        best = []
        for level in np.unique(budget):
            at = (budget == level) & (kind == "isoflop")
            curve = np.polyfit(np.log(inputs[at]), loss[at], 2)
            best.append((np.log(level), -curve[1] / (2 * curve[0])))
        exponents.append(np.polyfit(*np.array(best).T, 1)[0])
    # Parabolas over all of a budget, as the figure's reader would fit them.
    assert exponents == pytest.approx((by_params, by_tokens), abs=0.01)


def test_olmo_ladder_foretells_13b_as_published() -> None:
    table = published_set("olmo_ladder")
    params, tokens = (np.array(table.numbers(column)) for column in ("params", "tokens"))
    x = np.log([params, tokens])
    off = {}
    for column in ("hellaswag_bits_per_byte", "c4_nats_per_token"):
        loss = np.array(table.numbers(column))
        theta = fit_form(CHINCHILLA, x[:, :16], np.log(loss[:16]), np.ones(16)).theta
        off[column] = 100 * (np.exp(CHINCHILLA.log_loss(theta, x[:, 17:]))[0] / loss[17] - 1)
    # Bhagia et al. 2024 smooth the logs and print -1.17 and -3.83 %; these are the last rows alone.
    assert off["hellaswag_bits_per_byte"] == pytest.approx(-2.1, abs=0.25)
    assert off["c4_nats_per_token"] == pytest.approx(-3.83, abs=0.3)
    published = published_set("olmo_ladder_published")
    row = dict(zip(published.texts("task"), published.rows, strict=True))["hellaswag_val"]
    actual, said = float(row["step1_actual"]), float(row["step1_predicted"])
    assert said / actual - 1 == pytest.approx(-0.0117, abs=1e-4)
    assert table.numbers("hellaswag_bits_per_byte")[17] == pytest.approx(actual, rel=2e-3)


MULTIPOWER = {
    "25M": (
        MultiPowerLaw(3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
        0.00376,
    ),
    "100M": (
        MultiPowerLaw(2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
        0.00434,
    ),
}
UNSEEN = ("cosine_72000", "constant_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")


def rates(curve: str, warmup: int = 2160, peak: float = 3e-4, last: float = 3e-5) -> Array:
    """The learning rate of every step of a published curve (Luo et al. 2025, section 4)."""
    kind, *numbers = curve.split("_")
    steps = np.arange({"wsdcon": 16001}.get(kind, int(numbers[-1]) + 1))
    if kind == "cosine":
        done = (steps - warmup) / (steps[-1] - warmup)
        rate = last + 0.5 * (peak - last) * (1 + np.cos(np.pi * done))
    elif kind == "wsdcon":
        rate = np.where(steps < 8000, peak, int(numbers[0]) * 1e-5)
    elif kind == "constant":
        rate = np.full(len(steps), peak)
    else:
        done = np.clip((steps - int(numbers[0])) / (steps[-1] - int(numbers[0])), 0, 1)
        rate = peak * (last / peak) ** done if kind == "wsd" else peak - (peak - last) * done
    return np.where(steps < warmup, peak * steps / warmup, rate)


@pytest.mark.parametrize("size", MULTIPOWER)
def test_multi_power_law_curves_to_the_published_digit(size: str) -> None:
    law, published = MULTIPOWER[size]
    table = published_set(f"multipower_{size}")
    curves = np.array(table.texts("curve"))
    step, rate, loss = (np.array(table.numbers(column)) for column in ("step", "lr", "loss"))
    errors = []
    for curve in UNSEEN:
        at = curves == curve
        steps = step[at].astype(int)
        all_rates = rates(curve)
        np.testing.assert_allclose(all_rates[steps], rate[at], rtol=1e-4)
        errors.append(np.abs(law.loss(all_rates, steps) - loss[at]).mean())
    assert np.mean(errors) == pytest.approx(published, abs=1e-5)


def test_step_law_is_the_median_of_its_bootstraps_and_loses_little_on_its_runs() -> None:
    names = ("lr_intercept", "lr_coefN", "lr_coefD", "bs_intercept", "bs_coefD")
    a, by_params, by_tokens, b, batch_by_tokens = (
        np.median(column) for column in columns("steplaw_bootstraps", *names)
    )
    assert (np.exp(a), by_params, by_tokens) == pytest.approx((1.782, -0.7122, 0.3070), rel=1e-3)
    assert (np.exp(b), batch_by_tokens) == pytest.approx((0.573, 0.5713), rel=1e-3)
    params, tokens, rate, batch, loss = columns("steplaw", "params", "tokens", "lr", "batch_sequences", "loss")
    assert len(loss) == 1911
    worse = []
    for n, d in np.unique(np.stack([params, tokens]), axis=1).T:
        at = np.flatnonzero((params == n) & (tokens == d))
        law = np.log([np.exp(a) * n**by_params * d**by_tokens, np.exp(b) * d**batch_by_tokens / 2048])
        nearest = at[np.argmin(((np.log([rate[at], batch[at]]) - law[:, None]) ** 2).sum(axis=0))]
        worse.append(loss[nearest] / loss[at].min() - 1)
    assert np.max(worse) < 0.01
    assert np.median(worse) < 0.003
