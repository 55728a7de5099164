"""Parts of CPU kernels: 2^x, for a number or a piece of rows.

That of the library is one call a number. Here it is a polynomial, and the exponent's bits; exact to 3e-7.
"""

import math

import numpy as np

from thinwire.engine.jit import exact
from thinwire.engine.vectors import larger, raised

LOG2_E = np.float32(1 / math.log(2))
TAYLOR = tuple(np.float32(math.log(2) ** i / math.factorial(i)) for i in range(7))
"""Coefficients of 2^x for |x| ≤ 1/2."""
WHOLE = np.float32(1.5 * 2**23)
"""Added to a float, it rounds it, and the last bits are the whole number."""
LEAST = np.float32(-125)
"""Powers of two end here, since half of them still is a normal number."""


@exact
def power_of_two(x):
    """2^x, for x up to 127; small ones end at 2^-125."""
    x = larger(x, LEAST)
    rounded = x + WHOLE
    x = x - (rounded - WHOLE)
    y = TAYLOR[5] + x * TAYLOR[6]
    y = TAYLOR[4] + x * y
    y = TAYLOR[3] + x * y
    y = TAYLOR[2] + x * y
    y = TAYLOR[1] + x * y
    return raised(TAYLOR[0] + x * y, rounded)
