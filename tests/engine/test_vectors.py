"""Vectors of the processor, and what kernels make of them, against numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis.strategies import integers
from numba import njit

from thinwire.engine.simd.blocks import BLOCK_ROWS, add_block, transpose
from thinwire.engine.simd.exp2 import LOWEST_POWER, exp2
from thinwire.engine.simd.memory import load, store
from thinwire.engine.simd.tiles import TOKENS, empty_tile
from thinwire.engine.simd.vectors import LANES, REGISTER_LANES, broadcast, maximum, minimum


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@njit
def _arithmetic(a, b, out):
    x, y = load(a, 1), load(b, 2)
    store(out, 0, x * y + np.float32(2) - y / broadcast(a[0]) + b[0])


def test_arithmetic() -> None:
    a, b, out = numbers(LANES + 1), numbers(LANES + 2, seed=1), np.empty(LANES, np.float32)
    _arithmetic(a, b, out)
    np.testing.assert_allclose(out, a[1:] * b[2:] + 2 - b[2:] / a[0] + b[0], rtol=1e-5, atol=1e-6)


@njit
def _choices(a, out):
    store(out, 0, maximum(minimum(load(a[0], 0), load(a[1], 0)), np.float32(0.25)))


def test_choices() -> None:
    """Of pieces and of a piece and a number; NaN in the first stays."""
    a, out = numbers(2, LANES), np.empty(LANES, np.float32)
    a[0, 0] = np.nan
    _choices(a, out)
    np.testing.assert_array_equal(out, np.maximum(np.minimum(a[0], a[1]), 0.25))


@njit
def _product(tile, columns, n, width, out):
    for j in range(0, width, REGISTER_LANES):
        add_block(tile, columns, n, j, out)


@settings(max_examples=50, deadline=None)
@given(integers(0, TOKENS), integers(1, 3), integers(0, 2**31))
def test_products_of_blocks(n: int, vectors: int, seed: int) -> None:
    """Of rows of a tile; what lies beside the block stays."""
    width = vectors * REGISTER_LANES
    tile, columns = empty_tile(BLOCK_ROWS), numbers(n + 1, width + 3, seed=seed)
    tile[:] = numbers(BLOCK_ROWS, TOKENS, seed=seed + 1)
    before = numbers(BLOCK_ROWS + 1, width + 2, seed=seed + 2)
    out = before.copy()
    _product(tile, columns, n, width, out)
    expected = before[:BLOCK_ROWS, :width] + tile[:, :n].astype(np.float64) @ columns[:n, :width]
    np.testing.assert_allclose(out[:BLOCK_ROWS, :width], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out[BLOCK_ROWS:], before[BLOCK_ROWS:])
    np.testing.assert_array_equal(out[:, width:], before[:, width:])


@settings(max_examples=50, deadline=None)
@given(integers(0, 3), integers(0, 4), integers(0, 2**31))
def test_turning(n_down: int, n_across: int, seed: int) -> None:
    """Of rows that lie apart; what lies beside the result stays."""
    height, width = n_down * REGISTER_LANES, n_across * REGISTER_LANES
    x, out = numbers(height, 2, width, seed=seed)[:, 1], empty_tile(width + 1)
    out[:] = before = numbers(*out.shape, seed=seed + 1)
    transpose(x, np.float32(0.5), out)
    np.testing.assert_array_equal(out[:width, :height], x.T / 2)
    np.testing.assert_array_equal(out[width:], before[width:])
    np.testing.assert_array_equal(out[:, height:], before[:, height:])


@njit
def _powers(x, out):
    for t in range(0, len(x), LANES):
        store(out, t, exp2(load(x, t)))


def test_powers_of_two() -> None:
    """Small ones end at the least, or at zero, and NaN stays."""
    x = np.linspace(-124, 126, 1600 * LANES).astype(np.float32)
    out = np.empty_like(x)
    _powers(x, out)
    np.testing.assert_allclose(out, np.exp2(x.astype(np.float64)), rtol=3e-7)
    special = np.resize(np.array([0, 1, -1, 10, -200, -np.inf, np.nan], np.float32), LANES)
    made = np.empty_like(special)
    _powers(special, made)
    np.testing.assert_array_equal(made[:4], [1, 2, 0.5, 1024])
    assert (made[4:6] <= np.float32(2.0**LOWEST_POWER)).all()
    assert np.isnan(made[6])
