"""Stretches of one row, as pieces: read, written, and their magnitudes compared. Parts of CPU kernels."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from thinwire.engine.vectors import (
    ALIGNED,
    BYTE,
    NUMBERS,
    PLACE,
    SIZE,
    WORD,
    WORDS,
    address,
    instruction,
    lanes_of,
    piece,
    spread,
)

LINE = 64
"""Bytes of a line of the cache."""
MAGNITUDE = 0x7FFFFFFF
"""All bits of a float but its sign."""


FLAGS = ir.VectorType(BYTE, SIZE)
"""What the flags of a stretch are in memory."""


def _place(context: Any, builder: Any, kind: Any, row: Any, t: Any) -> Any:
    return address(builder, context.make_array(kind)(context, builder, row), [t], NUMBERS)


@instruction
def stretch(context: Any, row: Any, t: Any) -> Any:
    """row[t:t + SIZE]; numbers lie one behind the other."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], *given), align=ALIGNED)

    return piece(row, types.intp), generate


def _before(builder: Any, t: Any, end: Any) -> Any:
    """Which numbers of a stretch from t on come before an end."""
    n = builder.trunc(builder.sub(end, t), WORD)
    return builder.icmp_signed("<", WORDS(list(range(SIZE))), spread(builder, n, SIZE))


@instruction
def stretch_until(context: Any, row: Any, t: Any, end: Any) -> Any:
    """row[t:end], and zeros after it."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        row, t, end = given
        place, chosen = _place(context, builder, signature.args[0], row, t), _before(builder, t, end)
        kind = ir.FunctionType(NUMBERS, [place.type, WORD, chosen.type, NUMBERS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{SIZE}f32.p0")
        return builder.call(function, [place, WORD(ALIGNED), chosen, NUMBERS(None)])

    return piece(row, types.intp, types.intp), generate


@instruction
def store_until(context: Any, row: Any, t: Any, end: Any, x: Any) -> Any:
    """row[t:end] = the first numbers of x."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        row, t, end, x = given
        place, chosen = _place(context, builder, signature.args[0], row, t), _before(builder, t, end)
        kind = ir.FunctionType(ir.VoidType(), [NUMBERS, place.type, WORD, chosen.type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{SIZE}f32.p0")
        builder.call(function, [x, place, WORD(ALIGNED), chosen])
        return context.get_dummy_value()

    return types.void(row, types.intp, types.intp, piece), generate


def _storing(align: int, past: bool) -> Any:
    """A function of numba's, `put(row, t, x)`."""

    @instruction
    def put(context: Any, row: Any, t: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            row, t, x = given
            stored = builder.store(x, _place(context, builder, signature.args[0], row, t), align=align)
            if past:
                stored.set_metadata("nontemporal", builder.module.add_metadata([WORD(1)]))
            return context.get_dummy_value()

        return types.void(row, types.intp, piece), generate

    return put


store_stretch, store_past = _storing(ALIGNED, past=False), _storing(LINE, past=True)
"""row[t:t + SIZE] = x. The second stores past the caches, whole lines, which other threads see after a `fence`."""


@instruction
def flags_of(context: Any, row: Any, t: Any) -> Any:
    """row[t:t + SIZE], int8, as numbers."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, given[0])
        place = address(builder, array, [given[1]], FLAGS)
        return builder.sitofp(builder.load(place, align=1), NUMBERS)

    return piece(row, types.intp), generate


@instruction
def store_flags(context: Any, row: Any, t: Any, x: Any) -> Any:
    """row[t:t + SIZE], int8, = where x is not zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        row, t, x = given
        array = context.make_array(signature.args[0])(context, builder, row)
        flags = builder.zext(_nonzero(builder, x), FLAGS)
        builder.store(flags, address(builder, array, [t], FLAGS), align=1)
        return context.get_dummy_value()

    return types.void(row, types.intp, piece), generate


@instruction
def fence(context: Any) -> Any:
    """What was stored is seen by other threads before what is stored after this."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _nonzero(builder: Any, x: Any) -> Any:
    return builder.fcmp_unordered("!=", x, NUMBERS(None))


@instruction
def nonzero(context: Any, x: Any) -> Any:
    """Which numbers are not zero: one bit for each."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.bitcast(_nonzero(builder, given[0]), PLACE)

    return types.uint64(piece), generate


@instruction
def marked(context: Any, marks: Any, x: Any, bit: Any) -> Any:
    """Marks, which are bits of floats, and one more bit where x is not zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        marks, x, bit = given
        mark = spread(builder, builder.shl(WORD(1), builder.trunc(bit, WORD)), SIZE)
        more = builder.select(_nonzero(builder, x), mark, WORDS(None))
        return builder.bitcast(builder.or_(builder.bitcast(marks, WORDS), more), NUMBERS)

    return piece(piece, piece, types.intp), generate


@instruction
def where(context: Any, x: Any, either: Any, other: Any) -> Any:
    """x where either of two others is not zero, otherwise zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, *others = given
        chosen = builder.or_(*[_nonzero(builder, other) for other in others])
        return builder.select(chosen, x, NUMBERS(None))

    return piece(piece, piece, piece), generate


@instruction
def among(context: Any, x: Any, lanes: Any) -> Any:
    """x in some lanes, one bit for each, otherwise zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, lanes = given
        return builder.select(builder.bitcast(lanes, ir.VectorType(ir.IntType(1), SIZE)), x, NUMBERS(None))

    return piece(piece, types.uint64), generate


@instruction
def where_seen(context: Any, x: Any, seen: Any, position: Any, other: Any) -> Any:
    """x where a position is one of the first so many that are `seen`, both whole floats, otherwise another number."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, seen, position, other = given
        chosen = builder.fcmp_ordered("<", spread(builder, position, SIZE), seen)
        return builder.select(chosen, x, spread(builder, other, SIZE))

    return piece(piece, piece, types.float32, types.float32), generate


@instruction
def total(context: Any, x: Any) -> Any:
    """The sum of all numbers of a piece."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, n = given[0], SIZE
        while n > 1:
            n //= 2
            x = builder.fadd(lanes_of(builder, x, 0, n), lanes_of(builder, x, n, n))
        return builder.extract_element(x, WORD(0))

    return types.float32(piece), generate


@instruction
def one_more(context: Any, n: Any, x: Any) -> Any:
    """n, and one more where x is not zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        n, x = given
        return builder.select(_nonzero(builder, x), builder.fadd(n, NUMBERS([1.0] * SIZE)), n)

    return piece(piece, piece), generate


@instruction
def equal(context: Any, x: Any, number: Any) -> Any:
    """Where numbers are this one: one bit for each."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.bitcast(builder.fcmp_ordered("==", given[0], spread(builder, given[1], SIZE)), PLACE)

    return types.uint64(piece, types.float32), generate


@instruction
def any_above(context: Any, x: Any, number: Any) -> Any:
    """Whether any number of a piece is larger than one."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        above = builder.fcmp_ordered(">", given[0], spread(builder, given[1], SIZE))
        return builder.icmp_unsigned("!=", builder.bitcast(above, PLACE), PLACE(0))

    return types.boolean(piece, types.float32), generate


def _reaches(builder: Any, x: Any, least: Any) -> Any:
    magnitude = builder.and_(builder.bitcast(x, WORDS), WORDS([MAGNITUDE] * SIZE))
    return builder.icmp_signed(">=", magnitude, builder.bitcast(least, WORDS))


@instruction
def counted(context: Any, n: Any, x: Any, least: Any, one: Any) -> Any:
    """n, whole numbers in the bits of floats, and `one` more, such a number, where x reaches the magnitude `least`."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        n, x, least, one = given
        more = builder.select(_reaches(builder, x, least), builder.bitcast(one, WORDS), WORDS(None))
        return builder.bitcast(builder.add(builder.bitcast(n, WORDS), more), NUMBERS)

    return piece(piece, piece, piece, piece), generate


@instruction
def reaching(context: Any, x: Any, least: Any) -> Any:
    """x where it reaches the magnitude `least`, otherwise zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        x, least = given
        return builder.select(_reaches(builder, x, least), x, NUMBERS(None))

    return piece(piece, piece), generate


@instruction
def lowest(context: Any, lanes: Any) -> Any:
    """The place of the lowest bit of some, not none."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.IntType(1)(1))

    return types.intp(types.uint64), generate
