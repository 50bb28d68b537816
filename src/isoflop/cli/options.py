"""Arguments and options that several commands have, and what they make of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
Runs = Annotated[Path, typer.Option("--runs", metavar="RUNS", help="Where the family's folder lies.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")]
# 65,536 as in the family file, which is not read before a command needs it.
Systems = Annotated[int | None, typer.Option("--systems", min=1, max=65_536, metavar="N", help="Workers to train on.")]
Execution = Annotated[
    str | None, typer.Option("--execution", metavar="WAY", help="resident, or streamed: weights live in a store.")
]
OfModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Which model; without it, the largest.")]


@contextmanager
def open_family(
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
        yield family, RunFolder(as_folder(runs / family.name))
    except FamilyError as error:
        raise InputError(f"{family_file}: {error}") from None


def as_folder(path: Path, option: str = "--runs") -> Path:
    """The path as it is, given by that option.

    Raises:
        InputError: it is no folder, and none can be made there: a part of the path is something else, or it is an
            address, of which a folder `s3:` would be made.
    """
    remedy = f"give {option} a folder, or where one can be made"
    if path.parts and path.parts[0].endswith(":"):
        raise InputError(f"{path}: an address is no folder; {remedy}")
    for part in (path, *path.parents):
        try:
            if part.is_dir():
                break
        except OSError as error:
            raise InputError(f"{part}: cannot be reached ({error.strerror}); {remedy}") from None
        if os.path.lexists(part):
            raise InputError(f"{part}: is no folder; {remedy}")
    return path


def print_answer(json: bool, document: Callable[[], Any], show: Callable[[], None]) -> None:
    """Prints one JSON document, or what people read."""
    if json:
        print_json(document())
    else:
        show()
