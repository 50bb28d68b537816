"""Numbers as people read them."""

import pytest

from isoflop.report import numbers


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, numbers.MISSING),
        (0, "0"),
        (999, "999"),
        (66_112, "66.1k"),
        (999_949, "1.00M"),
        (9.18e6, "9.18M"),
        (1.3e9, "1.30B"),
        (20e12, "20.0T"),
        (3e15, "3.00e15"),
    ],
)
def test_counts_have_three_digits_and_a_suffix(value: float | None, told: str) -> None:
    assert numbers.count(value) == told


def test_large_numbers_are_powers_of_ten() -> None:
    assert numbers.scientific(4.1e15) == "4.10e15"
    assert numbers.power_of_ten(1e15) == "10¹⁵"
    assert numbers.power_of_ten(2e-3) == "2 × 10⁻³"  # noqa: RUF001


def test_ticks_are_short_but_never_lose_their_zeros() -> None:
    assert [numbers.short_count(v) for v in (100, 1e4, 2.5e6, 1e7, 2e8)] == ["100", "10k", "2.5M", "10M", "200M"]


def test_times_and_sizes_carry_over() -> None:
    assert numbers.duration(3599.7) == "1:00:00"
    assert numbers.in_words(3599.7) == "1\N{NO-BREAK SPACE}h"
    assert numbers.in_words(61) == "1\N{NO-BREAK SPACE}min 1\N{NO-BREAK SPACE}s"
    assert numbers.in_words(271.4 * 86_400) == "271\N{NO-BREAK SPACE}d"
    assert numbers.in_words(2_894_864.6 * 86_400) == "7,930\N{NO-BREAK SPACE}years"
    assert numbers.size(30_900_000) == "30.9\N{NO-BREAK SPACE}MB"


def test_a_column_shows_two_digits_of_its_smallest_number() -> None:
    assert numbers.decimals_for([0.0031, 0.2, None, 0.0], least=2) == 4
    assert numbers.decimals_for([31.0, 1200.0], least=2) == 2
    assert numbers.decimals_for([], least=2) == 2


def test_a_moment_is_told_in_utc() -> None:
    assert numbers.moment("2026-11-24T10:12:03+01:00") == "2026-11-24 09:12:03 UTC"
    assert numbers.moment(0.0) == "1970-01-01 00:00:00 UTC"
    assert numbers.moment("noon <b>") == "noon <b>"


def test_equations_are_raised_and_escaped() -> None:
    told = numbers.equation("L(C) = (C / 1.19e+20)^-0.08 + <script>")
    assert "1.19\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10<sup>20</sup>)<sup>\N{MINUS SIGN}0.08</sup>" in told  # noqa: RUF001
    assert "&lt;script&gt;" in told
    assert numbers.equation("L(C) = 86 / (1 + (C / 2.8)^0.08)").endswith("(C / 2.8)<sup>0.08</sup>)")
