"""The commands. Each reads its file or folder, calls the pipeline, and prints what came of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoflop.cli.streams import print_json
from isoflop.errors import FamilyError, InputError

if TYPE_CHECKING:
    from isoflop.config import Family
    from isoflop.pipeline.folder import RunFolder

FamilyFile = Annotated[Path, typer.Argument(metavar="FAMILY.toml", help="The file that describes the family.")]
RunFolderPath = Annotated[Path, typer.Argument(metavar="RUNS", help="The folder RUNS/FAMILY of one family.")]
Points = Annotated[
    Path, typer.Argument(metavar="POINTS", help="A run folder, or a CSV with columns params, tokens and loss.")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="RUNS", help="Where the family's folder lies.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Train this model only.")]
Systems = Annotated[int | None, typer.Option("--systems", min=1, metavar="N", help="Workers to train on.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="PARAMS,TOKENS", help="A run to foretell; give as many as you like."),
]
TargetsFile = Annotated[
    Path | None, typer.Option("--targets", metavar="FILE.csv", help="Runs to foretell: columns params and tokens.")
]

app = typer.Typer(
    name="isoflop",
    help="Plan, train, explain and release families of compute-optimal GPT models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=lambda on: _print_version(on)),
    ] = False,
) -> None:
    """Plan, train, explain and release families of compute-optimal GPT models."""


@app.command()
def plan(family_file: FamilyFile, runs: Runs = Path("runs"), json: Json = False, debug: Debug = False) -> None:
    """What will be trained, and what it will cost."""
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.plan import show_plan

    with _family(family_file, runs) as (family, folder), Terminal(quiet=json) as terminal:
        shown = show_plan(family, folder, terminal)
    _print(json, shown.to_json, lambda: tables.print_plan(shown))


@app.command()
def data(family_file: FamilyFile, runs: Runs = Path("runs"), json: Json = False, debug: Debug = False) -> None:
    """Read the corpus, tokenise it, write shards; check every byte of those that are there."""
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.data import verify
    from isoflop.pipeline.data import prepare_data
    from isoflop.pipeline.lock import locked

    with (
        _family(family_file, runs) as (family, folder),
        Terminal(quiet=json) as terminal,
        locked(folder),
    ):
        prepare_data(family, folder, terminal)
        manifest = verify(folder.data)
    _print(json, lambda: manifest.model_dump(mode="json"), lambda: tables.print_data(manifest))


@app.command()
def train(
    family_file: FamilyFile,
    model: Model = None,
    systems: Systems = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train all models, smallest first."""
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.forecast import read_forecast
    from isoflop.pipeline.train import train_family

    with _family(family_file, runs, systems) as (family, folder), Terminal(quiet=json) as terminal:
        results = train_family(family, folder, terminal, model)
    if json:
        forecast = read_forecast(folder)
        models = [result.to_json() for result in results]
        print_json({"family": family.name, "models": models, "forecast": forecast.to_json() if forecast else None})


@app.command()
def law(
    points: Points,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="PARAMS,TOKENS", help="The run that matters: say what to buy next."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="FLOPS", help="With --target: FLOPs for the runs to buy.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit the law, test it on the largest run, and say which runs would narrow a target's interval most."""
    from isoflop.cli import tables
    from isoflop.pipeline.law import law_of, next_runs

    if (target is None) != (budget is None):
        raise InputError(
            "--target PARAMS,TOKENS and --budget FLOPS go together: the run that matters, what may be spent"
        )
    fitted, tests = law_of(points)
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
        tables.print_law(fitted)
        tables.print_test(tests)
        tables.print_next_runs(bought)


@app.command()
def predict(
    points: Points,
    target: Targets = None,
    targets: TargetsFile = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="FLOPS", help="The best size and tokens for this compute.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", metavar="TOKENS", help="The size that these tokens are right for.")
    ] = None,
    loss: Annotated[
        float | None, typer.Option("--loss", metavar="LOSS", help="The cheapest run that reaches this loss.")
    ] = None,
    inference_tokens: Annotated[
        float, typer.Option("--inference-tokens", metavar="TOKENS", help="With --loss: tokens to serve afterwards.")
    ] = 0.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Foretell losses, with 80 % and 95 % intervals; or the run that a budget, tokens or a loss call for."""
    from isoflop.cli import tables
    from isoflop.pipeline.predict import Wish, choices, parse_target, predict, read_targets

    wanted = [parse_target(text) for text in target or []] + (read_targets(targets) if targets else [])
    wish = Wish(budget, tokens, loss, inference_tokens)
    if not wanted and wish == Wish():
        raise InputError(
            "no target: give --target PARAMS,TOKENS (as in 70e6,1.4e9), --targets FILE.csv, --budget FLOPS, "
            "--tokens TOKENS or --loss LOSS"
        )
    fitted, predictions, warnings = predict(points, wanted)
    found = choices(fitted, wish)
    chosen = [choice.prediction for choice in found.values()]
    warnings = [*fitted.warnings, *warnings, *fitted.warnings_for(chosen)]
    document = {
        **fitted.summary(),
        "warnings": warnings,
        "unidentified": fitted.unidentified,
        "predictions": [vars(p) for p in predictions],
        "times_largest_flops": [fitted.beyond(p) for p in predictions],
        "choices": {name: {**vars(choice), "prediction": vars(choice.prediction)} for name, choice in found.items()},
    }

    def show() -> None:
        tables.print_identification(fitted)
        if predictions:
            tables.print_predictions(fitted, predictions)
        tables.print_choices(fitted, found)
        tables.print_notes(warnings)

    _print(json, lambda: document, show)


@app.command()
def evaluate(family_file: FamilyFile, runs: Runs = Path("runs"), json: Json = False, debug: Debug = False) -> None:
    """Held-out loss and bits per byte of each model."""
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.evaluate import evaluate_family

    with _family(family_file, runs) as (family, folder), Terminal(quiet=json) as terminal:
        results = evaluate_family(family, folder, terminal)
    models = [result.to_json() for result in results]
    _print(json, lambda: {"family": family.name, "models": models}, lambda: tables.print_results(results))


@app.command()
def report(runs: RunFolderPath, json: Json = False, debug: Debug = False) -> None:
    """Draw the report: one HTML page with every figure."""
    from isoflop.pipeline.report import report_run

    page = report_run(runs)
    _print(json, lambda: {"report": str(page)}, lambda: print(page))


@app.command()
def release(runs: RunFolderPath, json: Json = False, debug: Debug = False) -> None:
    """Write a Hugging Face folder for each model."""
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.release import release_run

    with Terminal(quiet=json) as terminal:
        folders = release_run(runs, terminal)
    _print(json, lambda: {"releases": [str(path) for path in folders]}, lambda: print(*folders, sep="\n"))


@app.command()
def run(
    family_file: FamilyFile,
    systems: Systems = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """All of it in order, as far as it is missing."""
    from isoflop.cli import numbers
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.run import run_family

    begin = time.monotonic()
    with _family(family_file, runs, systems) as (family, folder), Terminal(quiet=json) as terminal:
        outcome = run_family(family, folder, terminal)
    seconds = time.monotonic() - begin

    def show() -> None:
        print(f"\nreport   {outcome.report}")
        print(f"release  {folder.path / 'release'} ({len(outcome.releases)} folders)")
        print(f"done in {numbers.duration(seconds)}")

    _print(json, lambda: {**outcome.to_json(), "wall_seconds": seconds}, show)


@contextmanager
def _family(family_file: Path, runs: Path, systems: int | None = None) -> Iterator[tuple["Family", "RunFolder"]]:
    """The family and its folder; --systems goes before what the file says."""
    from isoflop.config import load_family
    from isoflop.pipeline.folder import RunFolder

    family = load_family(family_file)
    if systems is not None:
        family = family.model_copy(update={"systems": systems})
    try:
        yield family, RunFolder(runs / family.name)
    except FamilyError as error:
        raise InputError(f"{family_file}: {error}") from None


def _print(json: bool, document: Callable[[], Any], show: Callable[[], None]) -> None:
    if json:
        print_json(document())
    else:
        show()


def _print_version(on: bool) -> None:
    if on:
        print(f"isoflop {version('isoflop')}")
        raise typer.Exit
