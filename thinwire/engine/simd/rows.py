"""What kernels do with a whole row of numbers. Parts of CPU kernels."""

import numpy as np

from thinwire.engine.jit import device_function

BLOCK = 64
"""Numbers that are examined together."""


@device_function
def clear(row):
    """Zero a row."""
    for t in range(len(row)):
        row[t] = 0


@device_function
def clear_rows(rows):
    """Zero all rows."""
    for i in range(len(rows)):
        clear(rows[i])


@device_function
def has_nonzero(row):
    """Whether any number of a row is not zero."""
    for begin in range(0, len(row), BLOCK):
        part, found = row[begin : min(len(row), begin + BLOCK)], 0
        for t in range(len(part)):
            found += np.int32(part[t] != 0)
        if found > 0:
            return True
    return False


@device_function
def is_constant(row):
    """Whether all numbers of a row are the same; an empty row is constant."""
    if len(row) == 0:
        return True
    first = row[0]
    for begin in range(0, len(row), BLOCK):
        part, others = row[begin : min(len(row), begin + BLOCK)], 0
        for t in range(len(part)):
            others += np.int32(part[t] != first)
        if others > 0:
            return False
    return True
