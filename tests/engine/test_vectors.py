"""Vectors of the processor, and what kernels make of them, against numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis.strategies import integers
from numba import njit

from thinwire.engine.block_kernels import ROWS, add_product
from thinwire.engine.exponential_kernels import power_of_two
from thinwire.engine.vectors import TOGETHER, VECTOR, across, along, larger, load, smaller, store


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@njit
def _arithmetic(a, b, out):
    x, y = load(a, 1, 2), load(b, 1, 2)
    store(out, 0, 0, x * y + np.float32(2) - y / across(a, 3, 1) + along(b, 0, 5))


def test_arithmetic() -> None:
    a, b, out = (
        numbers(TOGETHER + 2, VECTOR + 5),
        numbers(TOGETHER + 2, VECTOR + 5, seed=1),
        np.empty((TOGETHER, VECTOR), np.float32),
    )
    _arithmetic(a, b, out)
    rows, columns = slice(1, 1 + TOGETHER), slice(2, 2 + VECTOR)
    x, y = a[rows, columns], b[rows, columns]
    expected = x * y + 2 - y / a[3, 1 : 1 + VECTOR] + b[:TOGETHER, 5:6]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@njit
def _choices(a, out):
    x, y = load(a, 0, 0), load(a, TOGETHER, 0)
    store(out, 0, 0, larger(smaller(x, y), np.float32(0.25)))


def test_choices() -> None:
    """Of pieces and of a piece and a number; NaN in the first stays."""
    a, out = numbers(2 * TOGETHER, VECTOR), np.empty((TOGETHER, VECTOR), np.float32)
    a[0, 0] = np.nan
    _choices(a, out)
    np.testing.assert_array_equal(out, np.maximum(np.minimum(a[:TOGETHER], a[TOGETHER:]), 0.25))


@settings(max_examples=50, deadline=None)
@given(integers(0, 40), integers(1, 3), integers(0, 2**31))
def test_products_of_blocks(n: int, vectors: int, seed: int) -> None:
    """Whatever the layout of what is multiplied; what lies beside the block stays."""
    width = vectors * VECTOR
    a, b = numbers(n, ROWS, seed=seed).T, numbers(n + 1, width + 3, seed=seed + 1)
    before = numbers(ROWS + 1, width + 2, seed=seed + 2)
    expected = before[:ROWS, :width] + a.astype(np.float64) @ b[:n, :width]
    for laid in (a, np.ascontiguousarray(a)):
        out = before.copy()
        add_product(laid, b, n, width, out)
        np.testing.assert_allclose(out[:ROWS, :width], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(out[ROWS:], before[ROWS:])
        np.testing.assert_array_equal(out[:, width:], before[:, width:])


@njit
def _powers(x, out):
    for t in range(len(x)):
        out[t] = power_of_two(x[t])


@njit
def _powers_of_rows(x, out):
    store(out, 0, 0, power_of_two(load(x, 0, 0)))


def test_powers_of_two() -> None:
    """Of numbers and of rows alike; small ones end at the least, and NaN stays."""
    x = np.linspace(-124, 126, 100_001).astype(np.float32)
    out = np.empty_like(x)
    _powers(x, out)
    np.testing.assert_allclose(out, np.exp2(x.astype(np.float64)), rtol=3e-7)
    special = np.array([0, 1, -1, 0.5, -200, -np.inf, np.nan], np.float32)
    rows = np.resize(special, (TOGETHER, VECTOR)).astype(np.float32)
    made, expected = np.empty_like(rows), np.empty(rows.size, np.float32)
    _powers_of_rows(rows, made)
    _powers(rows.ravel(), expected)
    np.testing.assert_array_equal(made.ravel(), expected)
    np.testing.assert_array_equal(expected[:3], [1, 2, 0.5])
    assert expected[4] == expected[5] == np.float32(2**-125)
    assert np.isnan(expected[6])
