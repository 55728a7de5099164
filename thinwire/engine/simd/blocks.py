"""Products and transposes of small dense blocks, whose sums stay in registers. Parts of CPU kernels."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.jit import device_function, intrinsic
from thinwire.engine.simd.vectors import (
    FLOAT,
    FLOAT_ALIGNMENT,
    INT32,
    INT64,
    LANES,
    REGISTER_LANES,
    address_of,
    splat,
)

BLOCK_ROWS = REGISTER_LANES
"""Rows of a block: the registers hold as many sums and their operands."""
REGISTER = ir.VectorType(FLOAT, REGISTER_LANES)


def _row_address(context: Any, builder: Any, kind: Any, array: Any, i: Any, j: Any) -> Any:
    """The address of array[i, j:j + REGISTER_LANES], whose rows are contiguous."""
    return address_of(builder, context.make_array(kind)(context, builder, array), [i, j], REGISTER)


@intrinsic
def add_block(context: Any, left: Any, right: Any, n: Any, j: Any, out: Any) -> Any:
    """out[:BLOCK_ROWS, j:j + REGISTER_LANES] += left[:BLOCK_ROWS, :n] · right[:n, j:j + REGISTER_LANES].

    The rows of `left` are `LANES` numbers apart, as those of a tile.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right, n, j, out = args
        kinds = signature.args
        addresses = [_row_address(context, builder, kinds[4], out, INT64(r), j) for r in range(BLOCK_ROWS)]
        sums = [cgutils.alloca_once_value(builder, builder.load(at, align=FLOAT_ALIGNMENT)) for at in addresses]
        data = context.make_array(kinds[0])(context, builder, left).data
        with cgutils.for_range(builder, n) as loop:
            at = _row_address(context, builder, kinds[1], right, loop.index, j)
            row = builder.load(at, align=FLOAT_ALIGNMENT)
            for r, total in enumerate(sums):
                number = builder.load(builder.gep(data, [builder.add(loop.index, INT64(r * LANES))]))
                product = builder.fmul(splat(builder, number, REGISTER_LANES), row, flags=["contract"])
                builder.store(builder.fadd(product, builder.load(total), flags=["contract"]), total)
        for at, total in zip(addresses, sums, strict=True):
            builder.store(builder.load(total), at, align=FLOAT_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(left, right, types.intp, types.intp, out), generate


@intrinsic
def _transpose_block(context: Any, x: Any, i: Any, j: Any, factor: Any, out: Any) -> Any:
    """out[j:j + REGISTER_LANES, i:i + REGISTER_LANES] = factor · the transpose of that block of x at [i, j]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, i, j, factor, out = args
        scale, kinds = splat(builder, factor, REGISTER_LANES), signature.args
        rows = []
        for r in range(REGISTER_LANES):
            at = _row_address(context, builder, kinds[0], x, builder.add(i, INT64(r)), j)
            rows.append(builder.fmul(builder.load(at, align=FLOAT_ALIGNMENT), scale))
        for r, row in enumerate(_transposed(builder, rows)):
            at = _row_address(context, builder, kinds[4], out, builder.add(j, INT64(r)), i)
            builder.store(row, at, align=FLOAT_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, types.float32, out), generate


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The transpose of a square of registers: in each round, rows half the square apart are interleaved."""
    half = REGISTER_LANES // 2
    halves = [[n // 2 + first + n % 2 * REGISTER_LANES for n in range(REGISTER_LANES)] for first in (0, half)]
    for _ in range(half.bit_length()):
        rows = [
            builder.shuffle_vector(rows[r], rows[r + half], ir.VectorType(INT32, REGISTER_LANES)(lanes))
            for r in range(half)
            for lanes in halves
        ]
    return rows


@device_function
def transpose(x, factor, out):
    """out[j, i] = factor · x[i, j]; rows and columns of x are multiples of REGISTER_LANES."""
    for i in range(0, x.shape[0], REGISTER_LANES):
        for j in range(0, x.shape[1], REGISTER_LANES):
            _transpose_block(x, i, j, factor, out)
