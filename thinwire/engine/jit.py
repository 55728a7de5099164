"""How CPU kernels are compiled: by numba, on first use, cached on disk, on as many threads as torch has."""

from typing import Any

import numba
import torch
from numba import config, njit

SUMS = {"contract", "reassoc", "nsz"}
"""What may be done to sums of floats so that they vectorize; nothing is assumed about infinities and NaN."""

_ALL: Any = {"cache": True, "nogil": True, "error_model": "numpy"}  # a check for division by zero would not vectorize
kernel: Any = njit(parallel=True, fastmath={"contract"}, **_ALL)
"""Decorates a function whose `prange` loops run on all threads."""
summing: Any = njit(parallel=True, fastmath=SUMS, **_ALL)
"""The same, for kernels that add up along a row."""
inner: Any = njit(fastmath=SUMS, **_ALL)
"""Decorates a part of a kernel, run by one thread."""


def use_threads() -> None:
    """Give the kernels called next as many threads as torch has."""
    n_threads = torch.get_num_threads()
    wanted = min(n_threads, config.NUMBA_NUM_THREADS)  # pyright: ignore
    if numba.get_num_threads() != wanted:
        numba.set_num_threads(wanted)
    # numba's first call starts threads and sets those of OpenMP, which torch shares, to as many as there are cores:
    # keep to the number torch was given, since waiting for a thread on a busy core costs a time slice a call
    if torch.get_num_threads() != n_threads:
        torch.set_num_threads(n_threads)
