"""Published hardware as the formulas take it, and hardware of round numbers."""

from collections.abc import Callable

import pytest

from isoflop.pipeline.scaling import published_kind
from isoflop.published import published_hardware
from isoflop.recipe.hardware import Hardware, Wire


@pytest.fixture(scope="session")
def hardware() -> Callable[[str], Hardware]:
    """The published kind of that name."""
    kinds = {row.name: row for row in published_hardware()}
    return lambda name: published_kind(kinds[name])


@pytest.fixture
def round_numbers() -> Hardware:
    """A device of 100 TFLOP/s whose memory and store cost nothing, on a link of 25 and a network of 10 GB/s."""
    wire = Wire(10e9, 0.0)
    return Hardware("round", 200e12, 100e12, 80e9, None, 25e9, None, 1, wire, wire, "made up")
