"""Parts of CPU kernels: nonlinearities along a row, and their slopes."""

import math

import numpy as np

from thinwire.engine.exponential_kernels import LOG2_E, power_of_two
from thinwire.engine.jit import inner

IDENTITY, RELU, GELU = range(3)
"""Nonlinearities."""
A1, A3, A5, A7, A9, A11, A13 = (
    np.float32(a)
    for a in (
        -1.60960333262415e-02,
        -2.95459980854025e-03,
        -7.34990630326855e-04,
        -5.69250639462346e-05,
        -2.10102402082508e-06,
        2.77068142495902e-08,
        -2.72614225801306e-10,
    )
)
B0, B2, B4, B6, B8 = (
    np.float32(b)
    for b in (
        -1.42647390514189e-02,
        -7.37332916720468e-03,
        -1.68282697438203e-03,
        -2.13374055278905e-04,
        -1.45660718464996e-05,
    )
)
"""erf(x) is a ratio of polynomials, odd over even, to 4.2e-7 for |x| up to 4; the coefficients are those of Eigen."""
TINY = np.float32(1e-30)
"""Where GELU is linear, and quotients of what it makes could be of denormal numbers."""
ROOT_HALF, ROOT_TWO_PI = np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))


@inner
def _erf(y):
    y = y if y > np.float32(-4) else np.float32(-4)
    y = y if y < np.float32(4) else np.float32(4)
    z = y * y
    above = A1 + z * (A3 + z * (A5 + z * (A7 + z * (A9 + z * (A11 + z * A13)))))
    below = B0 + z * (B2 + z * (B4 + z * (B6 + z * B8)))
    return y * above / below


@inner
def apply(nonlinearity, row):
    """Replace a row by what the nonlinearity makes of it."""
    if nonlinearity == GELU:
        _gelu(row)
    elif nonlinearity == RELU:
        for t in range(len(row)):
            row[t] = max(row[t], np.float32(0))


@inner
def _gelu(row):
    for t in range(len(row)):
        x = row[t]
        row[t] = x * (np.float32(0.5) + np.float32(0.5) * _erf(x * ROOT_HALF))


@inner
def gelu_slope(given, made, slope):
    """The slope of GELU at the numbers `given`, of which it has `made` others.

    The slope is the normal distribution, which is made / given, and given times its density.
    """
    for t in range(len(given)):
        x = given[t]
        density = power_of_two(-x * x * np.float32(0.5) * LOG2_E) * ROOT_TWO_PI
        below = made[t] / x if abs(x) > TINY else np.float32(0.5)
        slope[t] = below + x * density
