"""`isoflop plan`: what will be trained, and what it will cost."""

from pathlib import Path
from typing import Annotated, Any

import typer

from isoflop.cli.options import Debug, Execution, FamilyFile, Json, OfModel, Runs, open_family, print_answer
from isoflop.errors import InputError

PlannedSystems = Annotated[
    str | None,
    typer.Option("--systems", metavar="N|N,N,...", help="Workers to plan for; several: what each would bring."),
]
HardwareName = Annotated[
    str | None,
    typer.Option("--hardware", metavar="NAME|FILE.csv", help="With several systems: on this published hardware."),
]


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
    """What will be trained, and what it will cost.

    With several numbers of systems, what each would bring.
    """
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
    with open_family(family_file, runs, planned, execution) as (family, folder), Terminal(quiet=json) as terminal:
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

    print_answer(json, document, show)
