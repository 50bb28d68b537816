"""`isoflop data`: makes tokens of the corpus, and shows what a step read."""

from pathlib import Path
from typing import Annotated

import typer

from isoflop.cli.groups import WithDefault
from isoflop.cli.options import Debug, FamilyFile, Json, OfModel, Runs, open_family, print_answer

Step = Annotated[int, typer.Option("--step", min=1, metavar="S", help="Which step, counted from 1.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, metavar="N", help="Processes; default: one a core.")]
Part = Annotated[
    str | None,
    typer.Option("--part", metavar="I/N", help="Do the I-th of N parts only, from 0 on: for jobs on several machines."),
]

data = typer.Typer(cls=WithDefault, help="Make tokens of the corpus; show what a step read.")


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
        with open_family(family_file, runs) as (family, folder), Terminal(quiet=json) as terminal:
            prepare_part_of(family, folder, terminal, *parse_part(part), workers)
        return
    with (
        open_family(family_file, runs) as (family, folder),
        Terminal(quiet=json) as terminal,
        locked(folder),
    ):
        refuse_before_data(family, [], folder)
        manifest = prepare_data(family, folder, terminal, workers, anew=verify)
    print_answer(json, lambda: manifest.model_dump(mode="json"), lambda: tables.print_data(manifest))


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

    with open_family(family_file, runs) as (family, folder):
        traced = trace_step(family, folder, step, model)
    print_answer(json, traced.to_json, lambda: tables.print_trace(traced))
