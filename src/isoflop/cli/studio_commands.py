"""`isoflop studio`: the same in a browser; and who may come in."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from isoflop.cli.groups import WithDefault
from isoflop.cli.options import Debug, as_folder
from isoflop.errors import InputError

Runs = Annotated[Path, typer.Option("--runs", metavar="RUNS", help="Where the families' folders lie.")]

studio = typer.Typer(cls=WithDefault, help="The same in a browser: quote, launch, watch, fetch, try.")


@studio.command("open")
def open_studio(
    runs: Runs = Path("runs"),
    families: Annotated[
        list[Path] | None,
        typer.Option("--families", metavar="FOLDER", help="Family files to offer."),
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, metavar="N", help="Families trained at once.")] = 1,
    most_systems: Annotated[
        int | None, typer.Option("--most-systems", min=1, metavar="N", help="Systems of all together.")
    ] = None,
    most_price: Annotated[
        float | None, typer.Option("--most-price", min=0, metavar="SUM", help="What all may cost, as quoted.")
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="On which port.")] = 8765,
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="NAME", help="A further name that browsers reach it by.")
    ] = None,
    header: Annotated[
        str | None,
        typer.Option("--user-header", metavar="HEADER", help="A proxy says by this header whose request it is."),
    ] = None,
    https: Annotated[bool, typer.Option("--https", help="Browsers reach it by HTTPS, through a proxy.")] = False,
    most_upload: Annotated[
        float, typer.Option("--most-upload", min=0, metavar="MB", help="What an account may send in all.")
    ] = 1000.0,
    debug: Debug = False,
) -> None:
    """Open the studio: prints the address; runs that it starts outlive it."""
    from isoflop.studio.places import Places
    from isoflop.studio.queue import Limits
    from isoflop.studio.server import Opening, families_beside, serve_studio

    opening = Opening(host, port, tuple(name or ()), header, https, round(most_upload * 1e6))
    places = Places(as_folder(runs.absolute()), families_beside(families or []))
    limits = Limits(at_once, most_systems, most_price)
    told = "Ctrl-C ends the studio and no run"
    serve_studio(places, limits, opening, lambda address: print(address, told, sep="\n", flush=True))


@studio.command()
def account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="see, launch or administer.")] = "launch",
    most_price: Annotated[
        float | None, typer.Option("--most-price", min=0, metavar="SUM", help="What they may spend, as quoted.")
    ] = None,
    runs: Runs = Path("runs"),
    debug: Debug = False,
) -> None:
    """Add an account, or change it; the password comes from the terminal or standard input."""
    from isoflop.studio.server import add_account

    if sys.stdin.isatty():
        password = getpass.getpass(f"password of {name}: ")
        if getpass.getpass("once more: ") != password:
            raise InputError("the two passwords differ; try again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    add_account(as_folder(runs.absolute()), name, role, password, most_price)
    print(f"{name} may {role}")
