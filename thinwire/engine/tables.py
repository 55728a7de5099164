"""Parts of CPU kernels: numbers looked up in a short table, which lies in registers where the processor has AVX-512.

There looking up is one instruction for each vector; elsewhere whoever has a choice does without, see `has_tables`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.polynomial import Chebyshev, Polynomial

from thinwire.engine.vectors import (
    NUMBER,
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

ENTRIES = 32
"""Of a table: two vectors of AVX-512."""
ROW, PLACES = ir.VectorType(NUMBER, WIDE), ir.VectorType(WORD, WIDE)
SHIFT = np.float32(1.5 * 2**23)
"""Added to a small number it leaves the whole number next to that in the lowest bits."""


@instruction
def has_tables(context: Any) -> Any:
    """Whether looking up is fast; known when kernels are compiled."""
    return types.boolean(), lambda context, builder, signature, given: ir.IntType(1)(is_wide(context))


def looked_up(table: Sequence[float]) -> Any:
    """A function of numba's, `look_up(place)`, of a number or a piece: entries of a table by the lowest bits."""

    @instruction
    def look_up(context: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            if place == piece:
                return _in_registers(builder, given[0]) if is_wide(context) else given[0]
            at = builder.and_(builder.bitcast(given[0], WORD), WORD(ENTRIES - 1))
            entries = cgutils.global_constant(builder, "table", ir.ArrayType(NUMBER, ENTRIES)(list(table)))
            return builder.load(builder.gep(entries, [WORD(0), at]))

        return place(place), generate

    def _in_registers(builder: Any, place: Any) -> Any:
        kind = ir.FunctionType(ROW, [ROW, PLACES, ROW])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpermi2var.ps.512")
        places, halves = builder.bitcast(place, WORDS), (ROW(list(table[:WIDE])), ROW(list(table[WIDE:])))
        rows = [lanes_of(builder, places, first, WIDE) for first in range(0, SIZE, WIDE)]
        return joined(builder, [builder.call(function, [halves[0], row, halves[1]]) for row in rows])

    return look_up


def coefficients(function: Callable[[float], float], end: float, scale: float, degree: int) -> list[list[float]]:
    """Tables of the coefficients, lowest first, of polynomials that are a function about i / scale, for each entry i.

    They are of how far scale times the number is from i; the last entry is for all beyond, where the function ends.
    """
    found = np.zeros((degree + 1, ENTRIES))
    for i in range(ENTRIES - 1):
        about = Chebyshev.interpolate(np.vectorize(lambda x, i=i: function((i + x) / scale)), degree, [-0.5, 0.5])
        found[:, i] = about.convert(kind=Polynomial).coef
    found[0, -1] = end
    return found.astype(np.float32).tolist()
