"""The commands. Each reads its file or folder, calls the pipeline, and prints what came of it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoflop.cli import law_commands, studio_commands
from isoflop.cli.groups import InOrder, WithDefault
from isoflop.cli.streams import print_json
from isoflop.errors import FamilyError, InputError

if TYPE_CHECKING:
    from isoflop.config import Family
    from isoflop.pipeline.folder import RunFolder

FamilyFile = Annotated[Path, typer.Argument(metavar="FAMILY.toml", help="The file that describes the family.")]
RunFolderPath = Annotated[Path, typer.Argument(metavar="RUNS", help="The folder RUNS/FAMILY of one family.")]
Runs = Annotated[Path, typer.Option("--runs", metavar="RUNS", help="Where the family's folder lies.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Train this model only.")]
Trials = Annotated[int, typer.Option("--trials", min=1, max=10_000, metavar="N", help="Trials in all.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with config.json and its weights.")]
To = Annotated[
    Path | None, typer.Option("--to", metavar="FOLDER", help="Write the model here, as config.json and safetensors.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="TYPE", help="With --to: fp32, bf16 or fp16; default as it was.")
]
# 65,536 as in the family file, which is not read before a command needs it.
Systems = Annotated[int | None, typer.Option("--systems", min=1, max=65_536, metavar="N", help="Workers to train on.")]
Execution = Annotated[
    str | None, typer.Option("--execution", metavar="WAY", help="resident, or streamed: weights live in a store.")
]
PlannedSystems = Annotated[
    str | None,
    typer.Option("--systems", metavar="N|N,N,...", help="Workers to plan for; several: what each would bring."),
]
HardwareName = Annotated[
    str | None,
    typer.Option("--hardware", metavar="NAME|FILE.csv", help="With several systems: on this published hardware."),
]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on by changed settings; results and cards will tell.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the cluster's job instead of submitting it.")]
OfModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Which model; without it, the largest.")]
OfOneModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="This model only.")]
Step = Annotated[int, typer.Option("--step", min=1, metavar="S", help="Which step, counted from 1.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, metavar="N", help="Processes; default: one a core.")]
Part = Annotated[
    str | None,
    typer.Option("--part", metavar="I/N", help="Do the I-th of N parts only, from 0 on: for jobs on several machines."),
]
app = typer.Typer(
    name="isoflop",
    cls=InOrder,
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
def plan(
    family_file: FamilyFile,
    systems: PlannedSystems = None,
    execution: Execution = None,
    hardware: HardwareName = None,
    model: OfModel = None,
    design: Annotated[
        bool,
        typer.Option("--design", help="Which runs to train next for the held-out model's interval."),
    ] = False,
    budget: Annotated[float | None, typer.Option("--budget", metavar="FLOPS", help="With --design: in all.")] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What will be trained, and what it will cost; with several numbers of systems, what each would bring."""
    from isoflop.cli import law_tables, plan_tables, scaling_table
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.plan import plan_document, show_plan
    from isoflop.pipeline.published import compare
    from isoflop.pipeline.scaling import foretell_scaling, parse_systems
    from isoflop.pipeline.until import design as design_ladder

    if budget is not None and not design:
        raise InputError("--budget goes with --design: FLOPs for the ladder, what is trained included")
    numbers = parse_systems(systems) if systems is not None else []
    if len(numbers) < 2 and (hardware is not None or model is not None):
        raise InputError("--hardware and --model go with several systems, as in --systems 1,2,4,...,1024")
    planned = numbers[0] if len(numbers) == 1 else None
    with _family(family_file, runs, planned, execution) as (family, folder), Terminal(quiet=json) as terminal:
        shown = show_plan(family, folder, terminal)
        published = compare(family, shown)
        scaling = foretell_scaling(shown, numbers, model, hardware) if len(numbers) > 1 else []
        designed = design_ladder(shown, folder, budget) if design else []

    def document() -> dict[str, Any]:
        foretold = {"scaling": [table.to_json() for table in scaling]} if scaling else {}
        next_runs = {"design": [vars(run) for run in designed]} if design else {}
        return {**plan_document(family, shown), **foretold, **next_runs}

    def show() -> None:
        plan_tables.print_plan(shown)
        plan_tables.print_memory(shown)
        plan_tables.print_settings(shown)
        if published is not None:
            plan_tables.print_published(published)
        if scaling:
            scaling_table.print_scaling(scaling)
        if design:
            law_tables.print_design(designed)

    _print(json, document, show)


data = typer.Typer(cls=WithDefault, help="Make tokens of the corpus; show what a step read.")
app.add_typer(data, name="data")


@data.command()
def prepare(
    family_file: FamilyFile,
    workers: Workers = None,
    part: Part = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every file again, also those not touched since the last time.")
    ] = False,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read the corpus, tokenise it, write shards; check those that are there.

    This is what isoflop data FAMILY.toml does; the word prepare may be left out.
    """
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.data import parse_part, prepare_data, prepare_part_of
    from isoflop.pipeline.lock import locked
    from isoflop.pipeline.needs import refuse_before_data

    if part is not None:
        with _family(family_file, runs) as (family, folder), Terminal(quiet=json) as terminal:
            prepare_part_of(family, folder, terminal, *parse_part(part), workers)
        return
    with (
        _family(family_file, runs) as (family, folder),
        Terminal(quiet=json) as terminal,
        locked(folder),
    ):
        refuse_before_data(family, [], folder)
        manifest = prepare_data(family, folder, terminal, workers, anew=verify)
    _print(json, lambda: manifest.model_dump(mode="json"), lambda: tables.print_data(manifest))


@data.command()
def show(
    family_file: FamilyFile,
    step: Step,
    model: OfModel = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The documents that a training step read: source file, offset, domain."""
    from isoflop.cli import tables
    from isoflop.pipeline.trace import trace_step

    with _family(family_file, runs) as (family, folder):
        traced = trace_step(family, folder, step, model)
    _print(json, traced.to_json, lambda: tables.print_trace(traced))


@app.command()
def train(
    family_file: FamilyFile,
    model: Model = None,
    systems: Systems = None,
    execution: Execution = None,
    accept_changes: AcceptChanges = False,
    dry_run: DryRun = False,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train all models, smallest first."""
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.changes import accept_family_changes
    from isoflop.pipeline.cluster import goes_to_a_cluster, job_script, submit_family
    from isoflop.pipeline.forecast import read_forecast
    from isoflop.pipeline.systems import train_on_systems
    from isoflop.pipeline.train import train_family

    with _family(family_file, runs, systems, execution) as (family, folder):
        if dry_run:
            script = job_script(family, family_file, folder, model)
            _print(json, lambda: {"script": script}, lambda: print(script, end=""))
            return
        if accept_changes:
            with Terminal(quiet=json) as terminal:
                accept_family_changes(family, folder, terminal, model)
        if goes_to_a_cluster(family):
            submission = submit_family(family, family_file, folder, model)
            _print(json, submission.to_json, lambda: print(submission))
            return
        if family.systems > 1:
            results = train_on_systems(family, folder, _worker(family_file, family, runs, model, json))
        else:
            with Terminal(quiet=json) as terminal:
                results = train_family(family, folder, terminal, model)
    if json:
        forecast = read_forecast(folder)
        models = [result.to_json() for result in results]
        print_json({"family": family.name, "models": models, "forecast": forecast.to_json() if forecast else None})


@app.command(hidden=True)
def worker(
    family_file: FamilyFile,
    model: Model = None,
    execution: Execution = None,
    runs: Runs = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no results.")] = False,
    debug: Debug = False,
) -> None:
    """Be one of the systems that train a family: started by isoflop train, torchrun, or what sets its variables."""
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.systems import work

    with _family(family_file, runs, execution=execution) as (family, folder), Terminal(quiet=quiet) as terminal:
        work(family, folder, terminal, model)


app.command()(law_commands.law)
app.command()(law_commands.predict)


@app.command()
def watch(runs: RunFolderPath, model: OfOneModel = None, json: Json = False, debug: Debug = False) -> None:
    """Is a training model on its track? Its loss beside the curve that the family's finished runs lead to expect."""
    from isoflop.cli import tables
    from isoflop.pipeline.watch import watch_run

    watched = watch_run(runs, model)
    _print(json, lambda: {"models": [one.to_json() for one in watched]}, lambda: tables.print_watched(watched))


@app.command()
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
    with _family(family_file, runs) as (family, folder), Terminal(quiet=json) as terminal:
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
    _print(json, lambda: document, lambda: task_tables.print_evaluation(evaluation))


@app.command()
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
    """The family beside published ones per FLOP: losses, tasks, openness, and what a loss costs each."""
    from isoflop.cli import compare_tables
    from isoflop.pipeline.comparison import compare_run

    comparison = compare_run(runs, models or [], loss, text)
    _print(json, comparison.to_json, lambda: compare_tables.print_comparison(comparison, shots))


@app.command()
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

    page = report_run(runs)
    saved = [] if figures is None else save_figures(runs, figures)

    def show() -> None:
        print(page)
        if figures is not None:
            print(f"{figures} ({len(saved)} files)")

    _print(json, lambda: {"report": str(page), "figures": [str(path) for path in saved]}, show)


@app.command()
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


@app.command()
def release(
    runs: RunFolderPath,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER", help="Send them to the Hugging Face hub, under this name.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: new repositories are private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: check all, say what would be sent, send nothing.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a Hugging Face folder for each model; with --push, send them to the hub."""
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.release import release_run
    from isoflop.pipeline.verification import push_releases

    if push is None and (private or dry_run):
        raise InputError("--private and --dry-run go with --push OWNER")
    with Terminal(quiet=json) as terminal:
        folders = release_run(runs, terminal)
        pushed = None if push is None else push_releases(push, folders, terminal, private, dry_run)
    document: dict[str, Any] = {"releases": [str(path) for path in folders]}
    if pushed is None:
        _print(json, lambda: document, lambda: print(*folders, sep="\n"))
    else:
        _print(json, lambda: {**document, **pushed.to_json()}, lambda: tables.print_pushed(pushed))


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A release folder, a folder of them, or a run folder.")
    ],
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the smallest model anew and compare its bits.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="With --retrain: where the corpus lies.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every file of releases against its hash; with --retrain, the smallest model's bits too."""
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.verification import verify_release

    with Terminal(quiet=json) as terminal:
        verification = verify_release(folder, terminal, retrain, data)
    _print(json, verification.to_json, lambda: tables.print_verified(verification))
    verification.raise_for_faults()


@app.command()
def tune(
    family_file: FamilyFile,
    trials: Trials = 20,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the base rate, initialisation and embedding multiplier on the smallest model."""
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.tune import tune_family

    with _family(family_file, runs, use_tuned=False) as (family, folder), Terminal(quiet=json) as terminal:
        tuning = tune_family(family, folder, terminal, trials)
    _print(json, tuning.to_json, lambda: tables.print_tuning(tuning))


@app.command("import")
def import_folder(
    model_folder: ModelFolder,
    to: To = None,
    dtype: Dtype = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a Hugging Face GPT-2 folder, check every tensor, say what it is; with --to, write it anew."""
    from isoflop.cli import tables
    from isoflop.pipeline.interchange import import_folder

    found = import_folder(model_folder, to, dtype)
    _print(json, found.to_json, lambda: tables.print_imported(found))


@app.command()
def run(
    family_file: FamilyFile,
    systems: Systems = None,
    execution: Execution = None,
    until_width: Annotated[
        str | None,
        typer.Option("--until-width", metavar="1%", help="Train the ladder until the 95 % interval is +- this."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="FLOPS", help="With --until-width: the most to spend.")
    ] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """All of it in order, as far as it is missing."""
    from isoflop.cli import law_tables, numbers
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.cluster import goes_to_a_cluster, refuse_untrained
    from isoflop.pipeline.run import run_family
    from isoflop.pipeline.until import parse_width, run_until

    if until_width is None and budget is not None:
        raise InputError("--budget goes with --until-width: the most FLOPs to spend on the ladder")
    if until_width is not None:
        wanted = parse_width(until_width)
        with _family(family_file, runs, systems, execution) as (family, folder), Terminal(quiet=json) as terminal:
            refuse_untrained(family, family_file, folder)
            if family.systems > 1:
                raise InputError("--until-width trains on one system; leave --systems out")
            narrowed = run_until(family, folder, terminal, wanted, budget)
        _print(json, narrowed.to_json, lambda: law_tables.print_narrowed(narrowed))
        return
    begin = time.monotonic()
    with _family(family_file, runs, systems, execution) as (family, folder), Terminal(quiet=json) as terminal:
        refuse_untrained(family, family_file, folder)
        several = family.systems > 1 and not goes_to_a_cluster(family)
        on_systems = _worker(family_file, family, runs, None, json) if several else None
        outcome = run_family(family, folder, terminal, on_systems)
    seconds = time.monotonic() - begin

    def show() -> None:
        print(f"\nreport   {outcome.report}")
        print(f"release  {folder.path / 'release'} ({len(outcome.releases)} folders)")
        print(f"done in {numbers.duration(seconds)}")

    _print(json, lambda: {**outcome.to_json(), "wall_seconds": seconds}, show)


app.add_typer(studio_commands.studio, name="studio")


@contextmanager
def _family(
    family_file: Path,
    runs: Path,
    systems: int | None = None,
    execution: str | None = None,
    use_tuned: bool = True,
) -> Iterator[tuple["Family", "RunFolder"]]:
    """The family and its folder; --systems and --execution go before what the file says."""
    from isoflop.config import load_family
    from isoflop.pipeline.folder import RunFolder

    family = load_family(family_file, use_tuned=use_tuned)
    if systems is not None:
        family = family.model_copy(update={"systems": systems})
    if execution is not None:
        if execution not in ("resident", "streamed"):
            raise InputError(f"--execution {execution}: no such way; use resident or streamed")
        family = family.model_copy(update={"execution": execution})
    if family.execution == "streamed":
        # PyTorch reads it as it takes its first memory: wide layers' buffers are mapped anew each time, and in pages of
        # 4 KiB that takes a tenth of a step (docs/streaming.md).
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        yield family, RunFolder(runs / family.name)
    except FamilyError as error:
        raise InputError(f"{family_file}: {error}") from None


def _worker(family_file: Path, family: "Family", runs: Path, model: str | None, quiet: bool) -> list[str]:
    """The command that each of the family's systems runs."""
    options = ["--runs", str(runs), *(["--model", model] if model else []), *(["--quiet"] if quiet else [])]
    return ["worker", str(family_file), "--execution", family.execution, *options]


def _print(json: bool, document: Callable[[], Any], show: Callable[[], None]) -> None:
    if json:
        print_json(document())
    else:
        show()


def _print_version(on: bool) -> None:
    if on:
        print(f"isoflop {version('isoflop')}")
        raise typer.Exit
