"""Parts of CPU kernels: products of small dense blocks, whose sums stay in registers."""

import numpy as np

from thinwire.engine.jit import inner
from thinwire.engine.vectors import TOGETHER, VECTOR, across, along, everywhere, load, store

ROWS = 2 * TOGETHER
"""Rows of a block, as `_block` is written."""


@inner
def set_product(a, b, n, width, out):
    """out[:ROWS, :width] = a[:ROWS, :n] · b[:n, :width]; as wide as whole vectors, which b and out are to have."""
    for j in range(0, width, VECTOR):
        _block(a, b, n, j, everywhere(np.float32(0)), everywhere(np.float32(0)), out)


@inner
def add_product(a, b, n, width, out):
    """The same, added to out."""
    for j in range(0, width, VECTOR):
        _block(a, b, n, j, load(out, 0, j), load(out, TOGETHER, j), out)


@inner
def _block(a, b, n, j, upper, lower, out):
    """Add one vector of each row to what is given of it."""
    for i in range(n):
        x = across(b, i, j)
        upper += along(a, 0, i) * x
        lower += along(a, TOGETHER, i) * x
    store(out, 0, j, upper)
    store(out, TOGETHER, j, lower)
