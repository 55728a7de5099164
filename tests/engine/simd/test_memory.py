"""Vectors from and to memory, masks of lanes, and tiles, against numpy."""

import numpy as np
import pytest

from tests.engine.inputs import case
from tests.engine.simd.vectors import lanes, vectors
from thinwire.engine.jit import allocating as compiled
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
    store_masked,
    store_streaming,
)
from thinwire.engine.simd.rows import clear_rows, has_nonzero, is_constant
from thinwire.engine.simd.tiles import STREAMED_SIZE, TOKENS, empty_tile, is_streamed


@compiled
def _copy(x, begin, end, whole, part, streamed):
    store(whole, 1, load(x, begin))
    store(part[0], 0, load_masked(x, begin, end))
    store_masked(part[1], 0, end - begin, load(x, begin))
    store_streaming(streamed, 0, load(x, begin))
    fence()


def test_loads_and_stores() -> None:
    """What lies behind the end of a masked one stays as it is."""
    x, streamed = vectors()[0], empty_tile(1)
    for begin in (0, 1, 17, TOKENS):
        for n in range(TOKENS + 1):
            whole, part = np.zeros(TOKENS + 2, np.float32), np.full((2, TOKENS), 7, np.float32)
            _copy(x, begin, begin + n, whole, part, streamed[0])
            with case(begin, n):
                np.testing.assert_array_equal(whole[1:-1], x[begin : begin + TOKENS])
                assert whole[0] == whole[-1] == 0
                for row, rest in zip(part, (0, 7), strict=True):
                    expected = np.where(np.arange(TOKENS) < n, x[begin : begin + TOKENS], rest)
                    np.testing.assert_array_equal(row, expected)
                np.testing.assert_array_equal(streamed[0], whole[1:-1])


@compiled
def _compare(x, least, one, found, flags, out):
    first, floor = load(x[0], 0), load(least, 0)
    found[0] = nonzero_lanes(first)
    store_flags(flags, 0, first)
    store(out[0], 0, keep_reaching(first, floor))
    store(out[1], 0, add_where_reaching(load(one, 0), first, floor, load(one, 0)))
    store(out[2], 0, where_either(load(x[1], 0), first, load(x[2], 0)))
    store(out[3], 0, load_flags(flags, 0))
    store(out[4], 0, set_bit_where_nonzero(set_bit_where_nonzero(load(x[3], 0), first, 2), first, 31))


def test_comparisons() -> None:
    """Magnitudes are those of the bits: NaN is above infinity; zeros of either sign are equal."""
    x = vectors()
    least = np.resize(np.array((1, 0x3F000000, 0x7F800000), np.int32), TOKENS)
    one, found, flags = np.ones(TOKENS, np.int32), np.empty(1, np.uint64), np.empty(TOKENS, np.int8)
    out = np.empty((5, TOKENS), np.float32)
    _compare(x, least.view(np.float32), one.view(np.float32), found, flags, out)
    first, second, third, before = (x[i, :TOKENS] for i in range(4))
    bits = first.view(np.int32) & MAGNITUDE_BITS
    is_nonzero = (first != 0) | np.isnan(first)
    np.testing.assert_array_equal(lanes(int(found[0])), is_nonzero)
    np.testing.assert_array_equal(flags, is_nonzero)
    np.testing.assert_array_equal(out[0], np.where(bits >= least, first, 0))
    np.testing.assert_array_equal(out[1].view(np.int32), 1 + (bits >= least))
    np.testing.assert_array_equal(out[2], np.where(is_nonzero | (third != 0), second, 0))
    np.testing.assert_array_equal(out[3], is_nonzero)
    marks = np.where(is_nonzero, np.int32(-(1 << 31) | 1 << 2), 0)
    np.testing.assert_array_equal(out[4].view(np.int32), before.view(np.int32) | marks)


@compiled
def _count(x, number, visible, out):
    store(out[0], 0, increment_where_nonzero(load(x, 0), load(x, TOKENS)))
    store(out[1], 0, where_visible(load(x, 0), load(visible, 0), np.float32(3), np.float32(-1)))
    return equal_lanes(load(x, 0), number), any_greater(load(x, 0), number)


@compiled
def _sum(x):
    return sum_lanes(load(x, 0))


@compiled
def _lowest(bits):
    return lowest_bit(bits)


@pytest.mark.parametrize("number", [0.0, 1.0, 2e38, np.inf])
def test_counts_and_sums(number: float) -> None:
    """NaN is neither above nor equal to anything."""
    x, out = vectors()[0], np.empty((2, TOKENS), np.float32)
    visible = np.arange(TOKENS, dtype=np.float32) % 7
    equal, greater = _count(x, np.float32(number), visible, out)
    first, second = x[:TOKENS], x[TOKENS : 2 * TOKENS]
    np.testing.assert_array_equal(lanes(int(equal)), first == np.float32(number))
    assert greater == (first > np.float32(number)).any()
    np.testing.assert_array_equal(out[0], first + (second != 0))
    np.testing.assert_array_equal(out[1], np.where(visible > 3, first, -1))
    assert _sum(np.arange(TOKENS, dtype=np.float32)) == TOKENS * (TOKENS - 1) / 2
    for bits in ([0], [5, 9], [63], [0, 31, 32, 63]):
        assert _lowest(np.uint64(sum(1 << bit for bit in bits))) == bits[0]


def test_rows() -> None:
    """Of every length around the numbers that are examined together; zeros of either sign are equal."""
    for n in (1, 63, 64, 65, 200):
        for last in (0.0, -0.0, 2.0, np.nan):
            row = np.zeros(n, np.float32)
            row[-1] = last
            assert has_nonzero(row) == (last != 0), (n, last)
            assert is_constant(row) == (last == 0 or (n == 1 and last == 2)), (n, last)
            clear_rows(row[None])
            assert not row.any()
    assert not has_nonzero(np.empty(0, np.float32))
    assert is_constant(np.empty(0, np.float32))


def test_streamed_results_are_large_and_of_whole_cache_lines() -> None:
    width = 2 * TOKENS
    rows = empty_tile(2 * STREAMED_SIZE // TOKENS).reshape(-1, width)
    assert is_streamed(rows)
    assert not is_streamed(rows[: STREAMED_SIZE // width - 1])
    assert not is_streamed(rows.ravel()[1 : 1 - width].reshape(-1, width))
    assert not is_streamed(np.empty((len(rows), width + 1), np.float32))
    assert empty_tile(3).ctypes.data % CACHE_LINE == 0
