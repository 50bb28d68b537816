"""The order in which training reads samples: a pure function of (seed, position), with nothing to store or to resume.

Position p of the run lies in epoch e = p // n_samples; within it, a keyed permutation of range(n_samples) for (seed, e)
says which sample is read. The permutation is a Feistel network (Luby and Rackoff 1988) on the smallest number of bits
that holds n_samples, with cycle walking (Black and Rogaway 2002) to stay below n_samples. Its round function is the
output function of SplitMix64 (Steele, Lea and Flood 2014). All of it is integer arithmetic: equal on every machine.
"""

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[np.uint64]

_ROUNDS = 8
_FEWEST_BITS = 6  # a network on one or two bits reaches only a few permutations; walking from 64 costs nothing
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_ids(first: int, count: int, n_samples: int, seed: int) -> npt.NDArray[np.int64]:
    """The samples at global positions first .. first + count - 1, each in range(n_samples).

    Any `n_samples` consecutive positions that start at a multiple of `n_samples` hold every sample once.

    Raises:
        ValueError: `n_samples` is below 1, or another argument is negative.
    """
    if n_samples < 1 or min(first, count, seed) < 0:
        raise ValueError(f"no order for first={first}, count={count}, n_samples={n_samples}, seed={seed}")
    positions = np.arange(first, first + count, dtype=np.uint64)
    keys = _round_keys(positions // np.uint64(n_samples), seed)  # (rounds, count)
    ids = positions % np.uint64(n_samples)
    if n_samples == 1:
        return ids.astype(np.int64)
    bits = max(_FEWEST_BITS, (n_samples - 1).bit_length())
    ids = _encrypt(ids, keys, bits)
    outside = np.flatnonzero(ids >= n_samples)
    while outside.size:
        ids[outside] = _encrypt(ids[outside], keys[:, outside], bits)
        outside = outside[ids[outside] >= n_samples]
    return ids.astype(np.int64)


def _round_keys(epochs: _Words, seed: int) -> _Words:
    """A key for each round and position, (rounds, count)."""
    epoch_keys = _mix(_mix(np.array([seed], dtype=np.uint64)) ^ epochs)
    return _mix(epoch_keys[None, :] ^ np.arange(_ROUNDS, dtype=np.uint64)[:, None])


def _encrypt(words: _Words, keys: _Words, bits: int) -> _Words:
    """A permutation of range(2**bits) for each key: halves take turns to be masked by a function of the other."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << bits // 2) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = words & low_mask, words >> low_bits
    for turn in range(0, _ROUNDS, 2):
        low = low ^ (_mix(high ^ keys[turn]) & low_mask)
        high = high ^ (_mix(low ^ keys[turn + 1]) & high_mask)
    return (high << low_bits) | low


def _mix(words: _Words) -> _Words:
    """One step of SplitMix64 from each word as its state."""
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
