"""`isoflop law` and `isoflop predict`: on a run folder, or on anyone's points."""

from pathlib import Path
from typing import Annotated

import typer

from isoflop.cli.options import Debug, Json
from isoflop.cli.streams import print_json
from isoflop.errors import InputError

Points = Annotated[
    Path, typer.Argument(metavar="POINTS", help="A run folder, or a CSV with columns params, tokens and loss.")
]
Objective = Annotated[
    str, typer.Option("--objective", metavar="huber|lad", help="What fits minimise: Huber's loss, or absolute values.")
]
AccuracyOf = Annotated[
    str | None,
    typer.Option("--accuracy", metavar="TASK", help="A law of this accuracy: a task, or a column of the CSV."),
]
TaskLoss = Annotated[
    str | None,
    typer.Option("--task-loss", metavar="COLUMN", help="With --accuracy and a CSV: the loss on the right answers."),
]
Chance = Annotated[
    float | None, typer.Option("--chance", metavar="SHARE", help="With --accuracy: that of guessing, as in 0.25.")
]


def law(
    points: Points,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="PARAMS,TOKENS", help="The run that matters: say what to buy next."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="FLOPS", help="With --target: FLOPs for the runs to buy.")
    ] = None,
    objective: Objective = "huber",
    accuracy: AccuracyOf = None,
    task_loss: TaskLoss = None,
    chance: Chance = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit the law and test it on the largest run.

    With --target, say which runs would narrow that run's interval most.
    """
    from isoflop.cli import law_tables
    from isoflop.pipeline.law import law_of, next_runs
    from isoflop.pipeline.task_law import TaskQuestion, task_law

    if (target is None) != (budget is None):
        raise InputError(
            "--target PARAMS,TOKENS and --budget FLOPS go together: the run that matters, what may be spent"
        )
    _check_accuracy(accuracy, task_loss, chance)
    if accuracy is not None:
        if target is not None:
            raise InputError("--target and --budget buy runs for a law of the loss; leave --accuracy out")
        task = task_law(points, TaskQuestion(accuracy, task_loss, chance), test=True)
        if json:
            print_json(task.to_json())
        else:
            law_tables.print_task_law(task)
        return
    fitted, tests = law_of(points, objective)
    bought = next_runs(fitted, target, budget) if target is not None and budget is not None else []
    if json:
        document = {
            **fitted.summary(),
            "unidentified": fitted.unidentified,
            "optima": [vars(optimum) for optimum in fitted.optima()],
            "predictions": [vars(test.predicted) for test in tests],
            "held_out": [test.to_json() for test in tests],
            "next_runs": [vars(run) for run in bought],
        }
        print_json(document)
    else:
        law_tables.print_law(fitted)
        law_tables.print_test(tests)
        law_tables.print_next_runs(bought)


def predict(
    points: Points,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="PARAMS,TOKENS", help="A run to foretell; give as many as you like."),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option("--targets", metavar="FILE.csv", help="Runs to foretell: columns params and tokens."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="FLOPS", help="The best size and tokens for this compute.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", metavar="TOKENS", help="The size that these tokens are right for.")
    ] = None,
    loss: Annotated[
        float | None,
        typer.Option("--loss", metavar="LOSS", help="The cheapest run that reaches this, and smaller ones that do."),
    ] = None,
    inference_tokens: Annotated[
        float, typer.Option("--inference-tokens", metavar="TOKENS", help="With --loss: tokens to serve afterwards.")
    ] = 0.0,
    bytes_per_token: Annotated[
        float | None,
        typer.Option("--bytes-per-token", metavar="B", help="Of the text, to show bits per byte, where unknown."),
    ] = None,
    objective: Objective = "huber",
    accuracy: AccuracyOf = None,
    task_loss: TaskLoss = None,
    chance: Chance = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Foretell losses with intervals, or the run for a budget.

    Intervals are of 80 % and 95 %. Tokens or a wanted loss call for a run too.
    """
    from isoflop.cli import law_tables
    from isoflop.law import price_of_smaller
    from isoflop.pipeline.predict import Wish, bits_per_byte, choices, parse_target, predict, read_targets
    from isoflop.pipeline.task_law import TaskQuestion, task_law

    wanted = [parse_target(text) for text in target or []] + (read_targets(targets) if targets else [])
    wish = Wish(budget, tokens, loss, inference_tokens)
    _check_accuracy(accuracy, task_loss, chance)
    if not wanted and wish == Wish():
        raise InputError(
            "no target: give --target PARAMS,TOKENS (as in 70e6,1.4e9), --targets FILE.csv, --budget FLOPS, "
            "--tokens TOKENS or --loss LOSS"
        )
    if accuracy is not None:
        if wish != Wish():
            raise InputError("--budget, --tokens and --loss ask a law of the loss; with --accuracy give --target")
        task = task_law(points, TaskQuestion(accuracy, task_loss, chance))
        if json:
            rows = [{**vars(at), **vars(said)} for at, said in zip(wanted, task.predict(wanted), strict=True)]
            beyond = [task.beyond(at) for at in wanted]
            print_json({**task.to_json(), "predictions": rows, "times_largest_flops": beyond})
        else:
            law_tables.print_task_law(task)
            law_tables.print_task_predictions(task, wanted)
        return
    bits = bits_per_byte(points, bytes_per_token)
    fitted, predictions, warnings = predict(points, wanted, objective)
    found = choices(fitted, wish)
    priced = [] if loss is None else price_of_smaller(fitted, loss, inference_tokens)
    chosen = [choice.prediction for choice in found.values()]
    warnings = [*fitted.warnings, *warnings, *fitted.warnings_for(chosen)]
    if json:
        document = {
            **fitted.summary(),
            "warnings": warnings,
            "unidentified": fitted.unidentified,
            "predictions": [vars(p) for p in predictions],
            "times_largest_flops": [fitted.beyond(p) for p in predictions],
            "bits_per_byte": None
            if bits is None
            else [{name: bits * getattr(p, name) for name in _LOSSES} for p in predictions],
            "choices": {
                name: {**vars(choice), "prediction": vars(choice.prediction)} for name, choice in found.items()
            },
            "smaller": [vars(one) for one in priced],
        }
        print_json(document)
        return
    law_tables.print_identification(fitted)
    if predictions:
        law_tables.print_predictions(fitted, predictions, bits)
    law_tables.print_choices(fitted, found, bits)
    law_tables.print_smaller(priced, inference_tokens)
    law_tables.print_notes(warnings)


_LOSSES = ("loss", "low_80", "high_80", "low_95", "high_95")


def _check_accuracy(accuracy: str | None, task_loss: str | None, chance: float | None) -> None:
    if accuracy is None and (task_loss is not None or chance is not None):
        raise InputError("--task-loss and --chance go with --accuracy TASK")
