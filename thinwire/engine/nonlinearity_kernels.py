"""Parts of CPU kernels: nonlinearities of numbers, of pieces or along a row, and the slope of one.

GELU and its slope are made from how much of a normal distribution lies between 0 and |x|; a number of a row is made as
it is in a piece, bit by bit.
"""

import math
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.jit import exact, inner
from thinwire.engine.tables import ENTRIES, SHIFT, coefficients, has_tables, looked_up
from thinwire.engine.vectors import larger, magnitude, signed, smaller

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
HALF, ROOT_HALF, ROOT_TWO_PI = np.float32(0.5), np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))


def _part_up_to(z: float) -> float:
    return math.erf(z * math.sqrt(0.5)) / 2


def _rise_up_to(z: float) -> float:
    return _part_up_to(z) + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


SCALE, LAST = np.float32(5.2), np.float32(ENTRIES - 1)
"""Entries of tables for each 1: the last is where the distribution ends, to 2e-9, and its slope, to 8e-8."""
PART_0, PART_1, PART_2, PART_3, PART_4 = map(looked_up, coefficients(_part_up_to, 0.5, float(SCALE), 4))
RISE_0, RISE_1, RISE_2, RISE_3, RISE_4 = map(looked_up, coefficients(_rise_up_to, 0.5, float(SCALE), 4))
"""Polynomials of the two, exact to 5e-9 and 3e-8."""


@exact
def applied(nonlinearity, x):
    """What the nonlinearity makes of a number or a piece."""
    if nonlinearity == GELU:
        return _gelu(x)
    if nonlinearity == RELU:
        return larger(x, np.float32(0))
    return x


@inner
def apply(nonlinearity, row):
    """Replace a row by what the nonlinearity makes of it."""
    if nonlinearity != IDENTITY:
        for t in range(len(row)):
            row[t] = applied(nonlinearity, row[t])


@exact
def gelu_slope(x):
    """The slope of GELU at a number or a piece: the normal distribution below x, and x times its density."""
    return HALF + signed(_rise(magnitude(x)), x)


@exact
def gelu_with_slope(x):
    """GELU at a number or a piece, as `applied`, and its slope."""
    return _gelu(x), gelu_slope(x)


@exact
def _gelu(x):
    z = magnitude(x)
    return HALF * x + z * _part(z)


@exact
def _part(z):
    """How much of a normal distribution is between 0 and z, from 0 on."""
    if has_tables():
        place, off = _entry(z)
        y = PART_3(place) + off * PART_4(place)
        y = PART_1(place) + off * (PART_2(place) + off * y)
        return PART_0(place) + off * y
    y = smaller(z * ROOT_HALF, END)
    at = y * y * SCALED - np.float32(1)
    quotient = QUOTIENT[DEGREE - 1] + at * QUOTIENT[DEGREE]
    for i in range(DEGREE - 2, -1, -1):
        quotient = QUOTIENT[i] + at * quotient
    return HALF * (y * quotient)


@exact
def _rise(z):
    """The slope of GELU at z, from 0 on, less that at 0."""
    if has_tables():
        place, off = _entry(z)
        y = RISE_3(place) + off * RISE_4(place)
        y = RISE_1(place) + off * (RISE_2(place) + off * y)
        return RISE_0(place) + off * y
    z = smaller(z, FLAT)
    return _part(z) + z * (power_of_two(z * z * (np.float32(-0.5) * LOG2_E)) * ROOT_TWO_PI)


@exact
def _entry(z):
    """The entry of tables for z, in the lowest bits, and how far z is from its middle."""
    at = smaller(z * SCALE, LAST)
    place = at + SHIFT
    return place, at - (place - SHIFT)
