"""Vectors of the processor, and what kernels make of them, against numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis.strategies import integers
from numba import njit

from thinwire.engine.block_kernels import ROWS, add_block, turn
from thinwire.engine.exponential_kernels import LOWEST_POWER, power_of_two
from thinwire.engine.stretches import store_stretch, stretch
from thinwire.engine.tiles import TOKENS, empty_tile
from thinwire.engine.vectors import SIZE, VECTOR, everywhere, larger, smaller


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@njit
def _arithmetic(a, b, out):
    x, y = stretch(a, 1), stretch(b, 2)
    store_stretch(out, 0, x * y + np.float32(2) - y / everywhere(a[0]) + b[0])


def test_arithmetic() -> None:
    a, b, out = numbers(SIZE + 1), numbers(SIZE + 2, seed=1), np.empty(SIZE, np.float32)
    _arithmetic(a, b, out)
    np.testing.assert_allclose(out, a[1:] * b[2:] + 2 - b[2:] / a[0] + b[0], rtol=1e-5, atol=1e-6)


@njit
def _choices(a, out):
    store_stretch(out, 0, larger(smaller(stretch(a[0], 0), stretch(a[1], 0)), np.float32(0.25)))


def test_choices() -> None:
    """Of pieces and of a piece and a number; NaN in the first stays."""
    a, out = numbers(2, SIZE), np.empty(SIZE, np.float32)
    a[0, 0] = np.nan
    _choices(a, out)
    np.testing.assert_array_equal(out, np.maximum(np.minimum(a[0], a[1]), 0.25))


@njit
def _product(tile, columns, n, width, out):
    for j in range(0, width, VECTOR):
        add_block(tile, columns, n, j, out)


@settings(max_examples=50, deadline=None)
@given(integers(0, TOKENS), integers(1, 3), integers(0, 2**31))
def test_products_of_blocks(n: int, vectors: int, seed: int) -> None:
    """Of rows of a tile; what lies beside the block stays."""
    width = vectors * VECTOR
    tile, columns = empty_tile(ROWS), numbers(n + 1, width + 3, seed=seed)
    tile[:] = numbers(ROWS, TOKENS, seed=seed + 1)
    before = numbers(ROWS + 1, width + 2, seed=seed + 2)
    out = before.copy()
    _product(tile, columns, n, width, out)
    expected = before[:ROWS, :width] + tile[:, :n].astype(np.float64) @ columns[:n, :width]
    np.testing.assert_allclose(out[:ROWS, :width], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out[ROWS:], before[ROWS:])
    np.testing.assert_array_equal(out[:, width:], before[:, width:])


@settings(max_examples=50, deadline=None)
@given(integers(0, 3), integers(0, 4), integers(0, 2**31))
def test_turning(n_down: int, n_across: int, seed: int) -> None:
    """Of rows that lie apart; what lies beside the result stays."""
    height, width = n_down * VECTOR, n_across * VECTOR
    x, out = numbers(height, 2, width, seed=seed)[:, 1], empty_tile(width + 1)
    out[:] = before = numbers(*out.shape, seed=seed + 1)
    turn(x, np.float32(0.5), out)
    np.testing.assert_array_equal(out[:width, :height], x.T / 2)
    np.testing.assert_array_equal(out[width:], before[width:])
    np.testing.assert_array_equal(out[:, height:], before[:, height:])


@njit
def _powers(x, out):
    for t in range(0, len(x), SIZE):
        store_stretch(out, t, power_of_two(stretch(x, t)))


def test_powers_of_two() -> None:
    """Small ones end at the least, or at zero, and NaN stays."""
    x = np.linspace(-124, 126, 1600 * SIZE).astype(np.float32)
    out = np.empty_like(x)
    _powers(x, out)
    np.testing.assert_allclose(out, np.exp2(x.astype(np.float64)), rtol=3e-7)
    special = np.resize(np.array([0, 1, -1, 10, -200, -np.inf, np.nan], np.float32), SIZE)
    made = np.empty_like(special)
    _powers(special, made)
    np.testing.assert_array_equal(made[:4], [1, 2, 0.5, 1024])
    assert (made[4:6] <= np.float32(2.0**LOWEST_POWER)).all()
    assert np.isnan(made[6])
