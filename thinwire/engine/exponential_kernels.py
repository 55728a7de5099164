"""Parts of CPU kernels: maxima and exponentials along a row.

Exponentials are computed here, since those of the library are one call a number: 2^x by a polynomial and the exponent's
bits, exact to float32 rounding.
"""

import math

import numpy as np

from thinwire.engine.jit import inner
from thinwire.engine.product_kernels import clear
from thinwire.engine.tiles import MAGNITUDE

LOG2_E = np.float32(1 / math.log(2))
TAYLOR = tuple(np.float32(math.log(2) ** i / math.factorial(i)) for i in range(7))
"""Coefficients of 2^x for |x| ≤ 1/2."""


@inner
def largest(p_bits, n, bits, powers):
    """The largest of the first n, given as the bits of floats; in integers, whose maxima vectorize.

    `bits` and `powers` are scratch, the same memory as int32 and float32.
    """
    most = np.int32(-MAGNITUDE)
    for s in range(n):
        most = max(most, _ordered(p_bits[s]))
    bits[0] = _ordered(most)
    return powers[0]


@inner
def _ordered(bits):
    """Bits of a float as an integer in the order of floats, and back."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(MAGNITUDE)))


@inner
def exponentials(p, bits, powers, n, furthest, shift):
    """Replace the first n of p by exp(p - shift), the others up to the furthest by zero; returns the sum.

    No exponent of the first n is to be much above zero. `bits` and `powers` are scratch, the same memory as int32 and
    float32.
    """
    beyond = p[n:furthest]
    for s in range(len(beyond)):
        beyond[s] = shift
    for s in range(furthest):
        bits[s], p[s] = split_power((p[s] - shift) * LOG2_E)
    clear(beyond)
    total = np.float32(0)
    for s in range(furthest):
        p[s] *= powers[s]
        total += p[s]
    return total


@inner
def split_power(x):
    """2^x, for x up to 127, as the bits of a power of two and a factor; small ones end at 2^-126."""
    x = np.float32(-126) if x < np.float32(-126) else x  # NaN stays
    whole = np.floor(x + np.float32(0.5))
    bits = (np.int32(whole) + np.int32(127)) << np.int32(23)
    x -= whole
    y = TAYLOR[5] + x * TAYLOR[6]
    y = TAYLOR[4] + x * y
    y = TAYLOR[3] + x * y
    y = TAYLOR[2] + x * y
    y = TAYLOR[1] + x * y
    return bits, TAYLOR[0] + x * y
