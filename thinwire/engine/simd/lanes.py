"""Comparisons, choices and counts, lane by lane. Parts of CPU kernels.

A mask of lanes is a uint64 with one bit a lane. Magnitudes are compared as bit patterns: those of non-negative floats
order as the floats do.
"""

from typing import Any

from llvmlite import ir
from numba import types

from thinwire.engine.jit import intrinsic
from thinwire.engine.simd.vectors import FLOATS, INT32, INT32S, INT64, LANES, nonzero, slice_lanes, splat, vector

MAGNITUDE_BITS = 0x7FFFFFFF
"""All bits of a float32 but its sign."""


@intrinsic
def nonzero_lanes(context: Any, x: Any) -> Any:
    """The mask of the lanes that are not zero; NaN is not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(nonzero(builder, args[0]), INT64)

    return types.uint64(vector), generate


@intrinsic
def equal_lanes(context: Any, x: Any, number: Any) -> Any:
    """The mask of the lanes that equal a number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fcmp_ordered("==", args[0], splat(builder, args[1], LANES)), INT64)

    return types.uint64(vector, types.float32), generate


@intrinsic
def lowest_bit(context: Any, lanes: Any) -> Any:
    """The index of the lowest bit of a mask, which must have one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.intp(types.uint64), generate


@intrinsic
def any_greater(context: Any, x: Any, number: Any) -> Any:
    """Whether any lane of x is greater than a number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        above = builder.fcmp_ordered(">", args[0], splat(builder, args[1], LANES))
        return builder.icmp_unsigned("!=", builder.bitcast(above, INT64), INT64(0))

    return types.boolean(vector, types.float32), generate


@intrinsic
def where_either(context: Any, x: Any, first: Any, second: Any) -> Any:
    """x in the lanes where `first` or `second` is not zero, zero elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, *conditions = args
        chosen = builder.or_(*[nonzero(builder, condition) for condition in conditions])
        return builder.select(chosen, x, FLOATS(None))

    return vector(vector, vector, vector), generate


@intrinsic
def where_visible(context: Any, x: Any, visible: Any, position: Any, other: Any) -> Any:
    """x in the lanes where `position` < `visible`, elsewhere a number.

    A lane is a query, which sees its first `visible` positions; both counts are whole floats.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, visible, position, other = args
        chosen = builder.fcmp_ordered("<", splat(builder, position, LANES), visible)
        return builder.select(chosen, x, splat(builder, other, LANES))

    return vector(vector, vector, types.float32, types.float32), generate


@intrinsic
def sum_lanes(context: Any, x: Any) -> Any:
    """The sum over all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, n = args[0], LANES
        while n > 1:
            n //= 2
            x = builder.fadd(slice_lanes(builder, x, 0, n), slice_lanes(builder, x, n, n))
        return builder.extract_element(x, INT32(0))

    return types.float32(vector), generate


@intrinsic
def increment_where_nonzero(context: Any, n: Any, x: Any) -> Any:
    """n, plus one in the lanes where x is not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, x = args
        return builder.select(nonzero(builder, x), builder.fadd(n, FLOATS([1.0] * LANES)), n)

    return vector(vector, vector), generate


@intrinsic
def set_bit_where_nonzero(context: Any, bits: Any, x: Any, bit: Any) -> Any:
    """`bits`, an int32 bit set in each lane's float, with one more bit set in the lanes where x is not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits, x, bit = args
        one = splat(builder, builder.shl(INT32(1), builder.trunc(bit, INT32)), LANES)
        more = builder.select(nonzero(builder, x), one, INT32S(None))
        return builder.bitcast(builder.or_(builder.bitcast(bits, INT32S), more), FLOATS)

    return vector(vector, vector, types.intp), generate


def _reaches(builder: Any, x: Any, threshold: Any) -> Any:
    magnitude = builder.and_(builder.bitcast(x, INT32S), INT32S([MAGNITUDE_BITS] * LANES))
    return builder.icmp_signed(">=", magnitude, builder.bitcast(threshold, INT32S))


@intrinsic
def add_where_reaching(context: Any, n: Any, x: Any, threshold: Any, one: Any) -> Any:
    """n plus `one` in the lanes where |x| reaches the threshold; n and `one` are int32 in the bits of floats."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, x, threshold, one = args
        more = builder.select(_reaches(builder, x, threshold), builder.bitcast(one, INT32S), INT32S(None))
        return builder.bitcast(builder.add(builder.bitcast(n, INT32S), more), FLOATS)

    return vector(vector, vector, vector, vector), generate


@intrinsic
def keep_reaching(context: Any, x: Any, threshold: Any) -> Any:
    """x in the lanes where |x| reaches the threshold, zero elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, threshold = args
        return builder.select(_reaches(builder, x, threshold), x, FLOATS(None))

    return vector(vector, vector), generate
