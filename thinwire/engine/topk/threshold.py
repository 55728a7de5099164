"""AbsTopK on a tile, one token a lane: the threshold of each, as the bits of a magnitude. Parts of CPU kernels.

1. A sample of the tile gives two first guesses for all tokens.
2. Passes over the tile count how many magnitudes reach each guess, for all lanes together, and `bracket.narrow` guesses
   again. As long as a bracket of many numbers has whole truncated magnitudes in it, guesses are such, and these are
   counted: half the memory is read.
3. Once few numbers of each lane are in its bracket, they make a tile of their own, and passes go over that.
"""

import math
from typing import NamedTuple

import numpy as np

from thinwire.engine.jit import allocating, device_function, inline_function
from thinwire.engine.simd.lanes import MAGNITUDE_BITS, add_where_reaching, lowest_bit
from thinwire.engine.simd.memory import load, store
from thinwire.engine.simd.tiles import TOKENS, empty_tile
from thinwire.engine.simd.vectors import broadcast
from thinwire.engine.topk.bracket import (
    FIRST,
    HIGH,
    LOW,
    N_FIRST,
    N_HIGH,
    N_LOW,
    N_ROWS,
    N_SECOND,
    ONE,
    OUTSIDE,
    SECOND,
    narrow,
)
from thinwire.engine.topk.truncated import (
    COUNTS,
    DROPPED_BITS,
    GUESSES,
    LARGEST,
    MAX_ROWS,
    N_GUESS_ROWS,
    ONES,
    count_truncated,
    lanes_within,
    store_truncated,
)

SAMPLE = 32
"""Rows that the first guesses are from."""
FEW = 128
"""Numbers in brackets that are searched by themselves."""
MARGIN, BEND = np.float32(3), np.float32(0.02)
"""How far guesses stand from the interpolated threshold: see `bracket.narrow`."""
MARGIN_OF_FEW = np.float32(1)
"""The margin once few numbers are left."""


class SearchScratch(NamedTuple):
    """What a search works in, and its result."""

    state: np.ndarray
    """The brackets: see `bracket`. int32 [N_ROWS, TOKENS]"""
    few: np.ndarray
    """The numbers in brackets, a tile of FEW rows."""
    sample: np.ndarray
    """int16 [SAMPLE · TOKENS]"""
    guesses: np.ndarray
    """As `count_truncated` takes them. int16 [N_GUESS_ROWS, TOKENS]"""
    truncated: np.ndarray
    """The truncated magnitudes of the tile, as `store_for_search` writes them. int16 [width or one more, TOKENS]"""


@allocating
def empty_scratch(width):
    """Scratch for searches of tiles of so many rows or fewer."""
    half = (width + 1) // 2
    return SearchScratch(
        np.empty((N_ROWS, TOKENS), np.int32),
        empty_tile(FEW),
        np.empty(SAMPLE * TOKENS, np.int16),
        np.empty((N_GUESS_ROWS, TOKENS), np.int16),
        empty_tile(half).view(np.int16).reshape((2 * half, TOKENS)),
    )


@inline_function
def store_for_search(tile, i, x, scratch):
    """Row i of a tile = vector x, and its truncated magnitudes in the scratch."""
    store(tile[i], 0, x)
    store_truncated(scratch.truncated, i, x)


@device_function
def find_thresholds(tile, k, used, scratch):
    """Write THRESHOLD and COUNT of the state, for lanes before `used`; returns how many passes over the tile it took.

    All rows of the tile were stored with `store_for_search`. The threshold is the smallest that at most k numbers of a
    lane reach, or one that k do; the count is how many do. NaN with all bits set are above every threshold: where there
    are more than k, more than k numbers are kept.
    """
    state, guesses, truncated = scratch.state, scratch.guesses, scratch.truncated[: len(tile)]
    _first_guesses(truncated, k, used, scratch.sample, state)
    n_open, inside, tries = 1, len(tile), 0
    while n_open > 0 and inside > FEW:
        if _truncate_guesses(state, guesses):
            _count_truncated(truncated, guesses, state)
        else:
            _count(tile, len(tile), state)
        tries += 1
        n_open, inside = narrow(state, k, tries, MARGIN, BEND)
    if n_open > 0 and tries > 0:
        inside = _gather_few(tile, truncated, guesses, state, scratch.few)
        tile = scratch.few
    passes = tries
    while n_open > 0:
        _count(tile, inside, state)
        tries += 1
        n_open, _ = narrow(state, k, tries, MARGIN_OF_FEW, np.float32(0))
    return passes


@device_function
def _first_guesses(truncated, k, used, sample, state):
    """Open all brackets; guess, for all lanes alike, what the sample says, with a margin on either side."""
    width = len(truncated)
    n = min(SAMPLE, width)
    for i in range(n):
        row = truncated[i * width // n]
        for lane in range(used):
            sample[i * used + lane] = row[lane]
    expected, drawn = k * used * n / width, sample[: used * n]
    margin = 1 + MARGIN * math.sqrt(expected * (1 - k / width))
    first, second = _smallest_reached_by(drawn, expected + margin), _smallest_reached_by(drawn, expected - margin)
    for lane in range(TOKENS):
        state[LOW, lane], state[N_LOW, lane] = 1, width
        state[HIGH, lane], state[N_HIGH, lane] = (MAGNITUDE_BITS, 0) if lane < used else (1, k)
        state[FIRST, lane], state[SECOND, lane] = first << np.int32(DROPPED_BITS), second << np.int32(DROPPED_BITS)
        state[OUTSIDE, lane], state[ONE, lane] = 0, 1


@device_function
def _smallest_reached_by(sample, n):
    """The smallest truncated magnitude above zero that at most n of a sample reach."""
    low, high = np.int32(1), np.int32(LARGEST)
    while low < high:
        middle, count = (low + high) >> np.int32(1), np.int16(0)
        for i in range(len(sample)):
            count = np.int16(count + np.int16(sample[i] >= np.int16(middle)))
        low, high = (middle + np.int32(1), high) if count > n else (low, middle)
    return low


@device_function
def _truncate_guesses(state, guesses):
    """Move guesses apart to truncated magnitudes; False, and nothing is done, if no bracket of many has one inside."""
    n = np.int32(0)
    for lane in range(TOKENS):
        low, high = state[LOW, lane], state[HIGH, lane]
        many = (low < high) & (state[N_LOW, lane] - state[N_HIGH, lane] > FEW)
        n += np.int32(many & (_truncate_up(low) <= (high - np.int32(1)) >> np.int32(DROPPED_BITS)))
    if n == 0:
        return False
    for lane in range(TOKENS):
        least, most = _truncate_up(state[LOW, lane]), (state[HIGH, lane] - np.int32(1)) >> np.int32(DROPPED_BITS)
        first = max(min(state[FIRST, lane] >> np.int32(DROPPED_BITS), most), least)
        second = max(min(_truncate_up(state[SECOND, lane]), most), least)
        guesses[GUESSES[0], lane], guesses[GUESSES[1], lane] = np.int16(first), np.int16(second)
        state[FIRST, lane], state[SECOND, lane] = first << np.int32(DROPPED_BITS), second << np.int32(DROPPED_BITS)
    return True


@inline_function
def _truncate_up(magnitude):
    """The smallest truncated magnitude that is no smaller than a magnitude above zero."""
    return ((magnitude - np.int32(1)) >> np.int32(DROPPED_BITS)) + np.int32(1)


@device_function
def _count_truncated(truncated, guesses, state):
    """Write how many truncated magnitudes of each lane reach its guesses."""
    for lane in range(TOKENS):
        guesses[ONES, lane] = np.int16(state[ONE, lane])
        state[N_FIRST, lane], state[N_SECOND, lane] = 0, 0
    for begin in range(0, len(truncated), MAX_ROWS):
        count_truncated(truncated, begin, min(begin + MAX_ROWS, len(truncated)), guesses)
        for lane in range(TOKENS):
            state[N_FIRST, lane] += np.int32(guesses[COUNTS[0], lane])
            state[N_SECOND, lane] += np.int32(guesses[COUNTS[1], lane])


@device_function
def _count(tile, n, state):
    """Write how many of the first n numbers of each lane, and of those outside, reach its guesses."""
    floats = state.view(np.float32)
    first, second, one = load(floats[FIRST], 0), load(floats[SECOND], 0), load(floats[ONE], 0)
    n_first, n_second = load(floats[OUTSIDE], 0), load(floats[OUTSIDE], 0)
    for i in range(n):
        x = load(tile[i], 0)
        n_first, n_second = add_where_reaching(n_first, x, first, one), add_where_reaching(n_second, x, second, one)
    store(floats[N_FIRST], 0, n_first)
    store(floats[N_SECOND], 0, n_second)


@device_function
def _gather_few(tile, truncated, ends, state, few):
    """Copy the numbers in brackets to `few`, each lane from the first row on, zeros behind; returns the most of a lane.

    `ends`, int16 [2 or more, TOKENS], is scratch for the first and last truncated magnitude of each bracket.
    """
    bits, gathered, n, most = tile.view(np.int32), few.view(np.int32), state[N_SECOND], np.int32(0)
    for lane in range(TOKENS):
        low, high = state[LOW, lane], state[HIGH, lane]
        ends[0, lane] = np.int16(low >> np.int32(DROPPED_BITS))
        ends[1, lane] = np.int16((high - np.int32(1)) >> np.int32(DROPPED_BITS) if low < high else np.int32(-1))
        n[lane], state[OUTSIDE, lane] = 0, state[N_HIGH, lane]
    for i in range(len(few)):
        store(few[i], 0, broadcast(np.float32(0)))
    for i in range(len(tile)):
        lanes = lanes_within(truncated, i, ends)
        while lanes != 0:
            lane = lowest_bit(lanes)
            lanes &= lanes - np.uint64(1)
            number = bits[i, lane]
            magnitude = number & np.int32(MAGNITUDE_BITS)
            if (state[LOW, lane] <= magnitude) & (magnitude < state[HIGH, lane]):
                gathered[n[lane], lane] = number
                n[lane] += 1
    for lane in range(TOKENS):
        most = max(most, n[lane])
    return most
