"""The loss of runs that nobody has trained."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.errors import InputError
from isoflop.given import csv_text
from isoflop.pipeline.folder import find_run
from isoflop.pipeline.law import ladder_law
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import read_results

if TYPE_CHECKING:
    from isoflop.law import Choice, Law, Prediction


# Beyond any run, and far below where a double overflows in params x tokens.
MOST = 1e30
MOST_BYTES = 1000


@dataclass(frozen=True)
class Target:
    """A run to foretell."""

    params: float
    tokens: float


@dataclass(frozen=True)
class Wish:
    """What a run is sought for: the lowest loss of a training budget, or for tokens at hand, or the cheapest run that
    reaches a loss, with so many tokens served afterwards."""

    budget_flops: float | None = None
    tokens: float | None = None
    loss: float | None = None
    inference_tokens: float = 0.0

    def __post_init__(self) -> None:
        for option, value in (("--budget", self.budget_flops), ("--tokens", self.tokens), ("--loss", self.loss)):
            if value is not None and not 0 < value <= MOST:
                raise InputError(f"{option} {value:g}: give a number above 0, at most {MOST:.0e}")
        if not 0 <= self.inference_tokens <= MOST:
            raise InputError(f"--inference-tokens {self.inference_tokens:g}: give a number from 0 to {MOST:.0e}")
        if self.inference_tokens and self.loss is None:
            raise InputError("--inference-tokens goes with --loss: the cheapest run to reach it, trained and served")


def choices(law: "Law", wish: Wish) -> dict[str, "Choice"]:
    """The run that each part of the wish asks for.

    Raises:
        InputError: the law does not reach so far.
    """
    from isoflop.law import best_for_budget, best_for_tokens, cheapest_for_loss

    found = {}
    if wish.budget_flops is not None:
        found["budget"] = best_for_budget(law, wish.budget_flops)
    if wish.tokens is not None:
        found["tokens"] = best_for_tokens(law, wish.tokens)
    if wish.loss is not None:
        found["loss"] = cheapest_for_loss(law, wish.loss)
        if wish.inference_tokens:
            found["loss, served"] = cheapest_for_loss(law, wish.loss, wish.inference_tokens)
    return found


def bits_per_byte(path: Path, bytes_per_token: float | None) -> float | None:
    """What turns a loss of `path` into bits per byte; None where that is not known.

    Raises:
        InputError: `bytes_per_token` is no such number, or the losses are bits per byte already.
    """
    if path.is_dir():
        folder = find_run(path)
        known = [
            result.bits_per_byte / result.nats_per_token for result in read_results(folder, stored_plan(folder)[1])
        ]
        factor = known[0] if known else None
    else:
        from isoflop.law.points import bits_per_byte_per_loss

        factor = bits_per_byte_per_loss(path)
    if bytes_per_token is None:
        return factor
    if factor == 1.0:
        raise InputError("--bytes-per-token: the losses are bits per byte already; leave it out")
    if not 0 < bytes_per_token <= MOST_BYTES:
        raise InputError(f"--bytes-per-token {bytes_per_token:g}: give a number above 0, at most {MOST_BYTES}")
    return 1 / (math.log(2) * bytes_per_token)


def predict(
    path: Path, targets: Sequence[Target], objective: str = "huber"
) -> tuple["Law", list["Prediction"], list[str]]:
    """The law of `path` (as `law_of` reads it), its predictions for the targets, and what to beware of in them.

    Raises:
        InputError: there are no such points, or too few for a law.
    """
    if path.is_dir():
        folder = find_run(path)
        law = ladder_law(stored_plan(folder)[1], folder, objective)
    else:
        from isoflop.law import fit_law, read_points

        law = fit_law(read_points(path), objective=objective)
    predictions = [law.predict(target.params, target.tokens) for target in targets]
    return law, predictions, law.warnings_for(predictions)


def parse_target(text: str) -> Target:
    """The target that PARAMS,TOKENS describes.

    Raises:
        InputError: it does not.
    """
    parts = text.split(",")
    if len(parts) != 2:
        raise InputError(f"--target {text!r}: give params and tokens with a comma between, as in 70e6,1.4e9")
    params, tokens = (_number(f"--target {text!r}", name, part) for name, part in zip(_COLUMNS, parts, strict=True))
    return Target(params, tokens)


def read_targets(path: Path) -> list[Target]:
    """The targets of a CSV file with columns params and tokens; others are ignored.

    Raises:
        InputError: the file cannot be read or a row cannot be used.
    """
    reader = csv.DictReader(csv_text(path).splitlines())
    try:
        header = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        rows = [(reader.line_num, row) for row in reader if any(row.get(name) for name in header)]
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num}: not valid CSV ({error})") from None
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise InputError(f"{path}, row 1: no column {' and '.join(missing)}; needed are params and tokens")
    if not rows:
        raise InputError(f"{path}: no targets under the header; give one row for each run to foretell")
    return [Target(*(_number(f"{path}, row {n}", name, row[name] or "") for name in _COLUMNS)) for n, row in rows]


_COLUMNS = ("params", "tokens")


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        from isoflop.law.points import how_to_write

        shown = text.strip()[:40]
        raise InputError(f"{where}: {name} = {shown!r} is not a number; {how_to_write(name, shown)}") from None
    if not 1 <= value <= MOST:
        raise InputError(f"{where}: {name} = {text.strip()[:40]}; give a number from 1 to {MOST:.0e}")
    return value
