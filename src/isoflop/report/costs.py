"""What the family cost: measured by model and in all, beside what the plan foresaw."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.report.metrics import Array
from isoflop.report.numbers import decimals_for, digits, scientific, size
from isoflop.report.run import Model

ENERGY_UNITS = {"Wh": 3600.0, "kWh": 3.6e6, "MWh": 3.6e9}


@dataclass(frozen=True)
class Cost:
    """Of one model or several. `share_of_peak` is the median over steps of the share of the measured matrix peak.

    `device_seconds` are those of all systems together, None in results of earlier versions.
    """

    name: str
    held_out: bool = False
    flops: float | None = None
    seconds: float | None = None
    device_seconds: float | None = None
    tokens_per_second: float | None = None
    share_of_peak: float | None = None
    joules: float | None = None
    joules_origin: str | None = None
    price: float | None = None


@dataclass(frozen=True)
class Costs:
    """`planned` is the plan's sum over all models, None without a plan; energies are shown in `energy_unit`."""

    rows: tuple[Cost, ...]
    total: Cost
    planned: Cost | None
    energy_unit: str

    @property
    def energy_decimals(self) -> int:
        return decimals_for((self.energy(row) for row in self.rows), 0)

    @property
    def price_decimals(self) -> int:
        return decimals_for((row.price for row in self.rows), 2)

    def energy(self, cost: Cost) -> float | None:
        """The cost's energy in `energy_unit`."""
        return None if cost.joules is None else cost.joules / ENERGY_UNITS[self.energy_unit]


def costs_of(models: Sequence[Model]) -> Costs | None:
    """The cost of the models that are done; None where none is."""
    rows = tuple(_cost(model) for model in models if model.result)
    if not rows:
        return None
    plans = [model.planned for model in models if model.planned]
    total = _sum(f"measured, {len(rows)} model{'s' * (len(rows) > 1)}", rows)
    planned = _sum(f"planned, {len(plans)} model{'s' * (len(plans) > 1)}", plans) if plans else None
    largest = max((row.joules or 0.0 for row in rows), default=0.0)
    unit = next((unit for unit, joules in ENERGY_UNITS.items() if largest < 1000 * joules), "MWh")
    return Costs(rows, total, planned, unit)


def machine_facts(machine: dict[str, Any]) -> list[tuple[str, str]]:
    """The plan's machine in words: a unit read off the key, nested tables left out."""
    facts = []
    for key, value in machine.items():
        if isinstance(value, dict | list) or value is None:
            continue
        label = key.replace("_", " ").replace("flops per second", "FLOP/s").replace(" bytes", "")
        text = str(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = size(value) if key.endswith("bytes") else _plain(float(value))
        facts.append((label, text))
    return facts


def _plain(value: float) -> str:
    if value.is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    return scientific(value) if abs(value) >= 1e6 else digits(value)


def _cost(model: Model) -> Cost:
    result, metrics = model.result, model.metrics
    assert result is not None
    return Cost(
        name=model.name,
        held_out=model.held_out,
        flops=result.flops,
        seconds=result.seconds,
        device_seconds=result.system_seconds,
        tokens_per_second=_median(metrics.tokens_per_second) if metrics else None,
        share_of_peak=_median(metrics.mfu) if metrics else None,
        joules=result.joules,
        joules_origin=result.joules_origin,
        price=result.price,
    )


def _median(column: Array) -> float | None:
    known = column[np.isfinite(column)]
    return float(np.median(known)) if len(known) else None


def _sum(name: str, parts: Sequence[Any]) -> Cost:
    """The sum; what one part does not know the sum does not know either."""
    return Cost(
        name,
        flops=_added(part.flops for part in parts),
        seconds=_added(part.seconds for part in parts),
        device_seconds=_added(getattr(part, "device_seconds", None) for part in parts),
        joules=_added(part.joules for part in parts),
        price=_added(part.price for part in parts),
    )


def _added(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
