"""Keys of tiles, the upper halves of magnitudes, against numpy."""

import numpy as np
import pytest
import torch
from numba import njit

from tests.engine.test_columns import check
from tests.engine.test_stretches import lanes, numbers
from thinwire.engine.simd.lanes import MAGNITUDE_BITS
from thinwire.engine.simd.memory import load
from thinwire.engine.simd.tiles import TOKENS
from thinwire.engine.topk.keys import COUNTS, GUESSES, HALF, MOST, ONES, count_keys, keys_within, store_keys


@njit
def _stored(x, keys):
    for i in range(len(x)):
        store_keys(keys, i, load(x[i], 0))


@njit
def _counted(keys, begin, end, guesses):
    count_keys(keys, begin, end, guesses)


@njit
def _found(keys, i, ends):
    return keys_within(keys, i, ends)


def test_keys_are_upper_halves() -> None:
    x = numbers()
    keys = np.full((len(x) + 1, TOKENS), -1, np.int16)
    _stored(x, keys)
    np.testing.assert_array_equal(keys[:-1], (x[:, :TOKENS].copy().view(np.int32) & MAGNITUDE_BITS) >> HALF)
    assert (keys[-1] == -1).all()


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (0, 1), (1, 50), (0, MOST)])
def test_counting(begin: int, end: int) -> None:
    """As many as int16 holds, if all reach a guess."""
    made = np.random.default_rng(0)
    keys = made.integers(0, MOST, (end, TOKENS), dtype=np.int16, endpoint=True)
    guesses = np.zeros((ONES + 1, TOKENS), np.int16)
    guesses[GUESSES[0]], guesses[GUESSES[1], ::2], guesses[ONES] = made.integers(0, MOST, TOKENS), MOST, 1
    given = guesses.copy()
    _counted(keys, begin, end, guesses)
    for guess, count in zip(GUESSES, COUNTS, strict=True):
        np.testing.assert_array_equal(guesses[count], (keys[begin:end] >= given[guess]).sum(0))
        np.testing.assert_array_equal(guesses[guess], given[guess])


def test_keys_within() -> None:
    """Both ends count; where the last is before the first there are none."""
    keys = np.random.default_rng(1).integers(0, 9, (3, TOKENS), dtype=np.int16)
    ends = np.random.default_rng(2).integers(-1, 9, (2, TOKENS), dtype=np.int16)
    for i in range(len(keys)):
        np.testing.assert_array_equal(lanes(int(_found(keys, i, ends))), (ends[0] <= keys[i]) & (keys[i] <= ends[1]))


@pytest.mark.parametrize("width", [MOST, MOST + 1, 2 * MOST + 3])
def test_more_rows_than_are_counted_at_once(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(width, TOKENS + 1, generator=generator)
    x[:, ::7] = 1
    for k in (1, width // 4, width - 1):
        check(x, k)
