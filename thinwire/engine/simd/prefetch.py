"""Prefetching: memory is requested before it is used. Parts of CPU kernels.

The tokens of a tile are a short part of every row, rows are far apart in memory, and processors do not predict such
jumps. Rows requested `DISTANCE` ahead arrive in time.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.jit import inline_function, intrinsic
from thinwire.engine.simd.memory import CACHE_LINE
from thinwire.engine.simd.tiles import FLOAT_BYTES
from thinwire.engine.simd.vectors import INT32

LINE_FLOATS = CACHE_LINE // FLOAT_BYTES
"""Float32 in a cache line."""
DISTANCE = 8
"""How many rows before its use a row is requested."""
PREFETCHED_INPUTS = 8
"""Of how many nonzeros of a matrix row the inputs are prefetched."""


def _prefetch(write: bool) -> Callable[..., None]:
    """A numba function `prefetch(row, t)` that requests the cache line of row[t], to be read or written."""

    @intrinsic
    def prefetch(context: Any, row: Any, t: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            address = builder.bitcast(builder.gep(array.data, [args[1]]), cgutils.voidptr_t)
            kind = ir.FunctionType(ir.VoidType(), [address.type, INT32, INT32, INT32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            all_levels, data = 3, 1
            builder.call(function, [address, INT32(int(write)), INT32(all_levels), INT32(data)])
            return context.get_dummy_value()

        return types.void(row, types.intp), generate

    return prefetch


_prefetch_line, _prefetch_line_to_write = _prefetch(write=False), _prefetch(write=True)


@inline_function
def prefetch_read(x, i, begin, end):
    """Prefetch x[i, begin:end] to read it; nothing where x has no row i."""
    if i < len(x):
        row = x[i]
        for t in range(begin, end, LINE_FLOATS):
            _prefetch_line(row, t)


@inline_function
def prefetch_write(x, i, begin, end):
    """Prefetch x[i, begin:end] to write it; nothing where x has no row i."""
    if i < len(x):
        row = x[i]
        for t in range(begin, end, LINE_FLOATS):
            _prefetch_line_to_write(row, t)


@inline_function
def prefetch_inputs(indices, indptr, o, x, begin, end):
    """Prefetch what row o of a sparse matrix (CSR) reads of x[:, begin:end], for its first few nonzeros."""
    for i in range(indptr[o], min(indptr[o] + PREFETCHED_INPUTS, indptr[o + 1])):
        prefetch_read(x, indices[i], begin, end)
