"""Vectors to and from memory: loads, stores, flags, and the fence after streaming stores. Parts of CPU kernels.

A row is a contiguous array of float32. A vector is `LANES` consecutive numbers of one row; see `vectors`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.jit import intrinsic
from thinwire.engine.simd.vectors import (
    FLOAT_ALIGNMENT,
    FLOATS,
    INT8,
    INT32,
    INT32S,
    LANES,
    address_of,
    nonzero,
    splat,
    vector,
)

CACHE_LINE = 64
"""Bytes of a cache line."""
INT8S = ir.VectorType(INT8, LANES)
"""The flags of a vector in memory."""


def _address(context: Any, builder: Any, kind: Any, row: Any, t: Any) -> Any:
    return address_of(builder, context.make_array(kind)(context, builder, row), [t], FLOATS)


def _lanes_before(builder: Any, t: Any, end: Any) -> Any:
    """The mask of the lanes t, t + 1, … that come before `end`."""
    n = builder.trunc(builder.sub(end, t), INT32)
    return builder.icmp_signed("<", INT32S(list(range(LANES))), splat(builder, n, LANES))


@intrinsic
def load(context: Any, row: Any, t: Any) -> Any:
    """row[t:t + LANES]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=FLOAT_ALIGNMENT)

    return vector(row, types.intp), generate


@intrinsic
def load_masked(context: Any, row: Any, t: Any, end: Any) -> Any:
    """row[t:end], and zeros in the lanes from `end` on, whose memory is not touched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, t, end = args
        address, lanes = _address(context, builder, signature.args[0], row, t), _lanes_before(builder, t, end)
        kind = ir.FunctionType(FLOATS, [address.type, INT32, lanes.type, FLOATS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(function, [address, INT32(FLOAT_ALIGNMENT), lanes, FLOATS(None)])

    return vector(row, types.intp, types.intp), generate


@intrinsic
def store_masked(context: Any, row: Any, t: Any, end: Any, x: Any) -> Any:
    """row[t:end] = the first lanes of x; memory from `end` on is not touched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, t, end, x = args
        address, lanes = _address(context, builder, signature.args[0], row, t), _lanes_before(builder, t, end)
        kind = ir.FunctionType(ir.VoidType(), [FLOATS, address.type, INT32, lanes.type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        builder.call(function, [x, address, INT32(FLOAT_ALIGNMENT), lanes])
        return context.get_dummy_value()

    return types.void(row, types.intp, types.intp, vector), generate


def _store(align: int, streaming: bool) -> Any:
    """A numba function `store(row, t, x)` for addresses aligned to so many bytes."""

    @intrinsic
    def store(context: Any, row: Any, t: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, t, x = args
            stored = builder.store(x, _address(context, builder, signature.args[0], row, t), align=align)
            if streaming:
                stored.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
            return context.get_dummy_value()

        return types.void(row, types.intp, vector), generate

    return store


store = _store(FLOAT_ALIGNMENT, streaming=False)
"""row[t:t + LANES] = x."""
store_streaming = _store(CACHE_LINE, streaming=True)
"""The same with a non-temporal store, which bypasses the caches.

row[t] begins a cache line. Other threads see the numbers after a `fence`.
"""


@intrinsic
def load_flags(context: Any, row: Any, t: Any) -> Any:
    """row[t:t + LANES], int8, as floats."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        address = address_of(builder, array, [args[1]], INT8S)
        return builder.sitofp(builder.load(address, align=1), FLOATS)

    return vector(row, types.intp), generate


@intrinsic
def store_flags(context: Any, row: Any, t: Any, x: Any) -> Any:
    """row[t:t + LANES], int8, = 1 where x is not zero, otherwise 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, t, x = args
        array = context.make_array(signature.args[0])(context, builder, row)
        flags = builder.zext(nonzero(builder, x), INT8S)
        builder.store(flags, address_of(builder, array, [t], INT8S), align=1)
        return context.get_dummy_value()

    return types.void(row, types.intp, vector), generate


@intrinsic
def fence(context: Any) -> Any:
    """Other threads see what was stored before this ahead of what is stored after it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
