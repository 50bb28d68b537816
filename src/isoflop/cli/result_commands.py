"""Commands on what was trained: `isoflop watch`, `evaluate`, `compare`, `report` and `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from isoflop.cli.options import Debug, FamilyFile, Json, RunFolderPath, Runs, as_folder, open_family, print_answer

OfOneModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="This model only.")]


def watch(runs: RunFolderPath, model: OfOneModel = None, json: Json = False, debug: Debug = False) -> None:
    """Is a training model on its track?

    Its loss beside the curve that the family's finished runs lead to expect.
    """
    from isoflop.cli import tables
    from isoflop.pipeline.watch import watch_run

    watched = watch_run(runs, model)
    print_answer(json, lambda: {"models": [one.to_json() for one in watched]}, lambda: tables.print_watched(watched))


def evaluate(
    family_file: FamilyFile,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="NAMES", help="Comma between: heldout, published, or any of lm-eval's."),
    ] = None,
    shots: Annotated[
        str | None, typer.Option("--shots", metavar="N,N", help="Examples before each question; default 0,5.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Ask this model only.")] = None,
    step: Annotated[
        str | None, typer.Option("--step", metavar="S", help="A saved step, or all; default: the last.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Most questions of a task.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Where data sets of tasks lie.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch data sets that are missing.")] = False,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="TYPE", help="fp32 or bf16; default fp32, as released.")
    ] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Held-out loss and downstream tasks of each model."""
    from dataclasses import asdict

    from isoflop.cli import task_tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.tasks import evaluate_tasks, parse_wish, wish_of

    given = parse_wish(tasks, shots, step, precision)
    with open_family(family_file, runs) as (family, folder), Terminal(quiet=json) as terminal:
        wish = wish_of(family, **given, model=model, limit=limit, data_dir=data_dir, download=download)
        evaluation = evaluate_tasks(family, folder, terminal, wish)
    document = {
        "family": family.name,
        "models": [
            {**result.to_json(), "tasks": [asdict(score) for score in evaluation.scores.get(result.name, [])]}
            for result in evaluation.results
        ],
        "notes": evaluation.notes,
    }
    print_answer(json, lambda: document, lambda: task_tables.print_evaluation(evaluation))


def compare(
    runs: Annotated[
        Path | None,
        typer.Argument(metavar="[RUNS]", help="The folder RUNS/FAMILY; without it, published models alone."),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option("--models", metavar="FILE.csv", help="Further models, in the columns of models.csv."),
    ] = None,
    loss: Annotated[
        float | None, typer.Option("--loss", metavar="NATS", help="What compute each family needs for this loss.")
    ] = None,
    shots: Annotated[int, typer.Option("--shots", min=0, metavar="N", help="Which scores to print: 0 or 5.")] = 0,
    text: Annotated[
        str | None, typer.Option("--text", metavar="NAME", help="The held-out text is this one, as in 'Pile test'.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The family beside published ones per FLOP.

    Losses, tasks, openness, and what a loss costs each.
    """
    from isoflop.cli import compare_tables
    from isoflop.pipeline.comparison import compare_run

    comparison = compare_run(runs, models or [], loss, text)
    print_answer(json, comparison.to_json, lambda: compare_tables.print_comparison(comparison, shots))


def report(
    runs: RunFolderPath,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="FOLDER", help="Write every figure there too: SVG, PNG, and its data as CSV."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw the report: one HTML page with every figure."""
    from isoflop.pipeline.report import report_run, save_figures

    into = None if figures is None else as_folder(figures, "--figures")
    page = report_run(runs)
    saved = [] if into is None else save_figures(runs, into)

    def show() -> None:
        print(page)
        if figures is not None:
            print(f"{figures} ({len(saved)} files)")

    print_answer(json, lambda: {"report": str(page), "figures": [str(path) for path in saved]}, show)


def serve(
    runs: RunFolderPath,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="On which port.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="A name or address that browsers reach it by, beside this machine's own."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show the report in a browser, live while models train. Changes nothing; answers this machine only."""
    from isoflop.pipeline.serve import serve_run

    serve_run(runs, host, port, name or [], lambda url: print(f"{url} shows {runs}; Ctrl-C ends it", flush=True))
