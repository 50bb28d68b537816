"""What a quote is asked for: the fields of its form, which are also its address."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from isoflop.errors import InputError

By = Literal["file", "params", "flops", "hours", "kwh", "money", "loss"]
# What each way to size a family is called in the form, and the unit of its amount.
WAYS: dict[By, tuple[str, str]] = {
    "file": ("as the family file says", ""),
    "params": ("listed sizes", "parameters, a comma between"),
    "flops": ("compute", "FLOPs"),
    "hours": ("time", "hours"),
    "kwh": ("energy", "kWh"),
    "money": ("money", ""),
    "loss": ("a target loss", "nats/token"),
}
MOST_MODELS, MOST_SIZES, MOST_SYSTEMS = 20, 64, 65_536


@dataclass(frozen=True)
class Question:
    """Family file to begin with, and what is otherwise than it says. Empty fields say nothing.

    `amount` belongs to `by`, `sizes` to "params"; `law` names what foretells, "" for the nearest there is.
    """

    family: str = "pocket"
    name: str = ""
    corpus: str = ""
    by: By = "file"
    amount: float | None = None
    sizes: str = ""
    count: int = 5
    ratio: float | None = None
    systems: int | None = None
    execution: Literal["", "resident", "streamed"] = ""
    watts: float | None = None
    price: float | None = None
    law: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields that say something."""
        begin = asdict(Question())
        return {key: value for key, value in asdict(self).items() if value != begin[key]}

    def query(self, **changes: Any) -> str:
        """The address of the question, after its `?`; `changes` are made in it."""
        said = {**self.to_json(), **changes}
        return urlencode({key: _plain(value) for key, value in said.items() if value not in (None, "")})


def parse_question(given: Mapping[str, str]) -> Question:
    """The question that a form or an address asks; other fields are left alone.

    Raises:
        InputError: a field cannot be what it says; named.
    """
    said = {field.name: given[field.name].strip() for field in fields(Question) if given.get(field.name, "").strip()}
    for name, text in said.items():
        if len(text) > 2000:
            raise InputError(f"{name}: longer than 2,000 characters; shorten it")
    by, execution = said.get("by", "file"), said.get("execution", "")
    if by not in get_args(By):
        raise InputError(f"by = {by[:40]!r}: use {', '.join(get_args(By))}")
    if execution not in ("", "resident", "streamed"):
        raise InputError(f"execution = {execution[:40]!r}: use resident or streamed")
    question = Question(
        family=said.get("family", "pocket"),
        name=said.get("name", ""),
        corpus=said.get("corpus", ""),
        by=by,  # type: ignore[arg-type]
        amount=_number(said, "amount", 0.0, 1e30),
        sizes=said.get("sizes", ""),
        count=round(_number(said, "count", 1, MOST_MODELS, whole=True) or 5),
        ratio=_number(said, "ratio", 0.0, 1e6),
        systems=_whole(said, "systems", MOST_SYSTEMS),
        execution=execution,  # type: ignore[arg-type]
        watts=_number(said, "watts", 0.0, 1e7),
        price=_number(said, "price", 0.0, 1e7),
        law=said.get("law", ""),
    )
    if question.by == "params" and not question.sizes:
        raise InputError("sizes: list the parameters wanted, as in 100e3, 200e3, 400e3")
    if question.by not in ("file", "params") and question.amount is None:
        name, unit = WAYS[question.by]
        raise InputError(f"amount: say how much {name} there is{f', in {unit}' if unit else ''}")
    return question


def listed_sizes(text: str) -> list[int]:
    """
    Raises:
        InputError: a size is no number or listed twice, or they are too many.
    """
    found = []
    for word in text.replace(";", ",").split(","):
        if not word.strip():
            continue
        try:
            value = float(word.strip().lower().replace("k", "e3").replace("m", "e6").replace("b", "e9"))
        except ValueError:
            value = math.nan
        if not 10_000 <= value <= 1e13:
            raise InputError(f"sizes: {word.strip()[:40]!r} is no size; give parameters from 10k on, as in 300k or 2e6")
        found.append(round(value))
    if not found:
        raise InputError("sizes: list the parameters wanted, as in 100e3, 200e3, 400e3")
    if len(found) > MOST_SIZES:
        raise InputError(f"sizes: {len(found)} are listed; a quote has at most {MOST_SIZES}, use isoflop plan for more")
    twice = next((size for size in found if found.count(size) > 1), None)
    if twice is not None:
        raise InputError(f"sizes: {twice:,} is listed twice; list each once")
    return found


def _number(said: Mapping[str, str], key: str, low: float, high: float, whole: bool = False) -> float | None:
    text = said.get(key)
    if text is None:
        return None
    try:
        value = float(text.replace(",", "").replace("\N{NO-BREAK SPACE}", ""))
    except ValueError:
        value = math.nan
    if not low < value <= high or (whole and value != round(value)):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{key} = {text[:40]!r}: give {kind} above {low:g}, at most {high:g}")
    return value


def _whole(said: Mapping[str, str], key: str, high: int) -> int | None:
    value = _number(said, key, 0, high, whole=True)
    return None if value is None else round(value)


def _plain(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
