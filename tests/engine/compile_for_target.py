"""Compiles, and does not run, parts of kernels for the processor that numba is set to; prints JSON of the machine code.

`NUMBA_CPU_NAME=skylake-avx512 NUMBA_CPU_FEATURES=+avx512f,... python tests/engine/compile_for_target.py`
"""

import json
import re

from numba import types
from numba.core.caching import NullCache

from thinwire.engine.jit import device_function
from thinwire.engine.simd.blocks import add_block, transpose
from thinwire.engine.simd.exp2 import exp2
from thinwire.engine.simd.memory import load, store
from thinwire.engine.simd.vectors import REGISTER_LANES

ROW, ROWS = types.float32[::1], types.float32[:, ::1]


@device_function
def power(x, out):
    """2^x of a vector."""
    store(out, 0, exp2(load(x, 0)))


@device_function
def multiply(left, right, n, out):
    """Add the product of two blocks."""
    add_block(left, right, n, 0, out)


PARTS = {
    "power": (power, (ROW, ROW)),
    "multiply": (multiply, (ROWS, ROWS, types.intp, ROWS)),
    "transpose": (transpose, (ROWS, types.float32, ROWS)),
}


def main() -> None:
    """Print the width of registers, and the vector instructions and registers of each part."""
    found: dict[str, object] = {"register_lanes": REGISTER_LANES}
    for name, (part, kinds) in PARTS.items():
        part._cache = NullCache()  # numba shows no machine code that it read from disk
        part.compile(kinds)
        code = part.inspect_asm(part.signatures[0])
        found[name] = sorted(set(re.findall(r"\b(v[a-z0-9]+)\b", code))), sorted(set(re.findall(r"%([xyz]mm)", code)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
