"""The Markdown table of benchmarks/results/streaming.json that docs/streaming.md shows: `streaming.py --show`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoflop.recipe import Shape
from isoflop.recipe.footprint import streamed_footprint
from isoflop.recipe.streaming import Cut

RESULTS = Path(__file__).parent / "results" / "streaming.json"
GIB = 2**30


def table() -> str:
    """All cases. What is foretold is what the code says now, which may be more than it said when they were measured."""
    lines = ["| model, tokens a step | rounds | | tokens/s | streamed x | memory | foretold | promise |"]
    lines.append("| --- " * 8 + "|")
    for key, row in json.loads(RESULTS.read_text())["cases"].items():
        lines += _rows(key, row)
    return "\n".join(lines) + "\n"


def foretold_bytes(row: dict[str, Any]) -> int:
    """Of the streamed process of a case, by the plan."""
    shape, cut = Shape(**row["shape"]), Cut(**row["cut"])
    found = streamed_footprint(shape, "bf16", True, cut, "disk", row["cores"], 1, "cpu")
    return found.device_bytes + found.host_bytes


def _rows(key: str, row: dict[str, Any]) -> Iterator[str]:
    sequences = row["cut"]["microbatches"] * row["cut"]["sequences"]
    quiet = sum(not one.get("busy") for one in row["rounds"])
    what = [f"{key}, {sequences} x {row['shape']['context_length']:,}", str(quiet)]
    for name, one in row["runners"].items():
        memory = one["peak_anonymous_bytes"]
        times = foretold = promise = ""
        if name == "streamed":
            by_plan = foretold_bytes(row)
            foretold = f"{by_plan / 1e9:.2f} GB ({memory / by_plan:.2f})"
            if row["promise_bytes"]:
                promise = f"{row['promise_bytes'] / GIB:g} GiB, {'kept' if row['promise_kept'] else 'broken'}"
        elif one["streamed_times"] is not None:
            times = f"{one['streamed_times']:.2f}"
        speed = f"{one['tokens_per_second']:,.0f}" if one["tokens_per_second"] else ""
        cells = [*what, name, speed, times, f"{memory / 1e9:.2f} GB", foretold, promise]
        yield "| " + " | ".join(cells) + " |"
        what = ["", ""]
