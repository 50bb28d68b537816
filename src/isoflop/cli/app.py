"""All commands, in the order of work."""

from importlib.metadata import version
from typing import Annotated

import typer

from isoflop.cli import law_commands, plan_commands, release_commands, result_commands, train_commands
from isoflop.cli.data_commands import data
from isoflop.cli.groups import InOrder
from isoflop.cli.studio_commands import studio

app = typer.Typer(
    name="isoflop",
    cls=InOrder,
    help="Plan, train, explain and release families of compute-optimal GPT models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(on: bool) -> None:
    if on:
        print(f"isoflop {version('isoflop')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Plan, train, explain and release families of compute-optimal GPT models."""


app.command()(plan_commands.plan)
app.add_typer(data, name="data")
app.command()(train_commands.train)
app.command(hidden=True)(train_commands.worker)
app.command()(law_commands.law)
app.command()(law_commands.predict)
app.command()(result_commands.watch)
app.command()(result_commands.evaluate)
app.command()(result_commands.compare)
app.command()(result_commands.report)
app.command()(result_commands.serve)
app.command()(release_commands.release)
app.command()(release_commands.verify)
app.command()(train_commands.tune)
app.command("import")(release_commands.import_folder)
app.command()(train_commands.run)
app.add_typer(studio, name="studio")
