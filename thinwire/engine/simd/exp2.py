"""2^x of a vector. Parts of CPU kernels.

The library's function takes one call a number. Here 2^x is a polynomial of the fraction of x, scaled by the exponent;
the relative error is at most 3e-7.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.polynomial import chebyshev

from thinwire.engine.jit import intrinsic, no_reassociation
from thinwire.engine.simd.vectors import (
    AVX512_LANES,
    FLOAT,
    FLOATS,
    INT32,
    INT32S,
    LANES,
    concat_lanes,
    has_avx512,
    slice_lanes,
    vector,
)

LOG2_E = np.float32(1 / math.log(2))
DEGREE = 5
"""Of the polynomial."""


def _coefficients() -> tuple[np.float32, ...]:
    """Coefficients, lowest first, of a polynomial equal to 2^x at 0 and at Chebyshev points of [0, 1]."""
    rest = chebyshev.Chebyshev.interpolate(lambda x: (np.exp2(x) - 1) / x, DEGREE - 1, domain=[0, 1])
    return np.float32(1), *(np.float32(a) for a in rest.convert(kind=np.polynomial.Polynomial).coef)


COEFFICIENTS = _coefficients()
REGISTER, MASK = ir.VectorType(FLOAT, AVX512_LANES), ir.IntType(AVX512_LANES)
"""A register of AVX-512, and the mask of its lanes that an instruction takes."""
FLOOR, CURRENT_ROUNDING = INT32(1), INT32(4)
"""Operands of its instructions: round down; round as the processor is set to."""
MANTISSA = 23
"""Bits of a float32 below its exponent."""
LOWEST_POWER = -126
"""Exponent of the smallest normal number. Without AVX-512 powers end here, with it at zero."""


def _by_register(builder: Any, name: str, operands: list[Any], *rest: Any) -> Any:
    """An AVX-512 instruction on each register of vectors."""
    registers = []
    for first in range(0, LANES, AVX512_LANES):
        values = [slice_lanes(builder, x, first, AVX512_LANES) if x.type == FLOATS else x for x in operands]
        values += [REGISTER(None), MASK(-1), *rest]
        kind = ir.FunctionType(REGISTER, [x.type for x in values])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512.mask.{name}.ps.512")
        registers.append(builder.call(function, values))
    return concat_lanes(builder, registers)


def _floor(builder: Any, x: Any) -> tuple[Any, Any]:
    """x, at least LOWEST_POWER, and the next whole number below it."""
    least = FLOATS([float(LOWEST_POWER)] * LANES)
    x = builder.select(builder.fcmp_ordered("<", x, least), least, x)
    kind = ir.FunctionType(FLOATS, [FLOATS])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32")
    return x, builder.call(function, [x])


@intrinsic
def fraction(context: Any, x: Any) -> Any:
    """x - floor(x)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if has_avx512(context):
            return _by_register(builder, "reduce", [args[0], FLOOR], CURRENT_ROUNDING)
        return builder.fsub(*_floor(builder, args[0]))

    return vector(vector), generate


@intrinsic
def scale_by_power(context: Any, y: Any, x: Any) -> Any:
    """y · 2^floor(x), for y in [1, 2]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, x = args
        if has_avx512(context):
            return _by_register(builder, "scalef", [y, x], CURRENT_ROUNDING)
        power = builder.shl(builder.fptosi(_floor(builder, x)[1], INT32S), INT32S([MANTISSA] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(y, INT32S), power), FLOATS)

    return vector(vector, vector), generate


@no_reassociation
def exp2(x):
    """2^x, for x up to 127; below -126 it is 2^-126 or smaller."""
    t = fraction(x)
    y = COEFFICIENTS[DEGREE - 1] + t * COEFFICIENTS[DEGREE]
    for i in range(DEGREE - 2, -1, -1):
        y = COEFFICIENTS[i] + t * y
    return scale_by_power(y, x)
