"""Parts of CPU kernels: 2^x of a piece of rows.

That of the library is one call a number. Here it is a polynomial of the fraction, and the exponent's bits; exact to
3e-7.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.polynomial import chebyshev

from thinwire.engine.jit import exact
from thinwire.engine.vectors import (
    NUMBER,
    NUMBERS,
    SIZE,
    WIDE,
    WORD,
    WORDS,
    instruction,
    is_wide,
    joined,
    lanes_of,
    piece,
)

LOG2_E = np.float32(1 / math.log(2))
DEGREE = 5
"""Of the polynomial."""


def _coefficients() -> tuple[np.float32, ...]:
    """Of a polynomial that is 2^x at 0, and about at Chebyshev points of [0, 1], lowest first."""
    rest = chebyshev.Chebyshev.interpolate(lambda x: (np.exp2(x) - 1) / x, DEGREE - 1, domain=[0, 1])
    return np.float32(1), *(np.float32(a) for a in rest.convert(kind=np.polynomial.Polynomial).coef)


POWER = _coefficients()
"""Its coefficients."""
ROW, MASK = ir.VectorType(NUMBER, WIDE), ir.IntType(WIDE)
"""Such a vector, and which of its lanes an instruction is for."""
DOWN, ROUNDING = WORD(1), WORD(4)
"""What its instructions are told: the next whole number below, and whatever rounding is in force."""
MANTISSA = 23
"""Bits of a float below its exponent."""
LOWEST_POWER = -126
"""Of powers that are normal numbers; where AVX-512 is missing, powers end here, otherwise at zero."""


def _by_row(builder: Any, name: str, given: list[Any], *rest: Any) -> Any:
    """An instruction of AVX-512 for each row of pieces."""
    rows = []
    for first in range(0, SIZE, WIDE):
        values = [lanes_of(builder, x, first, WIDE) if x.type == NUMBERS else x for x in given]
        values += [ROW(None), MASK(-1), *rest]
        kind = ir.FunctionType(ROW, [x.type for x in values])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512.mask.{name}.ps.512")
        rows.append(builder.call(function, values))
    return joined(builder, rows)


def _floor(builder: Any, x: Any) -> tuple[Any, Any]:
    """x, or the lowest power where it is below that, and the next whole number below."""
    least = NUMBERS([float(LOWEST_POWER)] * SIZE)
    x = builder.select(builder.fcmp_ordered("<", x, least), least, x)
    kind = ir.FunctionType(NUMBERS, [NUMBERS])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{SIZE}f32")
    return x, builder.call(function, [x])


@instruction
def fraction(context: Any, x: Any) -> Any:
    """x without the next whole number below."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        if is_wide(context):
            return _by_row(builder, "reduce", [given[0], DOWN], ROUNDING)
        return builder.fsub(*_floor(builder, given[0]))

    return piece(piece), generate


@instruction
def scaled(context: Any, y: Any, x: Any) -> Any:
    """y, from 1 to 2, times two to the power of the next whole number below x."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        y, x = given
        if is_wide(context):
            return _by_row(builder, "scalef", [y, x], ROUNDING)
        power = builder.shl(builder.fptosi(_floor(builder, x)[1], WORDS), WORDS([MANTISSA] * SIZE))
        return builder.bitcast(builder.add(builder.bitcast(y, WORDS), power), NUMBERS)

    return piece(piece, piece), generate


@exact
def power_of_two(x):
    """2^x, for x up to 127; small ones end at 2^-126 or at zero."""
    at = fraction(x)
    y = POWER[DEGREE - 1] + at * POWER[DEGREE]
    for i in range(DEGREE - 2, -1, -1):
        y = POWER[i] + at * y
    return scaled(y, x)
