"""Stretches of rows, as kernels read, compare and write them, against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from numba import njit

from thinwire.engine.simd.lanes import (
    MAGNITUDE_BITS,
    add_where_reaching,
    any_greater,
    equal_lanes,
    increment_where_nonzero,
    keep_reaching,
    lowest_bit,
    nonzero_lanes,
    set_bit_where_nonzero,
    sum_lanes,
    where_either,
    where_visible,
)
from thinwire.engine.simd.memory import (
    CACHE_LINE,
    fence,
    load,
    load_flags,
    load_masked,
    store,
    store_flags,
    store_streaming,
)
from thinwire.engine.simd.nonlinearities import GELU, IDENTITY, RELU, activate, activate_row, gelu_gradient
from thinwire.engine.simd.tiles import STREAMED_SIZE, TOKENS, empty_tile, is_streamed

SPECIAL = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38], np.float32)


def numbers(seed: int = 0) -> np.ndarray:
    """Rows [6, 3 * TOKENS], a third of them zero or special."""
    made = np.random.default_rng(seed)
    x = made.standard_normal((6, 3 * TOKENS)).astype(np.float32)
    return np.where(made.random(x.shape) < 0.3, made.choice(SPECIAL, x.shape), x)


def lanes(bits: int) -> np.ndarray:
    return np.array([bits >> t & 1 for t in range(TOKENS)], bool)


@njit
def _copied(x, begin, end, whole, some, past):
    store(whole, 1, load(x, begin))
    store(some, 0, load_masked(x, begin, end))
    store_streaming(past, 0, load(x, begin))
    fence()


@given(integers(0, TOKENS), integers(0, TOKENS))
@settings(max_examples=40, deadline=None)
def test_reading_and_writing(begin: int, n: int) -> None:
    """What lies behind the end is not looked at, and need not be there."""
    x, whole, some, past = numbers()[0], np.zeros(TOKENS + 2, np.float32), np.empty(TOKENS, np.float32), empty_tile(1)
    _copied(x, begin, begin + n, whole, some, past[0])
    np.testing.assert_array_equal(whole[1:-1], x[begin : begin + TOKENS])
    assert whole[0] == whole[-1] == 0
    np.testing.assert_array_equal(some, np.where(np.arange(TOKENS) < n, x[begin : begin + TOKENS], 0))
    np.testing.assert_array_equal(past[0], whole[1:-1])


@njit
def _compared(x, least, one, found, flags, out):
    given, floor = load(x[0], 0), load(least, 0)
    found[0] = nonzero_lanes(given)
    store_flags(flags, 0, given)
    store(out[0], 0, keep_reaching(given, floor))
    store(out[1], 0, add_where_reaching(load(one, 0), given, floor, load(one, 0)))
    store(out[2], 0, where_either(load(x[1], 0), given, load(x[2], 0)))
    store(out[3], 0, load_flags(flags, 0))
    store(out[4], 0, set_bit_where_nonzero(set_bit_where_nonzero(load(x[3], 0), given, 2), given, 31))


def test_comparing() -> None:
    """Magnitudes are those of the bits: NaN is above infinity, and zeros of either sign are alike."""
    x = numbers()
    least = np.resize(np.array((1, 0x3F000000, 0x7F800000), np.int32), TOKENS)
    one, found, flags = np.ones(TOKENS, np.int32), np.empty(1, np.uint64), np.empty(TOKENS, np.int8)
    out = np.empty((5, TOKENS), np.float32)
    _compared(x, least.view(np.float32), one.view(np.float32), found, flags, out)
    given, other, third, before = (x[i, :TOKENS] for i in range(4))
    bits = given.view(np.int32) & MAGNITUDE_BITS
    is_nonzero = (given != 0) | np.isnan(given)
    np.testing.assert_array_equal(lanes(int(found[0])), is_nonzero)
    np.testing.assert_array_equal(flags, is_nonzero)
    np.testing.assert_array_equal(out[0], np.where(bits >= least, given, 0))
    np.testing.assert_array_equal(out[1].view(np.int32), 1 + (bits >= least))
    np.testing.assert_array_equal(out[2], np.where(is_nonzero | (third != 0), other, 0))
    np.testing.assert_array_equal(out[3], is_nonzero)
    marks = np.where(is_nonzero, np.int32(-(1 << 31) | 1 << 2), 0)
    np.testing.assert_array_equal(out[4].view(np.int32), before.view(np.int32) | marks)


@njit
def _bits(x):
    return lowest_bit(x)


@pytest.mark.parametrize("places", [[0], [5, 9], [63], [0, 31, 32, 63]])
def test_bits(places: list[int]) -> None:
    assert _bits(np.uint64(sum(1 << place for place in places))) == places[0]


@njit
def _told_apart(x, number, out):
    store(out, 0, increment_where_nonzero(load(x, 0), load(x, TOKENS)))
    return equal_lanes(load(x, 0), number), any_greater(load(x, 0), number)


@pytest.mark.parametrize("number", [0.0, 1.0, 2e38, np.inf])
def test_numbers_told_apart(number: float) -> None:
    """Zeros of either sign are alike, and NaN is neither above nor the same as anything."""
    x, out = numbers()[0], np.empty(TOKENS, np.float32)
    same, above = _told_apart(x, np.float32(number), out)
    given, other = x[:TOKENS], x[TOKENS : 2 * TOKENS]
    np.testing.assert_array_equal(lanes(int(same)), given == np.float32(number))
    assert above == (given > np.float32(number)).any()
    np.testing.assert_array_equal(out, given + (other != 0))


@njit
def _summed(x, seen, position, out):
    store(out, 0, where_visible(load(x, 0), load(seen, 0), position, np.float32(-1)))
    return sum_lanes(load(x, 0))


def test_sums_and_what_is_seen() -> None:
    x, seen, out = np.arange(TOKENS, dtype=np.float32), np.arange(TOKENS, dtype=np.float32) % 7, empty_tile(1)[0]
    assert _summed(x, seen, np.float32(3), out) == x.sum()
    np.testing.assert_array_equal(out, np.where(seen > 3, x, -1))


@njit
def _nonlinear(kind, x, out):
    for i in range(len(x)):
        store(out[0, i], 0, activate(kind, load(x[i], 0)))
        store(out[1, i], 0, gelu_gradient(load(x[i], 0)))


@pytest.mark.parametrize("kind", [IDENTITY, RELU, GELU])
def test_nonlinearities_of_stretches_and_rows(kind: int) -> None:
    """The same either way, bit by bit; GELU and its slope against their definition, for numbers of any size."""
    x = np.concatenate([np.linspace(-8, 8, 4096), np.geomspace(1, 3e38, 1024), -np.geomspace(1, 3e38, 1024)])
    x = x.astype(np.float32).reshape(-1, TOKENS)
    out, row = np.empty((2, *x.shape), np.float32), x.copy().ravel()
    _nonlinear(kind, x, out)
    activate_row(kind, row)
    np.testing.assert_array_equal(out[0].ravel(), row)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    made = {IDENTITY: lambda x: x, RELU: torch.relu, GELU: torch.nn.functional.gelu}[kind](leaf)
    np.testing.assert_allclose(out[0], made.detach(), rtol=4e-7, atol=1e-6)
    if kind == GELU:
        (slope,) = torch.autograd.grad(made.sum(), leaf)
        np.testing.assert_allclose(out[1], slope.nan_to_num(), atol=3e-7)


def test_what_is_written_past_the_caches() -> None:
    """Large results of whole lines, which begin with one."""
    width = 2 * TOKENS
    rows = empty_tile(2 * STREAMED_SIZE // TOKENS).reshape(-1, width)
    assert is_streamed(rows)
    assert not is_streamed(rows[:100])
    assert not is_streamed(rows.ravel()[1 : 1 - width].reshape(-1, width))
    assert not is_streamed(np.empty((len(rows), width + 1), np.float32))
    assert empty_tile(3).ctypes.data % CACHE_LINE == 0
