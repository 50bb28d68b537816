"""What is to become of a run: order.json in its directory, which is the truth whatever becomes of the database."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoflop.durable import write_json, write_text
from isoflop.errors import InputError, WorkError
from isoflop.studio.family_text import family_text
from isoflop.studio.places import Ordered, Places
from isoflop.studio.quote import Quote

MOST_PRIORITY = 9


class Order(BaseModel):
    """A run as it was ordered, and what is wanted of it now. `quote` is what it was foretold to cost and reach."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    owner: str
    shared: bool = False
    ordered: str
    priority: int = Field(5, ge=0, le=MOST_PRIORITY)
    systems: int = Field(1, ge=1, le=65_536)
    execution: Literal["resident", "streamed"] = "resident"
    cluster: bool = False
    wanted: Literal["train", "pause", "cancel"] = "train"
    quote: dict[str, Any]

    def seen_by(self, name: str) -> bool:
        """Whether an account sees the run without administering."""
        return self.shared or self.owner == name


def place_order(places: Places, quote: Quote, owner: str) -> Order:
    """Makes the run directory with the order and its family file: of two who ask for one name at once, one gets it.

    Raises:
        InputError: a run of that name is there already, or it would be refused for want of memory or disk.
        WorkError: the disk is full or cannot be written; nothing is left behind.
    """
    if quote.lacks:
        raise InputError(f"not launched: {quote.lacks[0]}")
    name = quote.family.name
    ordered = places.ordered(name)
    order = Order(
        owner=owner,
        ordered=datetime.now(UTC).isoformat(timespec="microseconds"),
        systems=quote.family.systems,
        execution=quote.family.execution,
        cluster=quote.family.cluster is not None,
        quote=quote.to_json(),
    )
    new = not ordered.path.parent.exists()
    try:
        ordered.path.parent.mkdir(parents=True, exist_ok=True)
        if (ordered.path.parent / "plan.json").exists():
            raise InputError(f"name = {name}: a run of that name is there already; choose another")
        ordered.path.mkdir()
    except FileExistsError:
        raise InputError(f"name = {name}: a run of that name is there already; choose another") from None
    except OSError as error:
        raise WorkError(f"{ordered.path}: cannot write ({error.strerror}); nothing was launched") from None
    try:
        if quote.prepared is not None:
            _take(quote.prepared, places.run(name).data)
        write_text(ordered.family_file, family_text(quote.family, f"quoted by isoflop studio at {quote.time}"))
        write_json(ordered.order, order.model_dump(mode="json"))
    except WorkError:
        for path in (ordered.family_file, ordered.order):
            path.unlink(missing_ok=True)
        if quote.prepared is not None:
            shutil.rmtree(places.run(name).data, ignore_errors=True)
        ordered.path.rmdir()
        if new:
            ordered.path.parent.rmdir()
        raise
    return order


def _take(prepared: Path, folder: Path) -> None:
    """The tokens of another run, as links where the disk is the same: files are replaced whole, never written into.

    Raises:
        WorkError: they cannot be read or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The manifest last: without it the folder holds nothing yet.
        paths = [path for path in prepared.iterdir() if path.is_file() and not path.name.startswith(".")]
        for path in sorted(paths, key=lambda path: path.name == "manifest.json"):
            try:
                os.link(path, folder / path.name)
            except OSError:
                shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise WorkError(f"{folder}: cannot take the tokens of {prepared} ({error.strerror})") from None


def read_order(path: Path) -> Order | None:
    """None where the run was not ordered here, or its order is damaged."""
    try:
        return Order.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError, RecursionError):
        return None


def change_order(ordered: Ordered, **changes: Any) -> Order:
    """The order with other wishes, on the disk when this returns.

    Raises:
        InputError: it was not ordered here, or asks for what there is not.
    """
    order = read_order(ordered.order)
    if order is None:
        raise InputError(f"{ordered.path.parent.name}: not launched by the studio; use the command line")
    try:
        new = Order.model_validate({**order.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    write_json(ordered.order, new.model_dump(mode="json"))
    return new
