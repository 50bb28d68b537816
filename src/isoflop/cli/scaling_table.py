"""What `isoflop plan --systems 1,2,4` prints below the plan."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoflop.cli import numbers as n
from isoflop.cli.table import print_table

if TYPE_CHECKING:
    from isoflop.pipeline.scaling import Row, Scaling
    from isoflop.recipe.hardware import Hardware


def print_scaling(tables: Sequence["Scaling"]) -> None:
    """A table for each kind of system, then what its words mean."""
    for scaling in tables:
        hardware, work = scaling.hardware, scaling.work
        rate = n.digits(hardware.flops_per_second / 1e12)
        print(f"\n{scaling.model} on N x {hardware.name}: {rate} TFLOP/s in training, {n.size(hardware.memory_bytes)},")
        print(_wires(hardware))
        numbers = [row.systems for row in scaling.rows]
        repeated = [number == before for number, before in zip(numbers, [0, *numbers], strict=False)]
        print_table(
            [_first("N", "way", "layout"), "memory", "sent", "bubble", "wait", "step", "tokens/s", "linear", "peak"],
            [_cells(row, again) for row, again in zip(scaling.rows, repeated, strict=True)],
        )
        microbatches = work.batch_sequences // work.microbatch_sequences
        if numbers[-1] > microbatches:
            print(f"a step has {microbatches:,} microbatches: more systems than that wait when resident or streamed")
    print(
        "\nmemory: of a device, ! more than it has; sent: by a device in a step; wait: for wires, not hidden"
        "\nby computing; linear: tokens/s over N times one system's; peak: model FLOPs over the hardware's"
        "\nresident, streamed: isoflop, data parallel; ZeRO-3: states sharded; 3D: the fastest of tensor x"
        "\npipeline x data that fits, microbatches of b sequences; again: layers are computed again backward"
        "\n(docs/systems.md)"
    )


def _cells(row: "Row", again: bool) -> list[str]:
    number = "" if again else f"{row.systems:,}"
    one, layout = row.foretold, row.layout
    if one is None:
        return [_first(number, row.way, "none fits"), *[n.MISSING] * 8]
    shown = ""
    if layout is not None:
        devices = f"{layout.tensor}x{layout.pipeline}x{layout.data} " if row.way == "3D" else ""
        shown = f"{devices}b{layout.microbatch_sequences}{' again' * layout.recompute}"
    return [
        _first(number, row.way, shown),
        n.size(one.memory_bytes) + " !" * (not one.fits),
        n.size(one.sent_bytes) if one.sent_bytes else n.MISSING,
        n.percent(one.bubble_seconds / one.step_seconds) if one.bubble_seconds else n.MISSING,
        n.percent(one.communication_seconds / one.step_seconds),
        _seconds(one.step_seconds),
        n.count(one.tokens_per_second),
        n.percent(one.of_linear),
        n.percent(one.of_peak),
    ]


def _first(number: str, way: str, layout: str) -> str:
    """The first column, which is text."""
    return f"{number:>6}  {way:<8}  {layout}"


def _seconds(seconds: float) -> str:
    unit, scale = next(one for one in (("s", 1.0), ("ms", 1e-3), ("us", 0.0)) if seconds >= one[1])
    return f"{n.digits(seconds / (scale or 1e-6))} {unit}"


def _wires(hardware: "Hardware") -> str:
    network = f"network {n.digits(hardware.network.bytes_per_second / 1e9)} GB/s"
    if hardware.devices_per_node == 1:
        return f"{network}, {n.digits(hardware.network.latency_seconds * 1e6)} us"
    return f"{hardware.devices_per_node} a node at {n.digits(hardware.node.bytes_per_second / 1e9)} GB/s, {network}"
