"""Compiles every GPU kernel for a Hopper device, which need not be here; prints a line each."""

from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from thinwire.engine import triton_digits, triton_rows

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {"x", "out", "kept", "grad", "values"}


def compile_kernel(kernel, warps: int, integer: str, **constants: int) -> None:
    """Compile for arguments of 16-byte alignment and 32-bit sizes."""
    names = kernel.arg_names
    types = dict.fromkeys(POINTERS, integer) | {"counts": "*i32", "ties": "*i32"}
    types["reserved"] = "*u8" if constants.get("RESERVED") else integer
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name == "width"]
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps})
    print(kernel.__name__, integer, constants, len(compiled.asm["cubin"]), "bytes")


def main() -> None:
    for (integer, magnitude), width in product((("*i32", 0x7FFFFFFF), ("*i16", 0x7FFF)), (96, 2048, 32_768)):
        together, padded, warps = triton_rows._tile(width)
        for kernel in (triton_rows._keep_rows, triton_rows._pass_rows):
            compile_kernel(kernel, warps, integer, ROWS=together, WIDTH=padded, MAGNITUDE=magnitude)
    for (integer, magnitude, n_digits), reserved in product((("*i32", 0x7FFFFFFF, 4), ("*i16", 0x7FFF, 2)), (0, 1)):
        shared = {"RESERVED": reserved, "MAGNITUDE": magnitude, "N_DIGITS": n_digits, "BLOCK": triton_digits.BLOCK}
        compile_kernel(triton_digits._count_digit, 8, integer, DIGIT=n_digits - 1, **shared)
        compile_kernel(triton_digits._count_ties, 8, integer, **shared)
        compile_kernel(triton_digits._keep_long, 8, integer, MAX_PARTS=triton_digits.MAX_PARTS, **shared)


if __name__ == "__main__":
    main()
