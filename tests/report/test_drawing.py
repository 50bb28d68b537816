"""Axes with round ticks inside their range, whatever the range."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.report.drawing import Axis, padded


@given(low=st.floats(1e-3, 1e20), ratio=st.floats(1.01, 1e12), most=st.integers(2, 10), log=st.booleans())
def test_ticks_are_inside_in_order_and_about_as_many_as_asked(low: float, ratio: float, most: int, log: bool) -> None:
    axis = Axis(low, low * ratio, 50, 850, log, "x")
    ticks = axis.ticks(most, lambda v: f"{v:.12g}")
    labelled = [tick for tick in ticks if tick.label]
    assert 1 <= len(labelled) <= 2 * most + 2
    assert all(50 - 0.1 <= tick.at <= 850 + 0.1 for tick in ticks)
    assert all(a.at < b.at for a, b in pairwise(ticks))
    for tick in labelled:
        assert float(axis.at(float(tick.label))) == pytest.approx(tick.at, abs=0.01)


def test_labels_of_one_axis_have_the_same_decimals() -> None:
    ticks = Axis(3.245, 3.385, 0, 100, False, "x").ticks(9, lambda v: f"{v:.4g}")
    assert [tick.label for tick in ticks] == ["3.26", "3.28", "3.30", "3.32", "3.34", "3.36", "3.38"]


@given(value=st.floats(1e-6, 1e30), log=st.booleans())
def test_one_value_still_has_a_range(value: float, log: bool) -> None:
    low, high = padded([value], 0.05, log=log)
    assert low < value < high
