"""Vectors of the processor, as a type of numba's: a piece of a row. Parts of CPU kernels.

Loops that numba compiles keep sums in memory from one loop to the next, wait for one vector after the other where a
number depends on the one before, and do what is left of a row number by number. Where that costs too much, kernels say
here what is to be in registers. `a * b + c` is one instruction for each vector; either of two may be a number.
"""

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

VECTOR = 16 if get_host_cpu_features().get("avx512f") else 8
"""Numbers in a vector."""
WIDE = 16
"""Numbers in a vector of AVX-512."""
SIZE = 64
"""Numbers of a piece: enough vectors that they do not wait for each other, and four lines of the cache."""
ALIGNED = 4
"""Bytes that numbers in memory are aligned to."""
BYTE, WORD, PLACE, NUMBER = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
WORDS, NUMBERS = ir.VectorType(WORD, SIZE), ir.VectorType(NUMBER, SIZE)


class Piece(types.Type):
    """[SIZE] float32."""

    def __init__(self) -> None:
        super().__init__("piece")


piece = Piece()


@register_model(Piece)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, NUMBERS)


def is_wide(context: Any) -> bool:
    """Whether what is compiled may use instructions of AVX-512."""
    return "+avx512dq" in context.codegen().magic_tuple()[2]


def instruction(function: Callable[..., Any]) -> Any:
    """Decorates a function of numba's that says itself what code it is."""
    return intrinsic(function)


def _operator(symbol: Callable[..., Any], name: str) -> None:
    """Let a symbol of Python's be an instruction."""
    kinds = [(piece, piece), (piece, types.float32), (types.float32, piece)]

    @infer_global(symbol)  # pyright: ignore
    class _(ConcreteTemplate):
        cases: ClassVar = [signature(piece, *pair) for pair in kinds]

    def lower(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pair = [spread(builder, x, SIZE) if x.type == NUMBER else x for x in given]
        return getattr(builder, name)(*pair, flags=["contract"])

    for pair in kinds:
        lower_builtin(symbol, *pair)(lower)


_operator(operator.add, "fadd")
_operator(operator.iadd, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


def spread(builder: Any, number: Any, size: int) -> Any:
    """A vector of one number."""
    empty = ir.Constant(ir.VectorType(number.type, size), ir.Undefined)
    lanes = ir.VectorType(WORD, size)(None)
    return builder.shuffle_vector(builder.insert_element(empty, number, WORD(0)), empty, lanes)


def lanes_of(builder: Any, x: Any, first: int, size: int) -> Any:
    """Numbers of a vector from the first on."""
    return builder.shuffle_vector(x, x, ir.VectorType(WORD, size)(list(range(first, first + size))))


def joined(builder: Any, rows: list[Any]) -> Any:
    """One vector of several, as many as a power of two."""
    while len(rows) > 1:
        lanes = ir.VectorType(WORD, 2 * rows[0].type.count)(list(range(2 * rows[0].type.count)))
        rows = [builder.shuffle_vector(x, y, lanes) for x, y in zip(rows[::2], rows[1::2], strict=True)]
    return rows[0]


def address(builder: Any, array: Any, place: list[Any], kind: ir.Type) -> Any:
    """Where array[*place] lies, as the place of such a thing."""
    strides = cgutils.unpack_tuple(builder, array.strides, len(place))
    at = builder.bitcast(array.data, BYTE.as_pointer())
    for i, stride in zip(place, strides, strict=True):
        at = builder.gep(at, [builder.mul(i, stride)])
    return builder.bitcast(at, kind.as_pointer())


@instruction
def everywhere(context: Any, number: Any) -> Any:
    """A piece of one number."""
    return piece(types.float32), lambda context, builder, signature, given: spread(builder, given[0], SIZE)


def _choice(sign: str) -> Any:
    """A function of numba's, `choose(x, y)`: y where x is so to it, otherwise x."""

    @instruction
    def choose(context: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            x, y = given
            y = spread(builder, y, SIZE) if y.type != x.type else y
            return builder.select(builder.fcmp_ordered(sign, x, y), y, x)

        return x(x, y), generate

    return choose


larger, smaller = _choice("<"), _choice(">")
"""Of two numbers, or of each pair of two pieces, or of a piece and a number; NaN in x stays."""


def _by_number(name: str, n_given: int) -> Any:
    """A function of numba's that calls one of LLVM's for numbers or pieces, all alike."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = given[0].type
        suffix = "f32" if kind == NUMBER else f"v{SIZE}f32"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * n_given), f"llvm.{name}.{suffix}"
        )
        return builder.call(function, given)

    if n_given == 1:
        return instruction(lambda context, x: (x(x), generate))
    return instruction(lambda context, x, y: (x(x, y), generate))


magnitude, signed = _by_number("fabs", 1), _by_number("copysign", 2)
"""|x|; |x| with the sign of y. Of a number, or of each of a piece."""
