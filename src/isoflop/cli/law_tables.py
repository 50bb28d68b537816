"""What commands print of laws: the fits, what they foretell, which runs to train next."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from isoflop.cli import numbers as n
from isoflop.cli.table import of, print_table

if TYPE_CHECKING:
    from isoflop.law import Choice, Law, Optimum, Prediction, Smaller
    from isoflop.law.design import Purchase
    from isoflop.pipeline.law import HeldOut
    from isoflop.pipeline.predict import Target
    from isoflop.pipeline.task_law import TaskLaw
    from isoflop.pipeline.until import Designed, Narrowed


def print_identification(law: "Law") -> None:
    """The first line of a law: whether its parameters mean anything."""
    why = law.unidentified
    if why:
        print(f"Law not identified: {'; '.join(why)}. Quote no parameters; the intervals weigh what is possible.")
    else:
        print("Law identified: the points tell an irreducible loss from none, and size from tokens.")


def print_law(law: "Law") -> None:
    """The forms, what they weigh in a forecast, how size should grow, and what to beware of."""
    print_identification(law)
    sizes = len({point.params for point in law.points})
    counted = law.points[0].convention
    print(
        f"Fitted to {of(len(law.points), 'run')} of {of(sizes, 'size')}; params: {law.points[0].counted_params}, "
        f"FLOPs {_COUNTED.get(counted, counted)}; minimised: {_OBJECTIVES[law.objective]}"
    )
    print_table(
        ["form", "weight", "error", "objective", "starts", "gradient", "equation"],
        [
            [
                form.name,
                n.percent(form.weight),
                n.percent(form.rolling_error, 2),
                n.scientific(form.objective, 3),
                f"{form.starts_at_best}/{form.starts}" if form.starts else n.MISSING,
                n.scientific(form.gradient_norm, 0),
                form.equation or form.note,
            ]
            for form in law.forms
        ],
        left=5,
    )
    print(
        "error: of each rung foretold from those below it; weight: in the forecast; objective: at the best fit, with\n"
        "the starts that ended there and the largest derivative"
    )
    print_optima(law.optima())
    print_notes(law.warnings)


_OBJECTIVES = {"huber": "Huber's loss of the log residual", "lad": "absolute log residual"}
_COUNTED = {"given": "as given", "6ND": "by 6ND", "isoflop": "by isoflop"}


def print_optima(optima: Sequence["Optimum"]) -> None:
    """How size and tokens should grow with compute: the three approaches side by side, and why one says nothing."""
    if all(optimum.params_exponent is None for optimum in optima):
        return
    print_table(
        ["optimum", "N* ~ C^", "D* ~ C^", "tokens/param", "budgets", "note"],
        [
            [
                optimum.approach,
                n.MISSING if optimum.params_exponent is None else f"{optimum.params_exponent:.3f}",
                n.MISSING if optimum.tokens_exponent is None else f"{optimum.tokens_exponent:.3f}",
                n.MISSING if optimum.tokens_per_parameter is None else n.digits(optimum.tokens_per_parameter),
                str(optimum.budgets or n.MISSING),
                optimum.note,
            ]
            for optimum in optima
        ],
        left=4,
    )


def print_predictions(law: "Law", predictions: Sequence["Prediction"], bits_per_byte: float | None = None) -> None:
    """Foretold losses with their intervals, and how far beyond the points they lie; `bits_per_byte` turns a loss into
    bits per byte, one where it is that, None where it is not known."""
    bits = [bits_per_byte] if bits_per_byte not in (None, 1.0) else []
    print_table(
        [
            *("params", "tokens", "FLOPs", "x largest", "bits/byte" if bits_per_byte == 1.0 else "loss"),
            *("80 % interval", "95 % interval"),
            *(name for _ in bits for name in ("bits/byte", "95 % interval")),
        ],
        [
            [
                n.count(p.params),
                n.count(p.tokens),
                n.scientific(p.flops),
                n.digits(law.beyond(p)),
                n.loss(p.loss),
                interval(p.low_80, p.high_80),
                interval(p.low_95, p.high_95),
                *(text for by in bits for text in (n.loss(by * p.loss), interval(by * p.low_95, by * p.high_95))),
            ]
            for p in predictions
        ],
    )


def print_choices(law: "Law", choices: Mapping[str, "Choice"], bits_per_byte: float | None = None) -> None:
    """The runs that a budget, tokens or a loss call for."""
    for name, choice in choices.items():
        print(f"\n{_ASKED[name]}")
        print_predictions(law, [choice.prediction], bits_per_byte)
        if choice.low_flops is not None and name == "loss":
            high = n.scientific(choice.high_flops) if choice.high_flops else "beyond reach"
            print(f"training FLOPs that reach it, 80 % interval: {n.scientific(choice.low_flops)} to {high}")
        if choice.inference_tokens:
            served = n.count(choice.inference_tokens)
            print(f"training and serving {served} tokens: {n.scientific(choice.total_flops)} FLOPs")


_ASKED = {
    "budget": "Lowest loss for the budget",
    "tokens": "The size that these tokens are right for",
    "loss": "Least training compute that reaches the loss",
    "loss, served": "Least compute of training and serving that reaches the loss",
}


def print_smaller(priced: Sequence["Smaller"], inference_tokens: float) -> None:
    """What smaller models pay in training for the same loss, and from how many tokens served they are the cheaper."""
    if not priced:
        return
    print("\nThe same loss from smaller models, trained longer")
    served = [inference_tokens] if inference_tokens else []
    print_table(
        [
            *("params", "tokens", "tokens/param", "training FLOPs", "over the least"),
            *(f"and {n.count(tokens)} served" for tokens in served),
            "cheaper from served",
        ],
        [
            [
                n.count(one.params),
                n.count(one.tokens),
                n.digits(one.tokens / one.params),
                n.scientific(one.training_flops),
                f"x {one.training_flops / priced[0].training_flops:.2f}",
                *(n.scientific(one.total_flops) for _ in served),
                n.count(one.break_even_tokens) if one.share < 1 else n.MISSING,
            ]
            for one in priced
        ],
    )


def print_task_law(task: "TaskLaw") -> None:
    """The two ways to an accuracy, what each foretold, and the test on the largest run."""
    question = task.question
    chance = n.percent(question.chance, 1)
    print(f"Accuracy on {question.accuracy}: {of(len(task.points), 'run')}, chance {chance}")
    by = {"two-step": question.task_loss or "bits/byte of the right answers", "direct": "-ln FLOPs"}
    print_table(
        ["way", "weight", "error", "by", "from", "to", "middle", "steepness"],
        [
            [
                way.kind,
                n.percent(way.weight),
                n.MISSING if way.error is None else f"{way.error:.3f}",
                by[way.kind],
                n.percent(way.sigmoids.best.chance, 1),
                n.percent(way.sigmoids.best.ceiling, 1),
                n.digits(way.sigmoids.best.middle),
                n.digits(way.sigmoids.best.steepness),
            ]
            for way in task.law.ways
        ],
    )
    print("error: root mean square, of the larger runs foretold from the smaller; weight: in what is foretold")
    if task.tests is None:
        return
    if task.tests:
        print("Test: the largest compute, foretold from the rest")
        print_table(
            ["run", "params", "tokens", "measured", "foretold", "80 % interval", "95 % interval", ""],
            [
                [
                    point.run,
                    n.count(point.params),
                    n.count(point.tokens),
                    f"{point.accuracy:.3f}",
                    f"{said.accuracy:.3f}",
                    interval(said.low_80, said.high_80),
                    interval(said.low_95, said.high_95),
                    place(said.low_80 <= point.accuracy <= said.high_80, said.low_95 <= point.accuracy <= said.high_95),
                ]
                for point, said in task.tests
            ],
        )
    else:
        print("No test on the largest run: it needs at least 5 runs besides, of 3 budgets")


def print_task_predictions(task: "TaskLaw", targets: Sequence["Target"]) -> None:
    """Foretold accuracies with their intervals, and how far beyond the points they lie."""
    print_table(
        ["params", "tokens", "x largest", "accuracy", "80 % interval", "95 % interval"],
        [
            [
                n.count(target.params),
                n.count(target.tokens),
                n.digits(task.beyond(target)),
                f"{said.accuracy:.3f}",
                interval(said.low_80, said.high_80),
                interval(said.low_95, said.high_95),
            ]
            for target, said in zip(targets, task.predict(targets), strict=True)
        ],
    )


def print_notes(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"note: {warning}")


def print_test(tests: Sequence["HeldOut"]) -> None:
    """How the law foretells the largest compute from the rest."""
    if not tests:
        print("No test on the largest run: it needs at least 4 runs besides, of 3 sizes")
        return
    print("Test: the largest compute, foretold from the rest")
    print_table(
        ["run", "params", "measured", "foretold", "off by", "80 % interval", "95 % interval", ""],
        [
            [
                test.run,
                n.count(test.predicted.params),
                n.loss(test.measured),
                n.loss(test.predicted.loss),
                f"{100 * test.error:+.2f} %",
                interval(test.predicted.low_80, test.predicted.high_80),
                interval(test.predicted.low_95, test.predicted.high_95),
                place(test.inside_80, test.inside_95),
            ]
            for test in tests
        ],
    )


def print_next_runs(runs: Sequence["Purchase"]) -> None:
    """What to train next, in order, and how far each narrows the target's interval."""
    if not runs:
        return
    print("\nNext runs: together they narrow the target's interval most for this budget, as expected")
    print_table(
        ["params", "tokens", "FLOPs", "95 % before", "after"],
        [
            [
                n.count(run.params),
                n.count(run.tokens),
                n.scientific(run.flops),
                f"+-{n.percent(run.half_width_before, 2)}",
                f"+-{n.percent(run.half_width_after, 2)}",
            ]
            for run in runs
        ],
    )


def print_design(designed: Sequence["Designed"]) -> None:
    """Which runs of the ladder to train, in order."""
    if not designed:
        print("\nDesign: every run of the ladder is trained, or costs more than is left of the budget")
        return
    print("\nDesign: train these next; the held-out model's interval before and after each, as expected")
    print_table(
        ["model", "FLOPs", "95 % before", "after"],
        [
            [
                run.model,
                n.scientific(run.flops),
                *(
                    n.MISSING if half is None else f"+-{n.percent(half, 2)}"
                    for half in (run.half_width_before, run.half_width_after)
                ),
            ]
            for run in designed
        ],
    )
    if designed[0].half_width_before is None:
        print("A law begins with four sizes. What follows is as it usually comes: plan again once they are trained")


def print_narrowed(narrowed: "Narrowed") -> None:
    """What training until an interval is narrow came to."""
    why = "as narrow as wanted" if narrowed.reached else "the budget or the ladder is at its end"
    print(f"\n{narrowed.target}: 95 % interval +-{n.percent(narrowed.half_width, 2)}: {why}")
    print(
        f"trained {of(len(narrowed.trained), 'run')}, {n.scientific(narrowed.spent_flops)} FLOPs; not needed: ", end=""
    )
    print(", ".join(narrowed.left) or "none")
    print(
        f"next: isoflop train FAMILY.toml --model {narrowed.target} (its forecast is written), or isoflop run for all"
    )


def place(inside_80: bool, inside_95: bool) -> str:
    """Where a measured loss lies."""
    return "inside 80 %" if inside_80 else "inside 95 %" if inside_95 else "outside"


def interval(low: float, high: float) -> str:
    """Both ends of an interval of losses"""
    return f"{n.loss(low)} to {n.loss(high)}"
