"""AbsTopK on a tile, one token a lane: the threshold of each, as the bits of a magnitude. Parts of CPU kernels.

It is first guessed to lie between two magnitudes that a sample of the tile gives. The numbers that reach either are
counted, for all lanes together; the next two are as far from where interpolation puts the threshold as chance may put
it. As long as whole keys lie in a bracket, guesses are keys, and these are counted. Once few numbers of each lane lie
in its bracket, they make a tile of their own, and that is searched.
"""

import math
from typing import NamedTuple

import numpy as np

from thinwire.engine.jit import allocating, device_function, inline_function
from thinwire.engine.simd.lanes import MAGNITUDE_BITS, add_where_reaching, lowest_bit
from thinwire.engine.simd.memory import load, store
from thinwire.engine.simd.tiles import TOKENS, empty_tile
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.topk.keys import COUNTS, GUESSES, HALF, MOST, ONES, count_keys, keys_within, store_keys

SAMPLE = 32
"""Rows that the first guesses are from."""
FEW = 128
"""Numbers in brackets that are searched by themselves."""
FAR, BENT, NEAR = np.float32(3), np.float32(0.02), np.float32(1)
"""Standard deviations that guesses keep from the interpolated threshold, and part of the bracket, since magnitudes are
not spread evenly; standard deviations once few numbers are left."""
STEP, GROWTH = np.float32(1 << 20), np.float32(32)
"""How far a guess goes beyond an open end of the bracket, and how many times as far the other one does."""
HALF_WAY = np.float32(1 << 30)
"""No guess is further from the lower end of the bracket: widths above are rounded, up to what int32 does not hold."""
LOW, HIGH, N_LOW, N_HIGH, FIRST, SECOND, N_FIRST, N_SECOND, ELSEWHERE, SLOW, ONE = range(11)
"""What is known of each lane: its threshold is from LOW, one above what N_LOW numbers reach, to HIGH, which N_HIGH do;
two guesses, and how many reach them, of which so many are not in the tile; whether the last guesses left more than half
of the bracket; one, not to be known when this is compiled, since adding it is one instruction then."""
KNOWN = ONE + 1
"""Rows of such a state: int32 [KNOWN, TOKENS]."""
THRESHOLD, COUNT = LOW, N_HIGH
"""What is known in the end."""


class SearchScratch(NamedTuple):
    """What a search needs."""

    state: np.ndarray
    """int32 [KNOWN, TOKENS]"""
    few: np.ndarray
    """The numbers in brackets, a tile of FEW rows."""
    sample: np.ndarray
    """int16 [SAMPLE · TOKENS]"""
    guesses: np.ndarray
    """As `count_keys` takes them."""
    keys: np.ndarray
    """Of the tile, as `store_with_key` leaves them. int16 [width or one more, TOKENS]"""


@allocating
def empty_scratch(width):
    """What `find_thresholds` needs for tiles of so many rows or fewer."""
    half = (width + 1) // 2
    keys = empty_tile(half).view(np.int16).reshape((2 * half, TOKENS))
    guesses = np.empty((ONES + 1, TOKENS), np.int16)
    return SearchScratch(
        np.empty((KNOWN, TOKENS), np.int32), empty_tile(FEW), np.empty(SAMPLE * TOKENS, np.int16), guesses, keys
    )


@inline_function
def store_with_key(tile, i, x, scratch):
    """Row i of a tile = x, a stretch."""
    store(tile[i], 0, x)
    store_keys(scratch.keys, i, x)


@device_function
def find_thresholds(tile, k, used, scratch):
    """Bring state to THRESHOLD and COUNT, of lanes before `used`; returns how many passes over the tile it took.

    All rows of the tile are to be laid with the scratch. The threshold is the smallest that at most k numbers of a lane
    reach, or one that k do; the count is how many do. Of NaN whose bits are all ones too many are kept.
    """
    state, few, guesses, keys = scratch.state, scratch.few, scratch.guesses, scratch.keys
    _begin(keys[: len(tile)], k, used, scratch.sample, state)
    n_open, inside, tries = 1, len(tile), 0
    while n_open > 0 and inside > FEW:
        if _are_keys(state, guesses):
            _count_keys(keys[: len(tile)], guesses, state)
        else:
            _count(tile, len(tile), state)
        tries += 1
        n_open, inside = _narrow(k, tries, FAR, BENT, state)
    if n_open > 0 and tries > 0:
        tile, inside = few, _collect(tile, keys, guesses, state, few)
    passes = tries
    while n_open > 0:
        _count(tile, inside, state)
        tries += 1
        n_open, _ = _narrow(k, tries, NEAR, np.float32(0), state)
    return passes


@device_function
def _are_keys(state, guesses):
    """Take for guesses the keys next to them, away from each other, unless no bracket of many has one within."""
    n = np.int32(0)
    for lane in range(TOKENS):
        low, high = state[LOW, lane], state[HIGH, lane]
        many = (low < high) & (state[N_LOW, lane] - state[N_HIGH, lane] > FEW)
        n += np.int32(many & (_key_above(low) <= (high - np.int32(1)) >> np.int32(HALF)))
    if n == 0:
        return False
    for lane in range(TOKENS):
        least, most = _key_above(state[LOW, lane]), (state[HIGH, lane] - np.int32(1)) >> np.int32(HALF)
        first = max(min(state[FIRST, lane] >> np.int32(HALF), most), least)
        second = max(min(_key_above(state[SECOND, lane]), most), least)
        guesses[GUESSES[0], lane], guesses[GUESSES[1], lane] = np.int16(first), np.int16(second)
        state[FIRST, lane], state[SECOND, lane] = first << np.int32(HALF), second << np.int32(HALF)
    return True


@inline_function
def _key_above(magnitude):
    """The key of the first number from a magnitude on, which is not zero, whose lower bits are zero."""
    return ((magnitude - np.int32(1)) >> np.int32(HALF)) + np.int32(1)


@device_function
def _count_keys(keys, guesses, state):
    """How many keys of each lane reach its guesses."""
    for lane in range(TOKENS):
        guesses[ONES, lane] = np.int16(state[ONE, lane])
        state[N_FIRST, lane], state[N_SECOND, lane] = 0, 0
    for begin in range(0, len(keys), MOST):
        count_keys(keys, begin, min(begin + MOST, len(keys)), guesses)
        for lane in range(TOKENS):
            state[N_FIRST, lane] += np.int32(guesses[COUNTS[0], lane])
            state[N_SECOND, lane] += np.int32(guesses[COUNTS[1], lane])


@device_function
def _begin(keys, k, used, sample, state):
    """Nothing is known, and the first guesses are those that would do for the sample, all lanes together, and more."""
    n = min(SAMPLE, len(keys))
    for i in range(n):
        row = keys[i * len(keys) // n]
        for lane in range(used):
            sample[i * used + lane] = row[lane]
    share, some = k * used * n / len(keys), sample[: used * n]
    margin = 1 + FAR * math.sqrt(share * (1 - k / len(keys)))
    first, second = _reached_by(some, share + margin), _reached_by(some, share - margin)
    for lane in range(TOKENS):
        state[LOW, lane], state[N_LOW, lane] = 1, len(keys)
        state[HIGH, lane], state[N_HIGH, lane] = (MAGNITUDE_BITS, 0) if lane < used else (1, k)
        state[FIRST, lane], state[SECOND, lane] = first << np.int32(HALF), second << np.int32(HALF)
        state[ELSEWHERE, lane], state[ONE, lane] = 0, 1


@device_function
def _reached_by(some, n):
    """The smallest key above zero that at most n of some reach."""
    low, high = np.int32(1), np.int32(MOST)
    while low < high:
        middle, count = (low + high) >> np.int32(1), np.int16(0)
        for i in range(len(some)):
            count = np.int16(count + np.int16(some[i] >= np.int16(middle)))
        low, high = (middle + np.int32(1), high) if count > n else (low, middle)
    return low


@device_function
def _count(tile, n, state):
    """How many of the first n numbers of each lane reach its guesses, and elsewhere."""
    floats = state.view(np.float32)
    first, second, one = load(floats[FIRST], 0), load(floats[SECOND], 0), load(floats[ONE], 0)
    n_first, n_second = load(floats[ELSEWHERE], 0), load(floats[ELSEWHERE], 0)
    for i in range(n):
        x = load(tile[i], 0)
        n_first, n_second = add_where_reaching(n_first, x, first, one), add_where_reaching(n_second, x, second, one)
    store(floats[N_FIRST], 0, n_first)
    store(floats[N_SECOND], 0, n_second)


@device_function
def _collect(tile, keys, ends, state, few):
    """Gather the numbers in brackets, each lane from the first row on, zeros after them; returns how many at most.

    `ends`, int16 [2 or more, TOKENS], is for the first and last key of each bracket.
    """
    bits, gathered, place, most = tile.view(np.int32), few.view(np.int32), state[N_SECOND], np.int32(0)
    for lane in range(TOKENS):
        low, high = state[LOW, lane], state[HIGH, lane]
        ends[0, lane] = np.int16(low >> np.int32(HALF))
        ends[1, lane] = np.int16((high - np.int32(1)) >> np.int32(HALF) if low < high else np.int32(-1))
        place[lane], state[ELSEWHERE, lane] = 0, state[N_HIGH, lane]
    for i in range(len(few)):
        store(few[i], 0, broadcast(np.float32(0)))
    for i in range(len(tile)):
        lanes = keys_within(keys, i, ends)
        while lanes != 0:
            lane = lowest_bit(lanes)
            lanes &= lanes - np.uint64(1)
            number = bits[i, lane]
            magnitude = number & np.int32(MAGNITUDE_BITS)
            if (state[LOW, lane] <= magnitude) & (magnitude < state[HIGH, lane]):
                gathered[place[lane], lane] = number
                place[lane] += 1
    for lane in range(TOKENS):
        most = max(most, place[lane])
    return most


@device_function
def _narrow(k, tries, margin, bent, state):
    """Take up the counts and guess again, without a branch; returns how many lanes have no threshold yet, and how many
    numbers are in the bracket of one at most."""
    k, n_open, most, n_slow = np.int32(k), np.int32(0), np.int32(0), np.int32(0)
    for lane in range(state.shape[1]):
        low, high, n_low, n_high = state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane]
        was = np.float32(high - low)
        low, high, n_low, n_high = _taken_up(k, state[FIRST, lane], state[N_FIRST, lane], low, high, n_low, n_high)
        low, high, n_low, n_high = _taken_up(k, state[SECOND, lane], state[N_SECOND, lane], low, high, n_low, n_high)
        state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane] = low, high, n_low, n_high
        is_open = low < high
        n_open += np.int32(is_open)
        most = max(most, np.int32(n_low - n_high) if is_open else np.int32(0))
        first, second, slow = _guessed(k, low, high, n_low, n_high, margin, bent, was)
        state[FIRST, lane], state[SECOND, lane], state[SLOW, lane] = first, second, slow
        n_slow += slow
    if n_slow > 0 and tries > 1:
        _guess_otherwise(k, tries, state)
    return n_open, most


@device_function
def _taken_up(k, guess, count, low, high, n_low, n_high):
    """The bracket of a lane and the counts at its ends, once so many numbers are known to reach a guess."""
    is_open = (low < high) & (low <= guess) & (guess < high)
    above, below, hit = is_open & (count > k), is_open & (count <= k), is_open & (count == k)
    low = guess + np.int32(1) if above else (guess if hit else low)
    high = guess if below else high
    return low, high, count if above else n_low, count if below else n_high


@device_function
def _guessed(k, low, high, n_low, n_high, margin, bent, was):
    """Two guesses around where interpolation puts the threshold, and whether over half of the bracket is left."""
    wide, n = np.float32(high - low), np.float32(max(n_low - n_high, np.int32(1)))
    at = wide * np.float32(n_low - k) / n
    off = wide * (margin * np.float32(0.5) / np.float32(math.sqrt(n)) + bent)  # so many may be on one side by chance
    upwards, downwards = high == MAGNITUDE_BITS, low == 1
    near = STEP if upwards else (np.float32(0) if downwards else at - off)
    far = STEP * GROWTH if upwards else (wide - STEP if downwards else at + off)
    last, most = max(high - np.int32(1), low), min(wide, HALF_WAY)
    near, far = max(min(near, most), np.float32(0)), max(min(far, most), np.float32(0))
    first, second = np.int32(min(low + np.int32(near), last)), np.int32(min(low + np.int32(far), last))
    return first, second, np.int32((low < high) & (wide + wide > was))


@device_function
def _guess_otherwise(k, tries, state):
    """Guess again where a pass left more than half of a bracket, in turns: cut it in three, or by magnitudes."""
    for lane in range(TOKENS):
        if state[SLOW, lane] != 0:
            low, high, n_low, n_high = state[LOW, lane], state[HIGH, lane], state[N_LOW, lane], state[N_HIGH, lane]
            if tries % 2 == 1 or n_high == 0:
                third = (high - low) // 3
                first, second = low + third, high - third - 1
            else:
                first, second = _by_magnitude(low, high, np.float32(n_low - k), np.float32(n_low - n_high))
            state[FIRST, lane], state[SECOND, lane] = first, second


@device_function
def _by_magnitude(low, high, c, n):
    """Two guesses, if c of n numbers in a bracket are below the threshold and their magnitudes are spread evenly."""
    least, most = np.int32(low).view(np.float32), np.int32(high).view(np.float32)
    off = np.float32(math.sqrt(min(c, n - c)))
    near = least + (most - least) * (max(c - off, c * np.float32(0.25)) / n)
    far = least + (most - least) * ((c + off) / n)
    return max(low, min(_bits(near), high - 1)), max(low, min(_bits(far) + 1, high - 1))


@device_function
def _bits(magnitude):
    return np.float32(magnitude).view(np.int32)
