"""`isoflop train`, `tune` and `run`: what takes its time."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isoflop.cli.options import Debug, Execution, FamilyFile, Json, Runs, Systems, open_family, print_answer
from isoflop.cli.streams import print_json
from isoflop.errors import InputError

if TYPE_CHECKING:
    from isoflop.config import Family

Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Train this model only.")]
Trials = Annotated[int, typer.Option("--trials", min=1, max=10_000, metavar="N", help="Trials in all.")]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on by changed settings; results and cards will tell.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the cluster's job instead of submitting it.")]


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
    from isoflop.pipeline.cluster import goes_to_a_cluster, job_script, refuse_changes_of_a_job, submit_family
    from isoflop.pipeline.forecast import read_forecast
    from isoflop.pipeline.systems import train_on_systems
    from isoflop.pipeline.train import train_family

    with open_family(family_file, runs, systems, execution) as (family, folder):
        if dry_run:
            script = job_script(family, family_file, folder, model)
            print_answer(json, lambda: {"script": script}, lambda: print(script, end=""))
            return
        if accept_changes:
            refuse_changes_of_a_job(family, folder)
            with Terminal(quiet=json) as terminal:
                accept_family_changes(family, folder, terminal, model)
        if goes_to_a_cluster(family):
            submission = submit_family(family, family_file, folder, model)
            print_answer(json, submission.to_json, lambda: print(submission))
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

    with open_family(family_file, runs, execution=execution) as (family, folder), Terminal(quiet=quiet) as terminal:
        work(family, folder, terminal, model)


def tune(
    family_file: FamilyFile,
    trials: Trials = 20,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the best base rate and scales on the smallest model.

    These are the base rate, the initialisation and the multiplier of embeddings.
    """
    from isoflop.cli import tables
    from isoflop.cli.terminal import Terminal
    from isoflop.pipeline.tune import tune_family

    with open_family(family_file, runs, use_tuned=False) as (family, folder), Terminal(quiet=json) as terminal:
        tuning = tune_family(family, folder, terminal, trials)
    print_answer(json, tuning.to_json, lambda: tables.print_tuning(tuning))


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
        with open_family(family_file, runs, systems, execution) as (family, folder), Terminal(quiet=json) as terminal:
            refuse_untrained(family, family_file, folder)
            if family.systems > 1:
                raise InputError("--until-width trains on one system; leave --systems out")
            narrowed = run_until(family, folder, terminal, wanted, budget)
        print_answer(json, narrowed.to_json, lambda: law_tables.print_narrowed(narrowed))
        return
    begin = time.monotonic()
    with open_family(family_file, runs, systems, execution) as (family, folder), Terminal(quiet=json) as terminal:
        refuse_untrained(family, family_file, folder)
        several = family.systems > 1 and not goes_to_a_cluster(family)
        on_systems = _worker(family_file, family, runs, None, json) if several else None
        outcome = run_family(family, folder, terminal, on_systems)
    seconds = time.monotonic() - begin

    def show() -> None:
        print(f"\nreport   {outcome.report}")
        print(f"release  {folder.path / 'release'} ({len(outcome.releases)} folders)")
        print(f"done in {numbers.duration(seconds)}")

    print_answer(json, lambda: {**outcome.to_json(), "wall_seconds": seconds}, show)


def _worker(family_file: Path, family: "Family", runs: Path, model: str | None, quiet: bool) -> list[str]:
    """The command that each of the family's systems runs."""
    options = ["--runs", str(runs), *(["--model", model] if model else []), *(["--quiet"] if quiet else [])]
    return ["worker", str(family_file), "--execution", family.execution, *options]
