"""Numbers in the terminal have the digits that make sense."""

from isoflop.cli import numbers


def test_durations_have_two_units_and_long_ones_no_more_digits_than_they_are_worth() -> None:
    day = 86_400
    told = [numbers.duration(one) for one in (0, 0.25, 80, 3 * day + 7200, 271.6 * day, 1379 * day, 2_894_864.6 * day)]
    assert told == ["0 s", "0.2 s", "1 min 20 s", "3 d 2 h", "272 d", "3.78 years", "7,930 years"]
