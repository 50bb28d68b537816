"""Axes with round ticks inside their range, and paths from which the data can be read again."""

import re
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isoflop.report.drawing import Drawing, Line, Mark, Panel, Words
from isoflop.report.placing import path, place
from isoflop.report.scale import Scale, padded


@given(low=st.floats(1e-3, 1e20), ratio=st.floats(1.01, 1e12), most=st.integers(2, 10), log=st.booleans())
def test_ticks_are_inside_in_order_and_about_as_many_as_asked(low: float, ratio: float, most: int, log: bool) -> None:
    scale = Scale(low, low * ratio, log, "x")
    ticks = scale.ticks(most)
    labelled = [tick for tick in ticks if tick.label]
    assert 1 <= len(labelled) <= 2 * most + 4
    assert all(low * (1 - 1e-9) <= tick.at <= low * ratio * (1 + 1e-9) for tick in ticks)
    assert all(a.at < b.at for a, b in pairwise(ticks))


def test_labels_of_one_axis_have_the_same_decimals() -> None:
    ticks = Scale(3.245, 3.385, False, "x").ticks(9)
    assert [tick.label for tick in ticks] == ["3.26", "3.28", "3.30", "3.32", "3.34", "3.36", "3.38"]


def test_numbers_of_systems_have_powers_of_two() -> None:
    ticks = Scale(0.8, 1100, True, "systems", base=2).ticks(6)
    assert [tick.label for tick in ticks if tick.label] == ["1", "4", "16", "64", "256", "1024"]


@given(value=st.floats(1e-6, 1e30), log=st.booleans())
def test_one_value_still_has_a_range(value: float, log: bool) -> None:
    low, high = padded([value], 0.05, log=log)
    assert low < value < high


@given(st.lists(st.tuples(st.floats(-4e3, 4e3), st.floats(-4e3, 4e3)), min_size=1, max_size=200))
def test_every_point_of_a_path_can_be_read_again_to_a_hundredth_of_a_pixel(
    points: list[tuple[float, float]],
) -> None:
    x, y = (np.array(column) for column in zip(*points, strict=True))
    steps = np.array([float(one) for one in re.split("[Mlz ]+", path(x, y)) if one]).reshape(-1, 2)
    assert np.abs(np.cumsum(steps, axis=0) - np.stack([x, y], axis=1)).max() <= 0.0051


def test_words_that_would_lie_on_others_are_left_out_and_those_at_the_edge_turn_inward() -> None:
    scale = Scale(0, 10, False, "")
    words = (Words(5, 5, "first"), Words(5.05, 5, "second"), Words(9.9, 5, "at the edge"))
    line, mark = Line(np.array([0.0, 10.0]), np.array([0.0, 10.0]), "law"), Mark(5, 5, "dot", "s0", "here")
    (panel,) = place(Drawing("d", "", "", (Panel(scale, scale, (line,), (mark,), words),), 400, 300))
    assert [shown for *_, shown in panel.words] == ["start", "start off", "end"]
    ((_, x, y, _),) = panel.marks
    assert (x, y) == ((panel.left + panel.right) / 2, (panel.top + panel.bottom) / 2)
