"""The order of samples: a permutation an epoch, uniform, without state, and never changed by accident."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isoflop.data import sample_ids

WORD = 2**64 - 1


def splitmix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def slow_sample_id(position: int, n_samples: int, seed: int) -> int:
    """The same order, one number at a time in Python's integers."""
    epoch, number = divmod(position, n_samples)
    bits = max(6, (n_samples - 1).bit_length())
    low_bits, high_bits = bits // 2, bits - bits // 2
    keys = [splitmix(splitmix(splitmix(seed) ^ epoch) ^ turn) for turn in range(8)]
    while True:
        low, high = number % 2**low_bits, number >> low_bits
        for turn in range(0, 8, 2):
            low ^= splitmix(high ^ keys[turn]) % 2**low_bits
            high ^= splitmix(low ^ keys[turn + 1]) % 2**high_bits
        number = high << low_bits | low
        if number < n_samples:
            return number


@given(
    first=st.integers(0, 2**40),
    n_samples=st.one_of(st.integers(1, 100), st.integers(1, 2**36)),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60)
def test_the_fast_order_is_the_slow_one(first: int, n_samples: int, seed: int) -> None:
    expected = [slow_sample_id(first + step, n_samples, seed) for step in range(5)]
    assert sample_ids(first, 5, n_samples, seed).tolist() == expected


@pytest.mark.parametrize("n_samples", [1, 2, 3, 5, 63, 64, 65, 1000, 4096, 51661])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_epoch_reads_every_sample_once(n_samples: int, epoch: int) -> None:
    ids = sample_ids(epoch * n_samples, n_samples, n_samples, seed=3)
    assert np.array_equal(np.sort(ids), np.arange(n_samples))


def test_epochs_and_seeds_differ() -> None:
    n = 2000
    orders = [sample_ids(epoch * n, n, n, seed) for epoch in range(4) for seed in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.005


def test_any_slice_is_the_slice_of_the_whole() -> None:
    n = 777
    whole = sample_ids(0, 5 * n, n, seed=11)
    for first, count in [(0, 1), (n - 3, 6), (2 * n + 5, n), (4 * n, n), (17, 0)]:
        assert np.array_equal(sample_ids(first, count, n, seed=11), whole[first : first + count])


def test_each_sample_is_as_likely_at_each_position() -> None:
    """Chi-square over many epochs, then over many seeds, for sizes below, at and above powers of two."""
    by_epoch = [(n, sample_ids(0, n * 8000, n, seed=1).reshape(8000, n)) for n in (2, 3, 5, 16, 37, 65)]
    by_seed = (11, np.stack([sample_ids(0, 11, 11, seed) for seed in range(1500)]))
    for n, orders in [*by_epoch, by_seed]:  # orders: (epochs or seeds, n)
        table = np.stack([np.bincount(column, minlength=n) for column in orders.T])
        expected = len(orders) / n
        # Rows and columns sum to the number of orders: (n - 1)**2 degrees of freedom.
        statistic = ((table - expected) ** 2 / expected).sum()
        assert 1e-4 < stats.chi2.sf(statistic, (n - 1) ** 2) < 1 - 1e-4, n


def test_each_pair_of_neighbours_is_equally_likely() -> None:
    n = 12
    orders = sample_ids(0, n * 30_000, n, seed=4).reshape(-1, n)
    pairs = np.bincount(orders[:, 0] * n + orders[:, 1], minlength=n * n).reshape(n, n)
    assert np.all(np.diag(pairs) == 0)
    counts = pairs[~np.eye(n, dtype=bool)]
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


def test_neighbours_in_time_are_unrelated() -> None:
    n = 100_003
    ids = sample_ids(0, n, n, seed=5).astype(float)
    bound = 4.5 / np.sqrt(n)  # 4.5 standard deviations of a correlation of independent numbers
    for lag in (1, 2, 16, 1024):
        assert abs(np.corrcoef(ids[:-lag], ids[lag:])[0, 1]) < bound
    assert abs(np.corrcoef(np.arange(n), ids)[0, 1]) < bound
    next_epoch = sample_ids(n, n, n, seed=5).astype(float)
    assert abs(np.corrcoef(ids, next_epoch)[0, 1]) < bound


def test_every_stretch_of_an_epoch_draws_from_the_whole_corpus() -> None:
    n, parts = 65_000, 20
    ids = sample_ids(0, n, n, seed=9)
    table = np.histogram2d(np.arange(n), ids, bins=parts, range=[[0, n], [0, n]])[0]
    expected = n / parts**2
    assert stats.chi2.sf(((table - expected) ** 2 / expected).sum(), (parts - 1) ** 2) > 1e-4


def test_the_order_never_changes_by_accident() -> None:
    """Golden values: a change here makes every earlier run impossible to resume or repeat."""
    assert sample_ids(0, 8, 1000, 0).tolist() == GOLDEN[0]
    assert sample_ids(998, 4, 1000, 0).tolist() == GOLDEN[1]
    assert sample_ids(10**12, 4, 181_000_000, 2**31 - 1).tolist() == GOLDEN[2]


GOLDEN = [
    [52, 247, 336, 547, 237, 361, 577, 975],
    [555, 12, 331, 373],
    [170483510, 131567497, 48466999, 78989264],
]


def test_no_permutation_is_held_in_memory() -> None:
    n = 2**40  # as int64 it would take 8 TiB
    tracemalloc.start()
    ids = sample_ids(3 * n - 500, 1000, n, seed=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert len(np.unique(ids[:500])) == len(np.unique(ids[500:])) == 500


def test_systems_that_share_a_step_read_what_one_would() -> None:
    """Each takes its part of the positions; together they are the step, across an epoch's end too."""
    n_samples = 12_345
    first, sequences = 2 * n_samples - 37, 96
    whole = sample_ids(first, sequences, n_samples, seed=5)
    for systems in (1, 2, 3, 4, 8, 32):
        part = sequences // systems
        parts = [sample_ids(first + rank * part, part, n_samples, seed=5) for rank in range(systems)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_impossible_questions_are_refused() -> None:
    for arguments in [(0, 1, 0, 0), (-1, 1, 10, 0), (0, -1, 10, 0), (0, 1, 10, -1)]:
        with pytest.raises(ValueError, match="no order for"):
            sample_ids(*arguments)
