"""Parts of CPU kernels: nonlinearities of numbers, of pieces or along a row, and the slope of one."""

import math
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.jit import exact, inner
from thinwire.engine.vectors import larger, smaller

IDENTITY, RELU, GELU = range(3)
"""Nonlinearities."""
END, DEGREE = np.float32(3.87), 16
"""erf(y) / y, up to an end where the former is 1, is a polynomial of y² in effect: erf is exact to 1.6e-7."""


def _coefficients() -> tuple[np.float32, ...]:
    """Of the polynomial that interpolates erf(y) / y at Chebyshev points of y² scaled to [-1, 1]."""

    def quotient(at: Any) -> Any:
        roots = np.sqrt((at + 1) / 2) * float(END)
        return np.array([math.erf(y) / y for y in roots])

    return tuple(np.float32(a) for a in chebyshev.cheb2poly(chebyshev.chebinterpolate(quotient, DEGREE)))


QUOTIENT, SCALED = _coefficients(), np.float32(2 / float(END) ** 2)
"""The coefficients, lowest first, and the factor of y²."""
FLAT = np.float32(14)
"""Beyond this GELU is straight, and the normal distribution ends where powers of two do."""
ROOT_HALF, ROOT_TWO_PI = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))


@exact
def applied(nonlinearity, x):
    """What the nonlinearity makes of a number or a piece."""
    if nonlinearity == GELU:
        return x * _below(x)
    if nonlinearity == RELU:
        return larger(x, np.float32(0))
    return x


@exact
def _below(x):
    """How much of a normal distribution is below x."""
    return np.float32(0.5) + np.float32(0.5) * _erf(x * ROOT_HALF)


@exact
def _erf(y):
    y = smaller(larger(y, -END), END)
    at = y * y * SCALED - np.float32(1)
    quotient = QUOTIENT[DEGREE - 1] + at * QUOTIENT[DEGREE]
    for i in range(DEGREE - 2, -1, -1):
        quotient = QUOTIENT[i] + at * quotient
    return y * quotient


@inner
def apply(nonlinearity, row):
    """Replace a row by what the nonlinearity makes of it."""
    if nonlinearity != IDENTITY:
        for t in range(len(row)):
            row[t] = applied(nonlinearity, row[t])


@exact
def gelu_slope(x):
    """The slope of GELU at a number or a piece: the normal distribution below x, and x times its density."""
    return _slope(x, _below(x))


@exact
def gelu_with_slope(x):
    """GELU at a number or a piece, as `applied`, and its slope."""
    below = _below(x)
    return x * below, _slope(x, below)


@exact
def _slope(x, below):
    x = smaller(larger(x, -FLAT), FLAT)
    return below + x * (power_of_two(x * x * (np.float32(-0.5) * LOG2_E)) * ROOT_TWO_PI)
