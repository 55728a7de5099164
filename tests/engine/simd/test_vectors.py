"""Arithmetic of vectors, 2^x, nonlinearities, and blocks, against numpy and PyTorch."""

import numpy as np
import pytest
import torch

from tests.engine.inputs import case
from tests.engine.simd.vectors import normals
from thinwire.engine.jit import device_function as compiled
from thinwire.engine.simd.blocks import BLOCK_ROWS, add_block, transpose
from thinwire.engine.simd.exp2 import LOWEST_POWER, exp2
from thinwire.engine.simd.memory import load, store
from thinwire.engine.simd.nonlinearities import GELU, IDENTITY, RELU, activate, activate_row, gelu_gradient
from thinwire.engine.simd.tiles import TOKENS, empty_tile
from thinwire.engine.simd.vectors import LANES, REGISTER_LANES, broadcast, maximum, minimum


@compiled
def _arithmetic(a, b, out):
    x, y = load(a, 1), load(b, 2)
    store(out[0], 0, x * y + np.float32(2) - y / broadcast(a[0]) + b[0])
    store(out[1], 0, maximum(minimum(x, y), np.float32(0.25)))


def test_arithmetic_and_choices() -> None:
    """A NaN in the first argument of a choice stays."""
    a, b, out = normals(LANES + 1), normals(LANES + 2, seed=1), np.empty((2, LANES), np.float32)
    a[7] = np.nan
    _arithmetic(a, b, out)
    np.testing.assert_allclose(out[0], a[1:] * b[2:] + 2 - b[2:] / a[0] + b[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out[1], np.maximum(np.minimum(a[1:], b[2:]), 0.25))


@compiled
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
    out = np.empty_like(special)
    _powers(special, out)
    np.testing.assert_array_equal(out[:4], [1, 2, 0.5, 1024])
    assert (out[4:6] <= np.float32(2.0**LOWEST_POWER)).all()
    assert np.isnan(out[6])


@compiled
def _activate(kind, x, out):
    for i in range(len(x)):
        store(out[0, i], 0, activate(kind, load(x[i], 0)))
        store(out[1, i], 0, gelu_gradient(load(x[i], 0)))


@pytest.mark.parametrize("kind", [IDENTITY, RELU, GELU])
def test_nonlinearities(kind: int) -> None:
    """The same bits in vectors and alone; GELU and its slope against their definition, for numbers of any size."""
    far = np.geomspace(1, 3e38, 1024)
    x = np.concatenate([np.linspace(-8, 8, 4096), far, -far]).astype(np.float32).reshape(-1, LANES)
    out, row = np.empty((2, *x.shape), np.float32), x.copy().ravel()
    _activate(kind, x, out)
    activate_row(kind, row)
    np.testing.assert_array_equal(out[0].ravel(), row)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    result = {IDENTITY: lambda x: x, RELU: torch.relu, GELU: torch.nn.functional.gelu}[kind](leaf)
    np.testing.assert_allclose(out[0], result.detach(), rtol=4e-7, atol=1e-6)
    if kind == GELU:
        (slope,) = torch.autograd.grad(result.sum(), leaf)
        np.testing.assert_allclose(out[1], slope.nan_to_num(), atol=3e-7)


@compiled
def _add_blocks(tile, columns, n, width, out):
    for j in range(0, width, REGISTER_LANES):
        add_block(tile, columns, n, j, out)


def test_products_of_blocks() -> None:
    """Of rows of a tile; what lies beside the block stays."""
    for n in (0, 1, 2, 31, TOKENS):
        for registers in (1, 2, 3):
            width, seed = registers * REGISTER_LANES, 10 * n + registers
            tile, columns = empty_tile(BLOCK_ROWS), normals(n + 1, width + 3, seed=seed)
            tile[:] = normals(BLOCK_ROWS, TOKENS, seed=seed + 1)
            before = normals(BLOCK_ROWS + 1, width + 2, seed=seed + 2)
            out = before.copy()
            _add_blocks(tile, columns, n, width, out)
            expected = before[:BLOCK_ROWS, :width] + tile[:, :n].astype(np.float64) @ columns[:n, :width]
            with case(n, registers):
                np.testing.assert_allclose(out[:BLOCK_ROWS, :width], expected, rtol=1e-4, atol=1e-4)
                np.testing.assert_array_equal(out[BLOCK_ROWS:], before[BLOCK_ROWS:])
                np.testing.assert_array_equal(out[:, width:], before[:, width:])


def test_transposes() -> None:
    """Of rows that lie apart; what lies beside the result stays."""
    for n_down in range(4):
        for n_across in range(5):
            height, width = n_down * REGISTER_LANES, n_across * REGISTER_LANES
            x, out = normals(height, 2, width, seed=n_down)[:, 1], empty_tile(width + 1)
            out[:] = before = normals(*out.shape, seed=n_across)
            transpose(x, np.float32(0.5), out)
            with case(height, width):
                np.testing.assert_array_equal(out[:width, :height], x.T / 2)
                np.testing.assert_array_equal(out[width:], before[width:])
                np.testing.assert_array_equal(out[:, height:], before[:, height:])
