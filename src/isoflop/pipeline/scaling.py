"""What more systems would bring: a model of the plan on N of them, foretold for this machine and for published ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from isoflop.errors import InputError
from isoflop.published import PublishedHardware, PublishedRecipe, published_hardware, read_hardware
from isoflop.recipe import Machine, ModelPlan, Plan
from isoflop.recipe.hardware import Hardware, Wire
from isoflop.recipe.layouts import Layout, best_layout, sharded_layout
from isoflop.recipe.plan import expected_share
from isoflop.recipe.scaling import Foretold, Work, resident, streamed
from isoflop.recipe.shape import Shape

# Each is a line of the table, and the best of many layouts: some hundredths of a second.
MOST_NUMBERS = 256
MOST_SYSTEMS = 65_536
# Machines that measure themselves know nothing of the wires between them.
ASSUMED_WIRES = "ethernet-10g"
SHOWN_GPU = "h100-80gb"


@dataclass(frozen=True)
class Row:
    """One number of systems that go one way; `foretold` is None where no layout fits the devices."""

    systems: int
    way: str
    layout: Layout | None
    foretold: Foretold | None

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return {
            "systems": self.systems,
            "way": self.way,
            "layout": None if self.layout is None else self.layout.to_json(),
            "foretold": None if self.foretold is None else self.foretold.to_json(),
        }


@dataclass(frozen=True)
class Scaling:
    """One model, trained on `tokens`, on growing numbers of one kind of system."""

    model: str
    tokens: int
    work: Work
    hardware: Hardware
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The table as a JSON object."""
        return {
            "model": self.model,
            "params": self.work.shape.params,
            "tokens": self.tokens,
            "batch_sequences": self.work.batch_sequences,
            "microbatches": self.work.batch_sequences // self.work.microbatch_sequences,
            "hardware": self.hardware.to_json(),
            "rows": [row.to_json() for row in self.rows],
        }


def parse_systems(text: str) -> list[int]:
    """Numbers of systems: "4", "1,2,4", or a row to be continued as it began: "1,2,4,...,1024".

    Raises:
        InputError: it says something else.
    """
    parts = [part.strip() for part in text.split(",")]
    given = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts if part != "..."]
    rising = all(a < b for a, b in pairwise(given))
    if not (given and rising and given[0] >= 1 and given[-1] <= MOST_SYSTEMS):
        raise InputError(
            f"--systems {text}: give a number or rising numbers up to {MOST_SYSTEMS:,}, as in 4 or 1,2,4,...,1024"
        )
    if "..." not in parts:
        if len(given) > MOST_NUMBERS:
            raise InputError(f"--systems: {len(given):,} numbers; at most {MOST_NUMBERS} are foretold")
        return given
    dots = parts.index("...")
    if parts.count("...") > 1 or dots < 2 or dots != len(parts) - 2:
        raise InputError(f"--systems {text}: put ... between two numbers and the last, as in 1,2,4,...,1024")
    *begun, last = given
    step, factor = begun[-1] - begun[-2], begun[-1] / begun[-2]
    doubling = begun[-1] % begun[-2] == 0 and (len(begun) == 2 or begun[-2] * begun[-2] == begun[-1] * begun[-3])
    while begun[-1] < last:
        begun.append(round(begun[-1] * factor) if doubling else begun[-1] + step)
    if len(begun) > MOST_NUMBERS:
        raise InputError(f"--systems {text}: {len(begun):,} numbers; at most {MOST_NUMBERS} are foretold, as 1,2,4,...")
    if begun[-1] != last:
        raise InputError(f"--systems {text}: {last} is no number of the row {', '.join(map(str, begun[:-1]))}")
    return begun


def foretell_scaling(
    plan: Plan, systems: Sequence[int], model: str | None = None, hardware: str | None = None
) -> list[Scaling]:
    """The plan's largest model, or the one named, on each number of systems.

    Without `hardware`: this machine's like, and a GPU. Otherwise the published kind so named, or those of a CSV file.

    Raises:
        InputError: there is no such model or hardware.
    """
    chosen = _model(plan, model)
    kinds = _kinds(hardware)
    if hardware is not None:
        return [_scaling(chosen, kind, systems, layouts=True) for kind in kinds]
    published = {kind.name: kind for kind in published_hardware()}
    ours = this_machine(plan.machine, chosen, published[ASSUMED_WIRES])
    return [
        _scaling(chosen, ours, systems, layouts=False, at_once=plan.machine.cores),
        _scaling(chosen, published_kind(published[SHOWN_GPU]), systems, layouts=True),
    ]


def foretell_published(recipe: PublishedRecipe, hardware: str, systems: Sequence[int]) -> Scaling:
    """A published model on each number of systems of a published kind, a sequence at a time as its authors' batch."""
    shape = Shape(recipe.n_layers, recipe.d_model, recipe.n_heads, recipe.vocab_size, recipe.context_length)
    work = Work(shape, recipe.batch_schedule[-1][1], 1, recipe.precision)
    kind = next(published_kind(row) for row in published_hardware() if row.name == hardware)
    return _table(f"{recipe.family} {recipe.model}", recipe.tokens, work, kind, systems, layouts=True)


def this_machine(machine: Machine, model: ModelPlan, wires: PublishedHardware) -> Hardware:
    """Systems that are machines like this one: its measured rate, the share of it that the plan expects, `wires`."""
    peak = machine.matrix_flops_per_second(model.precision)
    return Hardware(
        name="this machine",
        peak_flops_per_second=peak,
        flops_per_second=expected_share(model.shape) * peak,
        memory_bytes=machine.memory_bytes,
        memory_bytes_per_second=None,
        link_bytes_per_second=None,
        store_bytes_per_second=None,
        devices_per_node=wires.devices_per_node,
        node=Wire(wires.node_bytes_per_second, wires.node_latency_seconds),
        network=Wire(wires.network_bytes_per_second, wires.network_latency_seconds),
        source=f"{machine.processor}, measured {machine.measured}; wires: {wires.name}, {wires.source}",
    )


def published_kind(row: PublishedHardware) -> Hardware:
    """The row as the formulas take it.

    Raises:
        InputError: it describes wires only.
    """
    if row.peak_flops_per_second is None or row.flops_per_second is None or row.memory_bytes is None:
        raise InputError(f"--hardware {row.name}: has no rate or memory of its own; name a row that has both")
    return Hardware(
        name=row.name,
        peak_flops_per_second=row.peak_flops_per_second,
        flops_per_second=row.flops_per_second,
        memory_bytes=row.memory_bytes,
        memory_bytes_per_second=row.memory_bytes_per_second,
        link_bytes_per_second=row.link_bytes_per_second,
        store_bytes_per_second=row.store_bytes_per_second,
        devices_per_node=row.devices_per_node,
        node=Wire(row.node_bytes_per_second, row.node_latency_seconds),
        network=Wire(row.network_bytes_per_second, row.network_latency_seconds),
        source=row.source,
    )


def _kinds(hardware: str | None) -> list[Hardware]:
    if hardware is None:
        return []
    if hardware.endswith(".csv"):
        return [published_kind(row) for row in read_hardware(Path(hardware))]
    known = {row.name: row for row in published_hardware() if row.memory_bytes is not None}
    if hardware not in known:
        raise InputError(f"--hardware {hardware}: not known; use {', '.join(known)}, or a CSV file of your own")
    return [published_kind(known[hardware])]


def _model(plan: Plan, name: str | None) -> ModelPlan:
    if name is None:
        return plan.models[-1]
    for model in plan.models:
        if model.name == name:
            return model
    names = ", ".join(model.name for model in plan.models)
    raise InputError(f"--model {name}: no such model in family {plan.family}; use one of {names}")


def _scaling(model: ModelPlan, hardware: Hardware, systems: Sequence[int], layouts: bool, at_once: int = 1) -> Scaling:
    work = Work(
        model.shape,
        model.batch_sequences,
        model.microbatch_sequences,
        model.precision,
        model.reproducible,
        microbatches_at_once=min(at_once, model.batch_sequences // model.microbatch_sequences),
    )
    return _table(model.name, model.tokens, work, hardware, systems, layouts)


def _table(name: str, tokens: int, work: Work, hardware: Hardware, systems: Sequence[int], layouts: bool) -> Scaling:
    rows = []
    for number in systems:
        rows.append(Row(number, "resident", None, resident(work, number, hardware)))
        rows.append(Row(number, "streamed", None, streamed(work, number, hardware)))
        if layouts:
            for way, found in (
                ("ZeRO-3", sharded_layout(work, number, hardware)),
                ("3D", best_layout(work, number, hardware)),
            ):
                rows.append(Row(number, way, *(found or (None, None))))
    return Scaling(name, tokens, work, hardware, tuple(rows))
