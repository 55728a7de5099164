"""What a search knows of the threshold of each token of a tile: a bracket, and two guesses in it. Parts of CPU kernels.

Thresholds are magnitudes, as the bits of non-negative floats. A pass over the tile counts how many magnitudes reach
each guess; `narrow` then shrinks the brackets and guesses again. Interpolation between the counts at the ends of a
bracket says where the threshold may be; the two guesses stand as far on either side as chance may put it.
"""

import math
from typing import NamedTuple

import numpy as np

from thinwire.engine.jit import device_function
from thinwire.engine.simd.lanes import MAGNITUDE_BITS

# Rows of a search state, int32 [N_ROWS, TOKENS]: a token a lane.

LOW, HIGH = 0, 1
"""The bracket: the threshold is from LOW to HIGH, both included."""
N_LOW, N_HIGH = 2, 3
"""How many magnitudes reach the number below LOW, and HIGH."""
FIRST, SECOND = 4, 5
"""The guesses."""
N_FIRST, N_SECOND = 6, 7
"""How many magnitudes reach each guess."""
OUTSIDE = 8
"""How many of these are not in the tile that is searched, once it has only the numbers in brackets."""
SLOW = 9
"""1 where the last guesses left more than half of the bracket, otherwise 0."""
ONE = 10
"""Ones, which the compiler must not know: it adds a constant one in more instructions."""
N_ROWS = 11
"""How many rows a state has."""
THRESHOLD, COUNT = LOW, N_HIGH
"""The result of a search: the threshold, and how many magnitudes reach it."""

STEP, GROWTH = np.float32(1 << 20), np.float32(32)
"""While one end of a bracket is open: how far the first guess goes beyond the other end; the second one goes GROWTH
times as far."""
MAX_OFFSET = np.float32(1 << 30)
"""No guess is further from the lower end of the bracket: float32 rounds larger ones up to what int32 does not hold."""


class Bracket(NamedTuple):
    """The bracket of one token: see LOW and HIGH."""

    low: np.int32
    high: np.int32
    n_low: np.int32
    n_high: np.int32


@device_function
def narrow(state, k, tries, margin, bend):
    """Shrink the brackets by the counts at their guesses, and guess again, without a branch.

    Guesses stand `margin` standard deviations and a part `bend` of the bracket from the interpolated threshold, since
    magnitudes are not spread evenly. Returns how many tokens have no threshold yet, and how many numbers the fullest
    bracket has.
    """
    k, n_open, most, n_slow = np.int32(k), np.int32(0), np.int32(0), np.int32(0)
    for lane in range(state.shape[1]):
        bracket = Bracket(state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane])
        size = np.float32(bracket.high - bracket.low)
        bracket = _shrink(bracket, k, state[FIRST, lane], state[N_FIRST, lane])
        bracket = _shrink(bracket, k, state[SECOND, lane], state[N_SECOND, lane])
        state[LOW, lane], state[HIGH, lane] = bracket.low, bracket.high
        state[N_LOW, lane], state[N_HIGH, lane] = bracket.n_low, bracket.n_high
        is_open = bracket.low < bracket.high
        n_open += np.int32(is_open)
        most = max(most, np.int32(bracket.n_low - bracket.n_high) if is_open else np.int32(0))
        first, second, slow = _guess(bracket, k, margin, bend, size)
        state[FIRST, lane], state[SECOND, lane], state[SLOW, lane] = first, second, slow
        n_slow += slow
    if n_slow > 0 and tries > 1:
        _guess_where_slow(state, k, tries)
    return n_open, most


@device_function
def _shrink(bracket, k, guess, count):
    """The bracket, once `count` magnitudes are known to reach a guess."""
    low, high, n_low, n_high = bracket
    is_open = (low < high) & (low <= guess) & (guess < high)
    above, below, hit = is_open & (count > k), is_open & (count <= k), is_open & (count == k)
    low = guess + np.int32(1) if above else (guess if hit else low)
    high = guess if below else high
    return Bracket(low, high, count if above else n_low, count if below else n_high)


@device_function
def _guess(bracket, k, margin, bend, last_size):
    """Two guesses around the interpolated threshold, and whether over half of the bracket was left."""
    low, high, n_low, n_high = bracket
    size, n = np.float32(high - low), np.float32(max(n_low - n_high, np.int32(1)))
    middle = size * np.float32(n_low - k) / n
    # half a standard deviation of a count of n, as a part of n, is how far chance moves the threshold
    offset = size * (margin * np.float32(0.5) / np.float32(math.sqrt(n)) + bend)
    no_upper_end, no_lower_end = high == MAGNITUDE_BITS, low == 1
    near = STEP if no_upper_end else (np.float32(0) if no_lower_end else middle - offset)
    far = STEP * GROWTH if no_upper_end else (size - STEP if no_lower_end else middle + offset)
    last, most = max(high - np.int32(1), low), min(size, MAX_OFFSET)
    near, far = max(min(near, most), np.float32(0)), max(min(far, most), np.float32(0))
    first, second = np.int32(min(low + np.int32(near), last)), np.int32(min(low + np.int32(far), last))
    return first, second, np.int32((low < high) & (size + size > last_size))


@device_function
def _guess_where_slow(state, k, tries):
    """Guess again where over half of a bracket was left, in turns: cut it in three, or interpolate magnitudes."""
    for lane in range(state.shape[1]):
        if state[SLOW, lane] != 0:
            low, high, n_low, n_high = state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane]
            if tries % 2 == 1 or n_high == 0:
                third = (high - low) // 3
                first, second = low + third, high - third - 1
            else:
                first, second = _guess_by_magnitude(low, high, np.float32(n_low - k), np.float32(n_low - n_high))
            state[FIRST, lane], state[SECOND, lane] = first, second


@device_function
def _guess_by_magnitude(low, high, n_below, n):
    """Two guesses in a bracket of n numbers of evenly spread magnitudes, n_below of them below the threshold."""
    least, most = np.int32(low).view(np.float32), np.int32(high).view(np.float32)
    offset = np.float32(math.sqrt(min(n_below, n - n_below)))
    near = least + (most - least) * (max(n_below - offset, n_below * np.float32(0.25)) / n)
    far = least + (most - least) * ((n_below + offset) / n)
    return max(low, min(_bits(near), high - 1)), max(low, min(_bits(far) + 1, high - 1))


@device_function
def _bits(magnitude):
    return np.float32(magnitude).view(np.int32)
