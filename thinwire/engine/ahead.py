"""Parts of CPU kernels that ask for memory before it is used.

A stretch of tokens is a short piece of every row, rows lie far apart, and processors do not foresee such jumps. Asked
for a few rows ahead, it is there in time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from thinwire.engine.jit import inlined
from thinwire.engine.stretches import LINE
from thinwire.engine.tiles import NUMBER

EVERY = LINE // NUMBER
"""Numbers in a line of the cache."""
AHEAD = 8
"""Rows ahead of the one in use."""
INPUTS = 8
"""Nonzeros of a row of a matrix whose inputs are asked for."""
READ, WRITE = 0, 1


def _prefetch(purpose: int) -> Any:
    """A function of numba's, `ask(row, place)`, that asks for the line with row[place]."""

    @intrinsic
    def ask(context: Any, row: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), cgutils.voidptr_t)
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            near, data = 3, 1
            builder.call(function, [pointer, number(purpose), number(near), number(data)])
            return context.get_dummy_value()

        return types.void(row, types.intp), generate

    return ask


_ask_to_read, _ask_to_write = _prefetch(READ), _prefetch(WRITE)


@inlined
def read_ahead(x, i, begin, end):
    """Ask for x[i, begin:end], to be read; nothing for rows after the last."""
    if i < len(x):
        row = x[i]
        for t in range(begin, end, EVERY):
            _ask_to_read(row, t)


@inlined
def write_ahead(x, i, begin, end):
    """The same for what is to be written."""
    if i < len(x):
        row = x[i]
        for t in range(begin, end, EVERY):
            _ask_to_write(row, t)


@inlined
def read_inputs_ahead(columns, starts, o, x, begin, end):
    """Ask for what row o of a matrix reads of x[:, begin:end], or the first few of that."""
    for i in range(starts[o], min(starts[o] + INPUTS, starts[o + 1])):
        read_ahead(x, columns[i], begin, end)
