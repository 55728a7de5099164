"""Nonlinearities of numbers, vectors and rows, and the derivative of GELU. Parts of CPU kernels.

A number gives the same bits alone and in a vector.
"""

import math
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from thinwire.engine.jit import device_function, no_reassociation
from thinwire.engine.simd.exp2 import LOG2_E, exp2
from thinwire.engine.simd.vectors import absolute, copysign, maximum, minimum

IDENTITY, RELU, GELU = range(3)
"""Codes of the nonlinearities."""
ERF_IS_ONE, DEGREE = np.float32(3.87), 16
"""From this y on erf(y) is 1 in float32. Below it, erf(y) / y is a polynomial in y²; erf has an error of 1.6e-7."""


def _coefficients() -> tuple[np.float32, ...]:
    """Coefficients, lowest first: they interpolate erf(y) / y at Chebyshev points of y² scaled to [-1, 1]."""

    def quotient(t: Any) -> Any:
        roots = np.sqrt((t + 1) / 2) * float(ERF_IS_ONE)
        return np.array([math.erf(y) / y for y in roots])

    return tuple(np.float32(a) for a in chebyshev.cheb2poly(chebyshev.chebinterpolate(quotient, DEGREE)))


COEFFICIENTS, SQUARE_SCALE = _coefficients(), np.float32(2 / float(ERF_IS_ONE) ** 2)
"""Of that polynomial; and the factor that takes y² to [0, 2]."""
DENSITY_IS_ZERO = np.float32(14)
"""Beyond this the normal density is zero in float32, and GELU is straight."""
HALF, ROOT_HALF, ROOT_TWO_PI = np.float32(0.5), np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))


@no_reassociation
def activate(nonlinearity, x):
    """The nonlinearity of a number or a vector."""
    if nonlinearity == GELU:
        return _gelu(x)
    if nonlinearity == RELU:
        return maximum(x, np.float32(0))
    return x


@device_function
def activate_row(nonlinearity, row):
    """Replace each number of a row by its nonlinearity."""
    if nonlinearity != IDENTITY:
        for t in range(len(row)):
            row[t] = activate(nonlinearity, row[t])


@no_reassociation
def gelu_gradient(x):
    """The derivative of GELU at vector x: Φ(x) + x·φ(x)."""
    z = minimum(absolute(x), DENSITY_IS_ZERO)
    density = exp2(z * z * (np.float32(-0.5) * LOG2_E)) * ROOT_TWO_PI
    return HALF + copysign(_half_mass(z) + z * density, x)


@no_reassociation
def _gelu(x):
    z = absolute(x)
    return HALF * x + z * _half_mass(z)


@no_reassociation
def _half_mass(z):
    """The mass of the standard normal distribution between 0 and z, for z of at least 0."""
    y = minimum(z * ROOT_HALF, ERF_IS_ONE)
    t = y * y * SQUARE_SCALE - np.float32(1)
    quotient = COEFFICIENTS[DEGREE - 1] + t * COEFFICIENTS[DEGREE]
    for i in range(DEGREE - 2, -1, -1):
        quotient = COEFFICIENTS[i] + t * quotient
    return HALF * (y * quotient)
