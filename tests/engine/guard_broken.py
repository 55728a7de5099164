"""Kernels that touch memory that is not theirs: `python tests/engine/guard_broken.py NAME LOG` runs one guarded."""

import sys
from pathlib import Path

from tests.engine import guard

guard.install(Path(sys.argv[2]))

import numpy as np  # noqa: E402
from numba import prange  # noqa: E402

from thinwire.engine import jit  # noqa: E402


@jit.kernel
def write_behind(x, out):
    """Write one number too many."""
    for i in prange(len(x) + 1):
        out[i] = 1


@jit.kernel
def read_before(x, out):
    """Read the number before the first."""
    for i in prange(len(x)):
        out[i] = x[i + np.uint64(2**64 - 1)]


if __name__ == "__main__":
    globals()[sys.argv[1]](np.ones(5, np.float32), np.ones(5, np.float32))
