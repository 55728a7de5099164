"""Magnitudes truncated to 16 bits, in which most of AbsTopK's search counts: half the memory of a tile is read.

A truncated magnitude is an int16: the bits of a float32 without its sign and its lower 16 bits. Those of a tile are
[width, TOKENS]. Parts of CPU kernels.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.jit import intrinsic
from thinwire.engine.simd.lanes import MAGNITUDE_BITS
from thinwire.engine.simd.vectors import INT32, INT64, LANES, address_of, vector

DROPPED_BITS = 16
"""Lower bits of a float32 that are left out."""
LARGEST = (1 << 15) - 1
"""The largest truncated magnitude."""
MAX_ROWS = (1 << 15) - 1
"""The most rows that are counted at once: counts are int16."""
ALIGNMENT = 2
"""Bytes that an int16 in memory is aligned to."""
INT16 = ir.IntType(16)
INT16S = ir.VectorType(INT16, LANES)


def _row_address(context: Any, builder: Any, kind: Any, rows: Any, i: Any) -> Any:
    """The address of rows[i]."""
    return address_of(builder, context.make_array(kind)(context, builder, rows), [i], INT16S)


@intrinsic
def store_truncated(context: Any, truncated: Any, i: Any, x: Any) -> Any:
    """truncated[i] = the truncated magnitudes of vector x."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        truncated, i, x = args
        halves = builder.bitcast(x, ir.VectorType(INT16, 2 * LANES))
        upper = builder.shuffle_vector(halves, halves, ir.VectorType(INT32, LANES)(list(range(1, 2 * LANES, 2))))
        magnitudes = builder.and_(upper, INT16S([MAGNITUDE_BITS >> DROPPED_BITS] * LANES))
        builder.store(magnitudes, _row_address(context, builder, signature.args[0], truncated, i), align=ALIGNMENT)
        return context.get_dummy_value()

    return types.void(truncated, types.intp, vector), generate


GUESSES, COUNTS, ONES = (0, 1), (2, 3), 4
"""Rows of what `count_truncated` takes: two guesses; how many reach each; ones, which the compiler must not know, since
it adds a constant one in more instructions."""
N_GUESS_ROWS = 5
"""How many rows these are."""


@intrinsic
def count_truncated(context: Any, truncated: Any, begin: Any, end: Any, guesses: Any) -> Any:
    """guesses[COUNTS] = how many of truncated[begin:end] reach guesses[GUESSES], lane by lane; at most MAX_ROWS rows.

    `guesses` is int16 [N_GUESS_ROWS, TOKENS].
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        truncated, begin, end, guesses = args
        rows = [_row_address(context, builder, signature.args[3], guesses, INT64(row)) for row in range(N_GUESS_ROWS)]
        thresholds = [builder.load(rows[row], align=ALIGNMENT) for row in GUESSES]
        one = builder.load(rows[ONES], align=ALIGNMENT)
        sums = [cgutils.alloca_once_value(builder, INT16S(None)) for _ in COUNTS]
        with cgutils.for_range_slice(builder, begin, end, INT64(1), inc=True) as (i, _):
            x = builder.load(_row_address(context, builder, signature.args[0], truncated, i), align=ALIGNMENT)
            for threshold, total in zip(thresholds, sums, strict=True):
                more = builder.select(builder.icmp_signed(">=", x, threshold), one, INT16S(None))
                builder.store(builder.add(builder.load(total), more), total)
        for row, total in zip(COUNTS, sums, strict=True):
            builder.store(builder.load(total), rows[row], align=ALIGNMENT)
        return context.get_dummy_value()

    return types.void(truncated, types.intp, types.intp, guesses), generate


@intrinsic
def lanes_within(context: Any, truncated: Any, i: Any, ends: Any) -> Any:
    """The mask of the lanes where truncated[i] is from ends[0] to ends[1], both int16 and included."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        truncated, i, ends = args
        x = builder.load(_row_address(context, builder, signature.args[0], truncated, i), align=ALIGNMENT)
        low, high = (
            builder.load(_row_address(context, builder, signature.args[2], ends, INT64(row)), align=ALIGNMENT)
            for row in (0, 1)
        )
        within = builder.and_(builder.icmp_signed(">=", x, low), builder.icmp_signed("<=", x, high))
        return builder.bitcast(within, INT64)

    return types.uint64(truncated, types.intp, ends), generate
