"""A law says what it knows, warns of what it does not, and comes back from its file unchanged."""

import json
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isoflop.durable import to_json
from isoflop.errors import InputError
from isoflop.law import Law, Point, fit_law
from isoflop.law.approaches import _best_size
from isoflop.law.fit import fit_form
from isoflop.law.forms import FORMS, Array
from isoflop.law.runs import NEARER, nearness, runs_of
from isoflop.published import published_models, published_set


def ladder(sizes: list[float], seeds: int = 1, noise: float = 0.005, ratio: float = 20.0) -> list[Point]:
    """Runs on L = 1.5 + (C / 1e15)^-0.12 with relative noise."""
    rng = np.random.default_rng(3)
    points = []
    for size in sizes:
        for seed in range(seeds):
            flops = 6 * size * ratio * size
            loss = (1.5 + (flops / 1e15) ** -0.12) * np.exp(noise * rng.standard_normal())
            points.append(Point(size, ratio * size, float(loss), flops, f"{size}-{seed}", convention="isoflop"))
    return points


SIZES = [7e4, 1.2e5, 1.8e5, 2.7e5, 4e5]


def grid(noise: float = 0.002, seed: int = 0) -> list[Point]:
    """Sizes and tokens apart, on L(N, D) = 1.8 + 480 / N^0.35 + 2100 / D^0.37."""
    rng = np.random.default_rng(seed)
    points = []
    for size in np.geomspace(5e7, 5e9, 7):
        for ratio in (5, 20, 80, 320):
            loss = (1.8 + 480 / size**0.35 + 2100 / (ratio * size) ** 0.37) * np.exp(noise * rng.standard_normal())
            points.append(Point(size, ratio * size, loss, 6 * ratio * size**2, f"{size}-{ratio}", convention="6ND"))
    return points


def test_a_law_predicts_the_same_bits_after_its_file_and_from_the_same_seed() -> None:
    law = fit_law(ladder(SIZES, seeds=2), seed=4)
    again = Law.from_json(json.loads(to_json(law.to_json())))
    targets = [(6e5, 1.2e7, None), (6e5, 1.2e7, 5e13), (3e5, 1e8, None)]
    assert [again.predict(*t) for t in targets] == [law.predict(*t) for t in targets]
    assert again.to_json() == law.to_json()
    assert fit_law(ladder(SIZES, seeds=2), seed=4).to_json() == law.to_json()


@pytest.mark.parametrize("points", [ladder(SIZES, seeds=2), grid()[:20]], ids=["one ratio", "grid"])
def test_the_order_of_the_points_and_their_names_change_nothing(points: list[Point]) -> None:
    shuffled = [replace(points[i], run=f"row {i}") for i in np.random.default_rng(1).permutation(len(points))]
    one, other = fit_law(points), fit_law(shuffled)
    assert one.summary() == other.summary()
    assert one.predict(6e5, 1.2e7, 5e13) == other.predict(6e5, 1.2e7, 5e13)


@pytest.mark.parametrize("loss", [1e300, 30.0, 2.0])
def test_a_loss_far_off_the_others_is_named(loss: float) -> None:
    for points in (ladder(SIZES), grid()):
        assert not any("far off" in warning for warning in fit_law(points).warnings)
        points[2] = replace(points[2], loss=loss, run="slip")
        warnings = [warning for warning in fit_law(points).warnings if "far off" in warning]
        assert len(warnings) == 1
        assert warnings[0].startswith("slip: loss")


def test_the_document_holds_what_commands_promise() -> None:
    document = fit_law(ladder(SIZES)).to_json()
    assert {"forms", "identified", "warnings", "points"} <= document.keys()
    forms = {form["name"]: form for form in document["forms"]}
    assert forms.keys() == FORMS.keys()
    assert sum(form["weight"] for form in forms.values()) == pytest.approx(1)
    compute = forms["compute"]
    assert compute["equation"].startswith("L(C) = (C / ")
    assert compute["starts_at_best"] >= 1
    assert compute["gradient_norm"] < 1e-6
    for parameter in compute["parameters"].values():
        assert parameter["low_95"] <= parameter["value"] <= parameter["high_95"]
    assert "one ratio" in forms["chinchilla"]["note"]


def test_something_else_than_a_law_is_refused_in_one_line() -> None:
    documents: list[Any] = [{}, {"forecast": None}, {"forecast": {"ratios": None}}, []]
    for document in documents:
        with pytest.raises(InputError, match=r"fits? it again"):
            Law.from_json(document)


def test_a_curve_is_the_predictions_along_the_ladder() -> None:
    law = fit_law(ladder(SIZES))
    prediction = law.predict(5e5, 1e7)
    curve = law.curve(np.array([1e12, prediction.flops]))
    assert (curve.loss[1], curve.low_95[1]) == pytest.approx((prediction.loss, prediction.low_95))
    assert np.all(curve.low_95 < curve.low_80)
    assert np.all(curve.high_80 < curve.high_95)


def test_intervals_widen_with_distance_and_off_the_ladders_ratio() -> None:
    law = fit_law(ladder(SIZES))
    near, far, farther = (law.predict(size, 20 * size) for size in (5e5, 1e6, 4e6))
    widths = [np.log(p.high_95 / p.low_95) for p in (near, far, farther)]
    assert widths == sorted(widths)
    assert widths[2] > 2 * widths[0]
    off = law.predict(5e5 / 4, 1e7 * 4)
    assert np.log(off.high_95 / off.low_95) > 1.5 * widths[0]
    assert "tokens per parameter" in law.warnings_for([off])[0]
    assert law.warnings_for([near]) == []
    assert "times the compute of the largest run" in law.warnings_for([farther])[0]


def test_flops_left_out_are_counted_as_the_points_were() -> None:
    points = [Point(p.params, p.tokens, p.loss, 1.3 * p.flops, p.run, convention="isoflop") for p in ladder(SIZES)]
    assert fit_law(points).predict(5e5, 1e7).flops == pytest.approx(1.3 * 6 * 5e5 * 1e7)


def test_flops_of_two_conventions_and_impossible_numbers_are_refused() -> None:
    points = ladder(SIZES)
    mixed = [*points[1:], Point(7e4, 1.4e6, 4.7, 6e11, "x", convention="6ND")]
    with pytest.raises(InputError, match="6ND, isoflop"):
        fit_law(mixed)
    with pytest.raises(InputError, match="loss = nan"):
        fit_law([*points, Point(1e6, 2e7, float("nan"), 1.2e14, "x", convention="isoflop")])
    with pytest.raises(InputError, match="0 distinct params"):
        fit_law([])
    for target in ((0, 1e7), (1e6, float("inf")), (1e6, 1e7, -1.0)):
        with pytest.raises(InputError, match="give a finite number above 0"):
            fit_law(points).predict(*target)


def test_seeds_teach_the_noise_of_one_run() -> None:
    for noise in (0.002, 0.012):
        law = fit_law(ladder(SIZES, seeds=5, noise=noise))
        assert noise / 2 < law.noise < noise * 2
    given = [Point(p.params, p.tokens, p.loss, p.flops, p.run, 0.03 * p.loss, p.convention) for p in ladder(SIZES)]
    assert fit_law(given).noise == pytest.approx(0.03, rel=0.05)


def test_checkpoints_of_a_run_do_not_count_as_runs() -> None:
    points = ladder([7e4, 1.2e5, 1.8e5, 2.7e5], noise=0.02)
    copies = [
        Point(p.params, p.tokens, p.loss * (1 + 1e-6 * k), p.flops, p.run, convention=p.convention)
        for p in points
        for k in range(10)
    ]
    few, many = (fit_law(given) for given in (points, copies))
    width = [np.log(law.predict(4e5, 8e6).high_95 / law.predict(4e5, 8e6).low_95) for law in (few, many)]
    assert width[1] > 0.9 * width[0]
    assert any("40 points come from 4 runs" in warning for warning in many.warnings)


def test_an_unseen_floor_is_not_claimed_and_a_seen_one_is() -> None:
    short = fit_law(ladder(SIZES))
    assert not short.identified
    assert any("E is not identified" in warning for warning in short.warnings)
    assert any("under a decade" in warning for warning in short.warnings)
    assert any("move together" in warning for warning in short.warnings)
    long = fit_law(ladder(list(np.geomspace(1e5, 1e11, 10)), seeds=2, noise=0.001))
    assert long.identified
    floor = next(form for form in long.forms if form.name == "compute").parameters["E"]
    assert floor.value == pytest.approx(1.5, rel=0.03)


def test_where_size_and_tokens_vary_apart_the_law_in_both_leads_and_foretells() -> None:
    points = sorted(grid(), key=lambda point: point.flops)
    law = fit_law(points[:-4])
    # Those that can take the shape of the truth, whose exponents are almost equal.
    assert sum(form.weight for form in law.forms if form.name in ("chinchilla", "overtraining", "coupled")) > 0.9
    # Nine parameters from 24 runs could foretell anything.
    assert next(form.weight for form in law.forms if form.name == "farseer") == 0
    predictions = [law.predict(p.params, p.tokens) for p in points[-4:]]
    assert all(q.low_95 < p.loss < q.high_95 for q, p in zip(predictions, points[-4:], strict=True))
    assert all(q.high_95 / q.low_95 < 1.03 for q in predictions)
    chinchilla = next(form for form in law.forms if form.name == "chinchilla")
    for name, value in {"E": 1.8, "alpha": 0.35, "beta": 0.37}.items():
        assert chinchilla.parameters[name].value == pytest.approx(value, rel=0.08)


def test_every_cerebras_gpt_model_from_590m_up_is_foretold_by_smaller_ones() -> None:
    points = [Point(m.params, m.tokens, m.nats_per_token, m.flops, m.model) for m in published_models("Cerebras-GPT")]
    for k in range(3, 7):
        law, held = fit_law(points[:k]), points[k]
        prediction = law.predict(held.params, held.tokens, held.flops)
        assert prediction.low_95 * 0.999 < held.loss < prediction.high_95 * 1.001, held.run
        assert abs(prediction.loss / held.loss - 1) < 0.035


def test_a_ladder_is_fitted_in_two_seconds() -> None:
    points = ladder(SIZES, seeds=3)
    start = time.process_time()
    fit_law(points)
    assert time.process_time() - start < 2


def test_three_sizes_and_rising_losses_still_give_finite_answers_and_warnings() -> None:
    rising = [Point(n, 20 * n, loss, 120 * n * n, str(n)) for n, loss in ((1e5, 3.0), (2e5, 3.1), (4e5, 3.2))]
    law = fit_law(rising)
    assert any("3 sizes" in warning for warning in law.warnings)
    assert any("does not fall" in warning for warning in law.warnings)
    assert all(np.isfinite(value) for value in vars(law.predict(1e6, 2e7)).values())
    assert not any("--" in form.equation for form in law.forms)
    json.loads(to_json(law.to_json()))


def test_losses_that_stay_the_same_are_named() -> None:
    law = fit_law([Point(n, 20 * n, 4.0, 120 * n * n, str(n)) for n in (1e7, 2e7, 4e7, 8e7)])
    assert any("does not fall" in warning for warning in law.warnings)


def test_units_that_no_model_has_are_named() -> None:
    def warned(points: list[Point]) -> str:
        return " ".join(fit_law(points).warnings)

    given = [replace(p, convention="given") for p in ladder(SIZES)]
    millions = [replace(p, params=p.params / 1e6, tokens=p.tokens / 1e9) for p in given]
    assert "params are at most 0.4: in millions" in warned(millions)
    assert "tokens are at most 0.008" in warned(millions)
    assert "below what any text leaves uncertain" in warned([replace(p, loss=p.loss / 20) for p in given])
    assert "above that of guessing" in warned([replace(p, loss=p.loss * 20) for p in given])
    assert "unit" not in warned(given)
    one = [*given[1:], replace(given[0], params=0.07)]
    assert "70000.0-0: params = 0.07: in millions" in warned(one)
    # One row in thousands, above what alone would be no size.
    larger = [replace(p, params=1e3 * p.params, tokens=1e3 * p.tokens, flops=1e6 * p.flops) for p in given]
    assert "million" not in warned(larger)
    assert "70000.0-0: params = 7e+04: in millions" in warned([replace(larger[0], params=7e4), *larger[1:]])
    exa = [replace(p, flops=p.flops / 1e18) for p in given]
    assert "flops are 1e-18 times 6 x params x tokens" in warned(exa)


def test_runs_given_twice_under_two_names_are_told() -> None:
    twice = [replace(p, run=f"{p.run} again") for p in ladder(SIZES)]
    assert "5 groups of runs with the same" in " ".join(fit_law([*ladder(SIZES), *twice]).warnings)
    assert "several names" not in " ".join(fit_law(ladder(SIZES, seeds=2)).warnings)


def test_sizes_and_tokens_in_billions_still_have_a_best_size() -> None:
    form, theta = FORMS["chinchilla"], np.array([math.log(480), 0.35, math.log(2100), 0.37, math.log(1.8)])
    billions = form.shifted(theta, -np.log([1e9, 1e12]))
    plain = _best_size(form, theta, math.log(1e20))
    assert _best_size(form, billions, math.log(1e-1)) == pytest.approx(plain - math.log(1e9), abs=1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "coupled"])
def test_followed_from_its_largest_runs_a_form_that_is_not_exactly_right_foretells_nearer(name: str) -> None:
    table = published_set("farseer")
    columns = (table.numbers(column) for column in ("params", "tokens", "loss", "held_out"))
    rows = list(zip(*columns, strict=True))
    seen, held = (
        runs_of([Point(n, d, x, 6 * n * d, f"{i}") for i, (n, d, x, held) in enumerate(rows) if held == out])
        for out in (0, 1)
    )
    form = FORMS[name]

    def off(counts: Array) -> float:
        theta = fit_form(form, seen.x(form), seen.y, counts, tolerance=1e-6).theta
        return float(np.sqrt(np.mean((form.log_loss(theta, held.x(form)) - held.y) ** 2)))

    assert off(nearness(seen, form.n_parameters)) < 0.85 * off(seen.share)


def test_few_runs_count_alike_and_many_by_their_compute() -> None:
    few, many = runs_of(grid()[:12]), runs_of(grid() + [replace(p, run=f"{p.run} b") for p in grid(seed=1)])
    np.testing.assert_array_equal(nearness(few, 5), few.share)
    counts = nearness(many, 5)
    assert 20 <= counts.sum() < len(many)
    power = np.polyfit(many.flops, np.log(counts), 1)[0]
    assert 0 < power <= NEARER + 1e-9
    assert counts.sum() == pytest.approx(counts.sum() ** 2 / (counts**2).sum())


def test_one_name_for_all_runs_makes_no_law_sure_of_itself() -> None:
    named = fit_law([replace(p, run="exp") for p in grid()])
    assert any("run exp has 7 sizes" in warning for warning in named.warnings)
    mine, apart = (law.predict(1e10, 2e11) for law in (named, fit_law(grid())))
    assert mine.high_95 / mine.low_95 > (apart.high_95 / apart.low_95) ** 0.8


def test_runs_that_this_program_counted_are_never_in_other_units() -> None:
    tiny = [replace(p, params=p.params / 100, tokens=p.tokens / 100, loss=p.loss / 20) for p in ladder(SIZES)]
    assert max(p.tokens for p in tiny) < 1e5
    assert not any("millions" in warning or "unit" in warning for warning in fit_law(tiny).warnings)


def test_what_is_not_identified_is_told_and_a_rich_grid_is() -> None:
    assert len(fit_law(ladder(SIZES)).unidentified) == 3
    assert fit_law(grid()).unidentified == []


def test_a_known_ceiling_foretells_the_bend() -> None:
    """Losses that saturate towards guessing: without the ceiling a ladder half a decade long foretells too high."""
    ceiling, flops = 6.0, np.geomspace(1e12, 1e13, 4)

    def truth(c: float) -> float:
        line = np.exp(math.log(4.5 / (1 - 4.5 / ceiling)) - 0.22 * math.log(c / 1e12))
        return float(line / (1 + line / ceiling))

    points = [
        Point(
            params=(c / 120) ** 0.5,
            tokens=20 * (c / 120) ** 0.5,
            loss=truth(c) * (1 + 0.001 * (-1) ** i),
            flops=c,
            run=f"{i}",
        )
        for i, c in enumerate(np.repeat(flops, 2))
    ]
    target = 4e13
    size = (target / 120) ** 0.5
    known, unknown = (fit_law(points, ceiling=given).predict(size, 20 * size, target) for given in (ceiling, None))
    assert abs(known.loss / truth(target) - 1) < 0.005
    assert abs(known.loss / truth(target) - 1) < abs(unknown.loss / truth(target) - 1)
    assert known.low_95 < truth(target) < known.high_95
    assert known.high_95 - known.low_95 < unknown.high_95 - unknown.low_95
    law = fit_law(points, ceiling=ceiling)
    assert Law.from_json(json.loads(json.dumps(law.to_json()))).predict(size, 20 * size, target) == known
    assert next(form for form in law.forms if form.name == "bent").parameters["Lmax"].value == pytest.approx(ceiling)


def test_a_ceiling_that_a_loss_has_not_left_is_not_used() -> None:
    points = [
        Point(params=1e6 * 2**i, tokens=2e7 * 2**i, loss=5.9 - 0.1 * i, flops=1.2e14 * 4**i, run=f"{i}")
        for i in range(5)
    ]
    with_one, without = (fit_law(points, ceiling=given).predict(1e8, 2e9).loss for given in (6.0, None))
    assert with_one == without


def test_runs_of_a_sweep_are_told_from_seeds_and_many_outliers_do_not_fill_the_page() -> None:
    ladder = [Point(n, 20 * n, 3 * (n / 1e7) ** -0.07, 120 * n * n, f"{n}") for n in (1e7, 2e7, 4e7, 8e7, 1.6e8)]
    seeds = [replace(point, loss=point.loss * 1.004, run=f"{point.run}-s1") for point in ladder]
    swept = [replace(point, loss=point.loss * 1.06, run=f"{point.run}-high") for point in ladder]
    assert not any("seeds do not" in said for said in fit_law([*ladder, *seeds]).warnings)
    assert any("differ by up to 6 % (5 such groups)" in said for said in fit_law([*ladder, *swept]).warnings)
    wild = [Point(1e7 * 1.3**k, 2e8, 6.0, 6e15 * 1.3**k, f"wild {k}") for k in range(8)]
    rich = [
        Point(n, r * n, 3 * (n / 1e7) ** -0.07, 6 * r * n * n, f"{n}-{r}")
        for n in (1e7, 1e8, 1e9)
        for r in range(5, 15)
    ]
    told = [said for said in fit_law([*rich, *wild]).warnings if "far off" in said]
    assert len(told) == 6
    assert told[-1] == "and 3 more lie as far off"


def test_a_form_that_the_runs_refute_weighs_next_to_nothing() -> None:
    """Runs on a coupled law, the sum to the power of 0.6: the plain sum fits them worse, each next rung hardly."""
    rng = np.random.default_rng(6)
    points = []
    for size in np.geomspace(2e8, 3e9, 9):
        for ratio in (4, 12, 36, 110):
            n, d = float(size), float(ratio * size)
            loss = 0.4 + (100 / n**0.5 + 300 / d**0.5) ** 0.6 * np.exp(0.003 * rng.standard_normal())
            points.append(Point(n, d, float(loss), 6 * n * d, f"{n}-{ratio}", convention="6ND"))
    forms = {form.name: form for form in fit_law(points).forms}
    # Farseer's form can bend as the coupled one does.
    assert forms["coupled"].weight > 0.8
    assert forms["coupled"].weight + forms["farseer"].weight > 0.98
    # It takes part from these 36 runs on, and no rung has as many below it that it could be judged on.
    assert forms["farseer"].weight > 0
    assert forms["farseer"].rolling_error is None
