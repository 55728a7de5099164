"""Compiles every GPU kernel for a Hopper device, which need not be here; prints a line each."""

from collections.abc import Mapping
from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from thinwire.engine.gpu import products as ours
from thinwire.engine.gpu import radix as triton_digits
from thinwire.engine.gpu import rows as triton_rows

HOPPER = GPUTarget("cuda", 90, 32)
NUMBERS = ("x", "out", "kept", "grad", "values")
PLACES = dict.fromkeys(("counts", "ties", "rows", "columns", "starts"), "*i32")
TOKENS = dict.fromkeys(("tokens", "by_token", "token_starts"), "*i64")
ALIGNED = ("width", "row_stride", "column_stride", "n", "rows")
"""Sizes that are taken to be multiples of 16."""


def compile_kernel(kernel, warps: int, types: Mapping[str, str], **constants: int) -> None:
    """Compile for arguments of 16-byte alignment and 32-bit sizes; `types` are those of pointers."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name in ALIGNED]
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned if signature[names[i]] != "constexpr"},
    )
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps})
    print(kernel.__name__, types["out"], constants, len(compiled.asm["cubin"]), "bytes")


def compile_rows_and_columns() -> None:
    layouts = (("column_stride", 1), (96, 2048, 32_768)), (("row_stride", triton_rows.COLUMNS), (96, 2048, 4096))
    for integer, magnitude in (("*i32", 0x7FFFFFFF), ("*i16", 0x7FFF)):
        for (near, side_by_side), widths in layouts:
            for width in widths:
                together, padded, warps = triton_rows._tile(width, side_by_side)
                constants = {near: 1, "ROWS": together, "WIDTH": padded, "MAGNITUDE": magnitude}
                for kernel in (triton_rows._keep_rows, triton_rows._pass_rows):
                    compile_kernel(kernel, warps, dict.fromkeys(NUMBERS, integer), **constants)


def compile_digits() -> None:
    for (integer, magnitude, n_digits), reserved in product((("*i32", 0x7FFFFFFF, 4), ("*i16", 0x7FFF, 2)), (0, 1)):
        types = dict.fromkeys(NUMBERS, integer) | PLACES | {"reserved": "*u8" if reserved else integer}
        shared = {"RESERVED": reserved, "MAGNITUDE": magnitude, "N_DIGITS": n_digits, "BLOCK": triton_digits.BLOCK}
        compile_kernel(triton_digits._count_digit, 8, types, DIGIT=n_digits - 1, **shared)
        compile_kernel(triton_digits._count_ties, 8, types, **shared)
        compile_kernel(triton_digits._keep_long, 8, types, MAX_PARTS=triton_digits.MAX_PARTS, **shared)


def compile_products() -> None:
    single = dict.fromkeys((*NUMBERS, "bias"), "*fp32") | PLACES | TOKENS
    for number in ("*fp32", "*bf16"):
        read = single | {"x": number, "grad": number}
        written = read | {"out": number}
        compile_kernel(ours._multiply, 4, written, ROWS=ours.ROWS, TOKENS=ours.TOKENS, TOGETHER=ours.TOGETHER)
        compile_kernel(ours._weight_gradient, 4, read, NONZEROS=ours.NONZEROS, TOKENS=ours.TOKENS // 2)
        tokens, entries = ours.GATHERED
        compile_kernel(ours._gather_rows, 4, single | {"values": number}, TOKENS=tokens, NONZEROS=entries)
        compile_kernel(ours._gather_gradient, 4, read, NONZEROS=ours.NONZEROS, PLACES=ours.PLACES)


if __name__ == "__main__":
    compile_rows_and_columns()
    compile_digits()
    compile_products()
