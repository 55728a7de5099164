"""Parts of CPU kernels: products of small dense blocks, whose sums stay in registers, and blocks turned."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.jit import inner
from thinwire.engine.vectors import ALIGNED, NUMBER, PLACE, SIZE, VECTOR, WORD, address, instruction, spread

ROWS = VECTOR
"""Rows of a block: so many sums, and what they are made of, fit the registers."""
LINE = ir.VectorType(NUMBER, VECTOR)


def _row(context: Any, builder: Any, kind: Any, array: Any, i: Any, j: Any) -> Any:
    """Where array[i, j:j + VECTOR] lies; numbers of a row lie one behind the other."""
    return address(builder, context.make_array(kind)(context, builder, array), [i, j], LINE)


@instruction
def add_block(context: Any, rows: Any, columns: Any, n: Any, j: Any, out: Any) -> Any:
    """out[:ROWS, j:j + VECTOR] += rows[:ROWS, :n] · columns[:n, j:j + VECTOR]; the rows are those of a tile."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        rows, columns, n, j, out = given
        kinds = signature.args
        places = [_row(context, builder, kinds[4], out, PLACE(r), j) for r in range(ROWS)]
        sums = [cgutils.alloca_once_value(builder, builder.load(place, align=ALIGNED)) for place in places]
        data = context.make_array(kinds[0])(context, builder, rows).data
        with cgutils.for_range(builder, n) as loop:
            column = builder.load(_row(context, builder, kinds[1], columns, loop.index, j), align=ALIGNED)
            for r, made in enumerate(sums):
                number = builder.load(builder.gep(data, [builder.add(loop.index, PLACE(r * SIZE))]))
                product = builder.fmul(spread(builder, number, VECTOR), column, flags=["contract"])
                builder.store(builder.fadd(product, builder.load(made), flags=["contract"]), made)
        for place, made in zip(places, sums, strict=True):
            builder.store(builder.load(made), place, align=ALIGNED)
        return context.get_dummy_value()

    return types.void(rows, columns, types.intp, types.intp, out), generate


@instruction
def _turn_block(context: Any, x: Any, i: Any, j: Any, factor: Any, out: Any) -> Any:
    """out[j:j + VECTOR, i:i + VECTOR] = factor times x[i:i + VECTOR, j:j + VECTOR], turned."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, i, j, factor, out = given
        size, kinds = spread(builder, factor, VECTOR), signature.args
        lines = [_row(context, builder, kinds[0], x, builder.add(i, PLACE(r)), j) for r in range(VECTOR)]
        lines = _turned(builder, [builder.fmul(builder.load(line, align=ALIGNED), size) for line in lines])
        for r, line in enumerate(lines):
            builder.store(line, _row(context, builder, kinds[4], out, builder.add(j, PLACE(r)), i), align=ALIGNED)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, types.float32, out), generate


def _turned(builder: Any, lines: list[Any]) -> list[Any]:
    """Each time, rows that lie half of them apart are shuffled into each other."""
    half = VECTOR // 2
    halves = [[n // 2 + first + n % 2 * VECTOR for n in range(VECTOR)] for first in (0, half)]
    for _ in range(half.bit_length()):
        lines = [
            builder.shuffle_vector(lines[r], lines[r + half], ir.VectorType(WORD, VECTOR)(lanes))
            for r in range(half)
            for lanes in halves
        ]
    return lines


@inner
def turn(x, factor, out):
    """out[j, i] = factor · x[i, j]; of both rows and columns x has as many as whole vectors."""
    for i in range(0, x.shape[0], VECTOR):
        for j in range(0, x.shape[1], VECTOR):
            _turn_block(x, i, j, factor, out)
