"""Truncated magnitudes of tiles, against numpy."""

import numpy as np
import torch

from tests.engine.checks import check_columns
from tests.engine.inputs import case, generator
from tests.engine.simd.vectors import lanes, vectors
from thinwire.engine.jit import device_function as compiled
from thinwire.engine.simd.lanes import MAGNITUDE_BITS
from thinwire.engine.simd.memory import load
from thinwire.engine.simd.tiles import TOKENS
from thinwire.engine.topk.truncated import (
    COUNTS,
    DROPPED_BITS,
    GUESSES,
    LARGEST,
    MAX_ROWS,
    N_GUESS_ROWS,
    ONES,
    count_truncated,
    lanes_within,
    store_truncated,
)


@compiled
def _store(x, truncated):
    for i in range(len(x)):
        store_truncated(truncated, i, load(x[i], 0))


@compiled
def _count(truncated, begin, end, guesses):
    count_truncated(truncated, begin, end, guesses)


@compiled
def _within(truncated, i, ends):
    return lanes_within(truncated, i, ends)


def test_truncated_magnitudes_are_upper_halves() -> None:
    x = vectors()
    truncated = np.full((len(x) + 1, TOKENS), -1, np.int16)
    _store(x, truncated)
    magnitudes = x[:, :TOKENS].copy().view(np.int32) & MAGNITUDE_BITS
    np.testing.assert_array_equal(truncated[:-1], magnitudes >> DROPPED_BITS)
    assert (truncated[-1] == -1).all()


def test_counts() -> None:
    """As many as int16 holds, if all reach a guess."""
    for begin, end in ((0, 0), (0, 1), (1, 50), (0, MAX_ROWS)):
        random = np.random.default_rng(0)
        truncated = random.integers(0, LARGEST, (end, TOKENS), dtype=np.int16, endpoint=True)
        guesses = np.zeros((N_GUESS_ROWS, TOKENS), np.int16)
        guesses[GUESSES[0]], guesses[GUESSES[1], ::2], guesses[ONES] = random.integers(0, LARGEST, TOKENS), LARGEST, 1
        before = guesses.copy()
        _count(truncated, begin, end, guesses)
        with case(begin, end):
            for guess, count in zip(GUESSES, COUNTS, strict=True):
                np.testing.assert_array_equal(guesses[count], (truncated[begin:end] >= before[guess]).sum(0))
                np.testing.assert_array_equal(guesses[guess], before[guess])


def test_lanes_within() -> None:
    """Both ends count; where the last is before the first there are none."""
    truncated = np.random.default_rng(1).integers(0, 9, (3, TOKENS), dtype=np.int16)
    ends = np.random.default_rng(2).integers(-1, 9, (2, TOKENS), dtype=np.int16)
    for i in range(len(truncated)):
        expected = (ends[0] <= truncated[i]) & (truncated[i] <= ends[1])
        np.testing.assert_array_equal(lanes(int(_within(truncated, i, ends))), expected)


def test_more_rows_than_are_counted_at_once() -> None:
    for width in (MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS + 3):
        x = torch.randn(width, 9, generator=generator(width))
        x[:, ::7] = 1
        for k in (1, width // 4, width - 1):
            with case(width, k):
                check_columns(x, k)
