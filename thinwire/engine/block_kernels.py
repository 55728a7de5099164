"""Parts of CPU kernels: the product of small dense blocks, whose sums stay in registers."""

from thinwire.engine.jit import inner
from thinwire.engine.vectors import TOGETHER, VECTOR, across, along, load, store

ROWS = 2 * TOGETHER
"""Rows of a block, as `add_product` is written."""


@inner
def add_product(a, b, n, width, out):
    """out[:ROWS, :width] += a[:ROWS, :n] · b[:n, :width]; as wide as whole vectors, which b and out are to have."""
    for j in range(0, width, VECTOR):
        upper, lower = load(out, 0, j), load(out, TOGETHER, j)
        for i in range(n):
            x = across(b, i, j)
            upper += along(a, 0, i) * x
            lower += along(a, TOGETHER, i) * x
        store(out, 0, j, upper)
        store(out, TOGETHER, j, lower)
