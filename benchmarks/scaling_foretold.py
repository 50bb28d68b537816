"""What the formulas say to what scaling.py measured: uv run python benchmarks/scaling_foretold.py [RESULTS.json]

Two workers of one core each on one machine. Their rate is what one of them measured alone; their wire comes from the
exchanges of plain fp32 sums of the smallest and the largest shape. Foretold is what a second system brings with 64-bit
sums, and the share of the exchange.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.recipe import Shape, training_flops
from isoflop.recipe.hardware import Hardware, Wire, shared
from isoflop.recipe.scaling import MASTER_BYTES, PLAIN_SUM_BYTES, Work, resident

RESULTS = Path(__file__).parent / "results" / "scaling.json"


@dataclass(frozen=True)
class Foretold:
    """A shape's second system: tokens/s of two over one's, measured and foretold; and the share of the exchange."""

    shape: str
    measured: float
    foretold: float
    exchange_measured: float
    exchange_foretold: float

    @property
    def error(self) -> float:
        """Of the step time of two."""
        return self.measured / self.foretold - 1


def foretell(document: dict[str, Any], shapes: dict[str, Shape]) -> Iterator[Foretold]:
    """A `Foretold` for each row of the results."""
    wire = wire_of(document)
    for row in document["rows"]:
        shape, tokens = shapes[row["shape"]], row["tokens_a_system_and_step"]
        rate = training_flops(shape).model * row["one"]["tokens_per_second"]
        kind = Hardware("a core", rate, rate, 1e12, None, None, None, 1, wire, wire, "benchmarks/scaling.py")
        two = resident(Work(shape, 2 * tokens // shape.context_length, 1), 2, kind)
        yield Foretold(
            row["shape"],
            row["two_against_one"],
            2 * two.of_linear,
            row["two"]["exchange_share"],
            two.communication_seconds / two.step_seconds,
        )


def wire_of(document: dict[str, Any]) -> Wire:
    """The wire between the two: a reduce-scatter and an all-gather are two latencies and (4 + 4) P / 2 bytes."""
    small, large = (
        (shared((PLAIN_SUM_BYTES + MASTER_BYTES) * row["params"], 2), _exchange_seconds(row, "two, fp32 sums"))
        for row in (
            min(document["rows"], key=lambda row: row["params"]),
            max(document["rows"], key=lambda row: row["params"]),
        )
    )
    bytes_per_second = (large[0] - small[0]) / (large[1] - small[1])
    return Wire(bytes_per_second, max(0.0, small[1] - small[0] / bytes_per_second) / 2)


def _exchange_seconds(row: dict[str, Any], kind: str) -> float:
    step = 2 * row["tokens_a_system_and_step"] / row[kind]["tokens_per_second"]
    return float(row[kind]["exchange_share"] * step)


def main() -> None:
    """Prints measured and foretold."""
    from scaling import SHAPES

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("results", type=Path, nargs="?", default=RESULTS)
    document = json.loads(arguments.parse_args().results.read_text())
    wire = wire_of(document)
    print(f"wire: {wire.bytes_per_second / 1e9:.2f} GB/s, {1e6 * wire.latency_seconds:.0f} us")
    for one in foretell(document, {name: shape for name, (shape, _, _) in SHAPES.items()}):
        print(
            f"{one.shape}: two bring {one.measured:.3f}, foretold {one.foretold:.3f} ({100 * one.error:+.1f} %); "
            f"exchange {100 * one.exchange_measured:.1f} % of the step, foretold {100 * one.exchange_foretold:.1f} %"
        )


if __name__ == "__main__":
    main()
