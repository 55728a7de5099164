"""CPU kernels for exact selection by magnitude, compiled by numba on first use.

Non-negative floats order as their bit patterns, so the k-th largest magnitude is found by bisecting over the bits and
counting: no sort, exact, vectorized. Equal magnitudes are kept lowest index first, so that exactly k survive.
`thinwire.engine.topk.select` picks between these and the plain twins.
"""

import numpy as np
from numba import prange

from thinwire.engine.jit import kernel

BLOCK = 64
"""Rows that one thread takes in turn, each guessing its threshold from the one before."""
GUESSES = 6
"""Interpolated guesses at a row's threshold before halving."""


@kernel
def keep_rows(x, out, k, magnitude, spacing):
    """Zero all but the k largest magnitudes of each row of x [rows, width], an integer view of floats, into out.

    `magnitude` masks the sign bit away. A row's first guess at the threshold is that of the row before, and the next
    ones are interpolated between counts; `spacing` estimates how many bit patterns lie between one magnitude and the
    next. After a few guesses the interval is halved, so that no input takes more rounds than bits.
    """
    rows, width = x.shape
    bits = x.dtype.type
    for block in prange((rows + BLOCK - 1) // BLOCK):
        guess = np.int64(1)
        for r in range(block * BLOCK, min(rows, (block + 1) * BLOCK)):
            row, kept = x[r], out[r]
            # the threshold is the smallest that at most k entries reach: from low, reached by n_low, to high
            low, high = np.int64(0), np.int64(magnitude)
            n_low, n_high = np.int64(width), np.int64(0)
            middle, tries, above = guess, 0, False
            while low < high:
                threshold = bits(middle)
                count = np.int32(0)
                for i in range(width):
                    count += np.int32(bits(row[i] & magnitude) >= threshold)
                tries += 1
                if count == k:
                    low = middle
                    break
                if count > k:
                    low, n_low = middle + 1, np.int64(count)
                else:
                    high, n_high, above = middle, np.int64(count), True
                if tries > GUESSES:
                    middle = low + ((high - low) >> 1)
                elif low > 0 and above:
                    middle = low + (high - low) * (n_low - k) // (n_low - n_high)
                elif above:
                    middle = high - 1 - (((k - n_high) * spacing) << tries)
                else:
                    middle = low + (((n_low - k) * spacing) << (tries - 1))
                middle = min(max(middle, low), high - 1)
            guess = max(low, np.int64(1))
            threshold = bits(low)
            count = np.int32(0)
            for i in range(width):
                reached = bits(row[i] & magnitude) >= threshold
                count += np.int32(reached)
                kept[i] = row[i] if reached else bits(0)
            missing = k - count
            if missing > 0 and low > 1:  # a tie at the threshold; zeros need not be copied
                tied = bits(low - 1)
                for i in range(width):
                    if missing > 0 and bits(row[i] & magnitude) == tied:
                        kept[i] = row[i]
                        missing -= 1


@kernel
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


@kernel
def count_reaching(ranked, threshold):
    """How many magnitudes of floats, given as int32 bits [n], reach a threshold."""
    count = 0
    for i in prange(ranked.size):
        count += np.int64((ranked[i] & np.int32(0x7FFFFFFF)) >= threshold)
    return count


@kernel
def zero_below(values, ranked, threshold):
    """Zero, in place, the values (int32 view of float32 [n]) whose magnitudes in `ranked` are below a threshold."""
    for i in prange(values.size):
        if (ranked[i] & np.int32(0x7FFFFFFF)) < threshold:
            values[i] = 0
