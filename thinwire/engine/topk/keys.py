"""The upper halves of magnitudes, by which most of AbsTopK's search is done: half of what a tile is to be read.

Parts of CPU kernels. A key is int16, sign and lower 16 bits left out; the keys of a tile are [width, SIZE].
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.simd.lanes import MAGNITUDE_BITS
from thinwire.engine.simd.vectors import INT32, INT64, LANES, address_of, intrinsic, vector

HALF = 16
"""Bits of a number that its key leaves out."""
MOST = (1 << 15) - 1
"""The largest key, and the most rows that are counted at once."""
ALIGNED = 2
KEY = ir.IntType(16)
KEYS = ir.VectorType(KEY, LANES)


def _place(context: Any, builder: Any, kind: Any, rows: Any, i: Any) -> Any:
    """Where rows[i] lies."""
    return address_of(builder, context.make_array(kind)(context, builder, rows), [i], KEYS)


@intrinsic
def store_keys(context: Any, keys: Any, i: Any, x: Any) -> Any:
    """keys[i] = those of a stretch x."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        keys, i, x = given
        halves = builder.bitcast(x, ir.VectorType(KEY, 2 * LANES))
        upper = builder.shuffle_vector(halves, halves, ir.VectorType(INT32, LANES)(list(range(1, 2 * LANES, 2))))
        magnitudes = builder.and_(upper, KEYS([MAGNITUDE_BITS >> HALF] * LANES))
        builder.store(magnitudes, _place(context, builder, signature.args[0], keys, i), align=ALIGNED)
        return context.get_dummy_value()

    return types.void(keys, types.intp, vector), generate


GUESSES, COUNTS, ONES = (0, 1), (2, 3), 4
"""Rows of what `count_keys` takes: two guesses, how many reach each, and ones that this is not to be compiled for."""


@intrinsic
def count_keys(context: Any, keys: Any, begin: Any, end: Any, guesses: Any) -> Any:
    """guesses[COUNTS] = how many of keys[begin:end] reach guesses[GUESSES], lane by lane; at most MOST rows.

    `guesses` is int16 [5, SIZE].
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        keys, begin, end, guesses = given
        rows = [_place(context, builder, signature.args[3], guesses, INT64(row)) for row in range(ONES + 1)]
        least, one = (
            [builder.load(rows[row], align=ALIGNED) for row in GUESSES],
            builder.load(rows[ONES], align=ALIGNED),
        )
        sums = [cgutils.alloca_once_value(builder, KEYS(None)) for _ in COUNTS]
        with cgutils.for_range_slice(builder, begin, end, INT64(1), inc=True) as (i, _):
            x = builder.load(_place(context, builder, signature.args[0], keys, i), align=ALIGNED)
            for guess, total in zip(least, sums, strict=True):
                more = builder.select(builder.icmp_signed(">=", x, guess), one, KEYS(None))
                builder.store(builder.add(builder.load(total), more), total)
        for row, total in zip(COUNTS, sums, strict=True):
            builder.store(builder.load(total), rows[row], align=ALIGNED)
        return context.get_dummy_value()

    return types.void(keys, types.intp, types.intp, guesses), generate


@intrinsic
def keys_within(context: Any, keys: Any, i: Any, ends: Any) -> Any:
    """Which of keys[i] are from ends[0] to ends[1], both int16 and inclusive: one bit for each."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        keys, i, ends = given
        x = builder.load(_place(context, builder, signature.args[0], keys, i), align=ALIGNED)
        low, high = (
            builder.load(_place(context, builder, signature.args[2], ends, INT64(row)), align=ALIGNED) for row in (0, 1)
        )
        within = builder.and_(builder.icmp_signed(">=", x, low), builder.icmp_signed("<=", x, high))
        return builder.bitcast(within, INT64)

    return types.uint64(keys, types.intp, ends), generate
