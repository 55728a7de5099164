"""The vector type of CPU kernels: `LANES` float32 that stay in registers.

Left to itself, the compiler keeps sums in memory from one loop to the next, waits for one register after the other
where a number depends on the one before, and handles the end of a row number by number. Where that costs too much, a
kernel computes with vectors. `+ - * /` work between two vectors and between a vector and a float32; `a * b + c` is one
instruction a register. `memory` loads and stores vectors, `lanes` compares them.
"""

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

from thinwire.engine.jit import intrinsic

LANES = 64
"""Float32 in a vector: several hardware registers, so that they need not wait for each other, and four cache lines."""
AVX512_LANES = 16
"""Float32 in a register of AVX-512."""
FLOAT_ALIGNMENT = 4
"""Bytes that a float32 in memory is aligned to."""
INT8, INT32, INT64, FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
INT32S, FLOATS = ir.VectorType(INT32, LANES), ir.VectorType(FLOAT, LANES)


def has_avx512(context: Any) -> bool:
    """Whether code compiled in a numba target context may use AVX-512."""
    return "+avx512dq" in context.codegen().magic_tuple()[2]


REGISTER_LANES = AVX512_LANES if has_avx512(cpu_target.target_context) else 8
"""Float32 in a hardware register; 8 with AVX2."""


class VectorType(types.Type):
    """The numba type of a vector: float32 [LANES]."""

    def __init__(self) -> None:
        super().__init__("vector")


vector = VectorType()


@register_model(VectorType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    """Let a Python operator be an LLVM instruction on vectors, and on a vector and a number."""
    pairs = [(vector, vector), (vector, types.float32), (types.float32, vector)]

    @infer_global(symbol)  # pyright: ignore
    class _(ConcreteTemplate):
        cases: ClassVar = [signature(vector, *pair) for pair in pairs]

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        operands = [splat(builder, x, LANES) if x.type == FLOAT else x for x in args]
        return getattr(builder, instruction)(*operands, flags=["contract"])

    for pair in pairs:
        lower_builtin(symbol, *pair)(lower)


_define_operator(operator.add, "fadd")
_define_operator(operator.iadd, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


# Parts of intrinsics: functions of an LLVM IR builder.


def splat(builder: Any, number: Any, size: int) -> Any:
    """An LLVM vector with a number in each of `size` lanes."""
    undefined = ir.Constant(ir.VectorType(number.type, size), ir.Undefined)
    lanes = ir.VectorType(INT32, size)(None)
    return builder.shuffle_vector(builder.insert_element(undefined, number, INT32(0)), undefined, lanes)


def slice_lanes(builder: Any, x: Any, first: int, size: int) -> Any:
    """x[first:first + size] of an LLVM vector."""
    return builder.shuffle_vector(x, x, ir.VectorType(INT32, size)(list(range(first, first + size))))


def concat_lanes(builder: Any, parts: list[Any]) -> Any:
    """One LLVM vector from several, whose number is a power of two."""
    while len(parts) > 1:
        size = 2 * parts[0].type.count
        lanes = ir.VectorType(INT32, size)(list(range(size)))
        parts = [builder.shuffle_vector(x, y, lanes) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def nonzero(builder: Any, x: Any) -> Any:
    """The LLVM mask of the lanes of a vector that are not zero; NaN is not zero."""
    return builder.fcmp_unordered("!=", x, FLOATS(None))


def address_of(builder: Any, array: Any, index: list[Any], kind: ir.Type) -> Any:
    """The address of array[*index], as a pointer to an LLVM type."""
    strides = cgutils.unpack_tuple(builder, array.strides, len(index))
    at = builder.bitcast(array.data, INT8.as_pointer())
    for i, stride in zip(index, strides, strict=True):
        at = builder.gep(at, [builder.mul(i, stride)])
    return builder.bitcast(at, kind.as_pointer())


# Functions that kernels call.


@intrinsic
def broadcast(context: Any, number: Any) -> Any:
    """A vector with a float32 in every lane."""
    return vector(types.float32), lambda context, builder, signature, args: splat(builder, args[0], LANES)


def _choice(sign: str) -> Any:
    """A numba function `choose(x, y)`: y where x `sign` y, otherwise x."""

    @intrinsic
    def choose(context: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, y = args
            y = splat(builder, y, LANES) if y.type != x.type else y
            return builder.select(builder.fcmp_ordered(sign, x, y), y, x)

        return x(x, y), generate

    return choose


maximum, minimum = _choice("<"), _choice(">")
"""Of two numbers, two vectors, or a vector and a number; a NaN in the first argument stays."""


def _elementwise(name: str, n_args: int) -> Any:
    """A numba function that calls an LLVM intrinsic on numbers or vectors, all of one kind."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        suffix = "f32" if kind == FLOAT else f"v{LANES}f32"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * n_args), f"llvm.{name}.{suffix}"
        )
        return builder.call(function, args)

    if n_args == 1:
        return intrinsic(lambda context, x: (x(x), generate))
    return intrinsic(lambda context, x, y: (x(x, y), generate))


absolute, copysign = _elementwise("fabs", 1), _elementwise("copysign", 2)
"""|x|; |x| with the sign of y. Of a number or a vector."""
