"""CPU kernels for exact selection by magnitude, compiled by numba on first use.

Non-negative floats order as their bit patterns, so the k-th largest magnitude is found by bisecting over the bits and
counting: no sort, exact, vectorized. Equal magnitudes are kept lowest index first, so that exactly k survive.
`thinwire.model.select` picks between these and the plain twins.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numba import config, njit, prange, set_num_threads


@cache
def kernels() -> SimpleNamespace:
    """The compiled functions of this module; compilation is cached on disk, so only a machine's first call is slow."""
    # numba starts its threads here and sets those of OpenMP, which torch shares, to as many as there are cores: keep
    # to the number torch was given, since waiting for a thread on a busy core costs a time slice a call
    n_threads = torch.get_num_threads()
    set_num_threads(min(n_threads, config.NUMBA_NUM_THREADS))  # pyright: ignore
    torch.set_num_threads(n_threads)
    jit: Any = njit(parallel=True, cache=True, nogil=True)
    sources = (keep_rows_32, keep_rows_16, pass_rows, count_reaching, zero_below)
    return SimpleNamespace(**{source.__name__: jit(source) for source in sources})


def keep_rows_32(x, out, k):
    """Zero all but the k largest magnitudes of each row: x and out are int32 views of float32 [rows, width]."""
    rows, width = x.shape
    magnitude = np.int32(0x7FFFFFFF)
    for r in prange(rows):
        row, kept = x[r], out[r]
        low, high = np.int32(0), magnitude
        while low < high:  # the smallest threshold that at most k entries reach
            middle = low + ((high - low) >> 1)
            count = np.int32(0)
            for i in range(width):
                count += np.int32((row[i] & magnitude) >= middle)
            if count == k:
                low = middle
                high = middle
            elif count > k:
                low = middle + 1
            else:
                high = middle
        count = np.int32(0)
        for i in range(width):
            above = (row[i] & magnitude) >= low
            count += np.int32(above)
            kept[i] = row[i] if above else 0
        missing = k - count
        if missing > 0 and low > 1:  # a tie at the threshold; zeros need not be copied
            for i in range(width):
                if missing > 0 and (row[i] & magnitude) == low - 1:
                    kept[i] = row[i]
                    missing -= 1


def keep_rows_16(x, out, k):
    """The same for int16 views of bfloat16 [rows, width]."""
    rows, width = x.shape
    magnitude = np.int16(0x7FFF)
    for r in prange(rows):
        row, kept = x[r], out[r]
        low, high = np.int32(0), np.int32(0x7FFF)
        while low < high:
            middle = (low + high) >> 1
            threshold = np.int16(middle)
            count = np.int32(0)
            for i in range(width):
                count += np.int32(np.int16(row[i] & magnitude) >= threshold)
            if count == k:
                low = middle
                high = middle
            elif count > k:
                low = middle + 1
            else:
                high = middle
        threshold = np.int16(low)
        count = np.int32(0)
        for i in range(width):
            above = np.int16(row[i] & magnitude) >= threshold
            count += np.int32(above)
            kept[i] = row[i] if above else np.int16(0)
        missing = k - count
        if missing > 0 and low > 1:
            tied = np.int16(low - 1)
            for i in range(width):
                if missing > 0 and np.int16(row[i] & magnitude) == tied:
                    kept[i] = row[i]
                    missing -= 1


def pass_rows(kept, grad, out, k):
    """Gradient of keep_rows: integer views [rows, width] of one dtype."""
    rows, width = kept.shape
    for r in prange(rows):
        nonzero = np.int32(0)
        for i in range(width):
            nonzero += np.int32(kept[r, i] != 0)
        everything = nonzero < k
        for i in range(width):
            out[r, i] = grad[r, i] if everything or kept[r, i] != 0 else 0


def count_reaching(bits, threshold):
    """How many magnitudes, as int32 bits [n], reach a threshold."""
    count = 0
    for i in prange(bits.size):
        count += np.int64(bits[i] >= threshold)
    return count


def zero_below(values, bits, threshold):
    """Zero, in place, the values (int32 view of float32 [n]) whose bits are below a threshold."""
    for i in prange(values.size):
        if bits[i] < threshold:
            values[i] = 0
