"""GPU selection in rows too long for one program, and in whole matrices: radix selection, 8 bits a digit.

1. For each digit from the top: count each value of the digit among the keys whose higher digits are those of the k-th
   largest key. A launch finds these higher digits from the counts that earlier launches left on the device.
2. Only where too many keys equal the k-th largest: count them in each part of the row.
3. Keep the keys above the k-th largest, and of the keys equal to it the first by index.

Nothing is sorted and the host never waits, so a CUDA graph can capture the whole selection.
"""

# pyright does not know the types in Triton kernels
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalOperand=false

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.engine.layout import INTEGERS

MAGNITUDES = {torch.float32: 0x7FFFFFFF, torch.bfloat16: 0x7FFF}
"""The bits of each dtype without its sign."""
BLOCK = 4096
"""Entries that a program reads at once."""
MAX_PARTS = 1024
"""Most programs that share a row. Each takes one contiguous part, so ties are ordered part by part."""
WARPS = 8
"""Warps of each program."""


class Keys(NamedTuple):
    """The rows to select from."""

    bits: Tensor
    """Bits of the values. int32 or int16 [rows, width]"""
    reserved: Tensor | None
    """1 where an entry survives whatever its size. uint8 [rows, width]"""


class Split(NamedTuple):
    """How programs share the rows."""

    width: int
    """Entries of a row."""
    parts: int
    """Programs per row."""
    blocks: int
    """Blocks of entries per program."""


class KeyFormat(NamedTuple):
    """Constants that kernels are compiled for."""

    magnitude: int
    """All bits of a value but its sign."""
    n_digits: int
    """Digits of a key."""
    block: int
    """Entries that a program reads at once."""


def keep_long_rows(x: Tensor, out: Tensor, k: int, reserved: Tensor | None, block: int = BLOCK) -> None:
    """Write x [rows, width] to `out` with all but the k largest magnitudes of each row set to zero.

    `out` [rows, width] may be x. Both are contiguous, float32 or bfloat16. `reserved` marks entries that survive
    whatever their size: contiguous bool [rows, width], at most k True per row.
    """
    rows, width = x.shape
    if not x.numel() or k >= width:
        out.copy_(x)
        return
    integer = INTEGERS[x.dtype]
    blocks = triton.cdiv(width, block)
    per_part = triton.cdiv(blocks, MAX_PARTS)
    split = Split(width, triton.cdiv(blocks, per_part), per_part)
    key_format = KeyFormat(MAGNITUDES[x.dtype], x.itemsize, block)
    keys = Keys(x.view(integer), None if reserved is None else reserved.view(torch.uint8))
    counts = torch.zeros(rows, key_format.n_digits, 256, dtype=torch.int32, device=x.device)
    ties = torch.empty(rows, split.parts, dtype=torch.int32, device=x.device)
    grid = (rows * split.parts,)
    with torch.cuda.device_of(x):
        for digit in range(key_format.n_digits):
            _count_digit[grid](keys, counts, split, k, digit, key_format, num_warps=WARPS)
        _count_ties[grid](keys, counts, ties, split, k, key_format, num_warps=WARPS)
        _keep_long[grid](keys, counts, ties, out.view(integer), split, k, key_format, MAX_PARTS, num_warps=WARPS)


@triton.jit
def _load_keys(keys: Keys, at, inside, MAGNITUDE: tl.constexpr):
    """Magnitude bits of the entries at these indices. Reserved entries get the largest key of all."""
    found = tl.load(keys.bits + at, mask=inside, other=0).to(tl.int32) & MAGNITUDE
    if keys.reserved is not None:
        found = tl.where(tl.load(keys.reserved + at, mask=inside, other=0) != 0, MAGNITUDE, found)
    return found


@triton.jit
def _descend(counts, k, DIGITS: tl.constexpr):
    """The first DIGITS digits of the k-th largest key, from the counts of these digits.

    Also returns how many keys that begin with these digits are among the k largest, and an upper bound of how many
    such keys there are.
    """
    digits = tl.arange(0, 256)
    prefix = k * 0
    missing = k
    total = k * 0
    for digit in tl.static_range(DIGITS):
        count = tl.load(counts + digit * 256 + digits)
        reaching = tl.cumsum(count, axis=0, reverse=True)
        found = tl.sum((reaching >= missing).to(tl.int32), axis=0) - 1
        missing -= tl.sum(tl.where(digits > found, count, 0), axis=0)
        total = tl.sum(tl.where(digits == found, count, 0), axis=0)
        prefix = (prefix << 8) | found
    return prefix, missing, total


@triton.jit(do_not_specialize=["k"])
def _count_digit(keys: Keys, counts, split: Split, k, DIGIT: tl.constexpr, FORMAT: tl.constexpr):
    BLOCK: tl.constexpr = FORMAT.block
    row = (tl.program_id(0) // split.parts).to(tl.int64)
    part = (tl.program_id(0) % split.parts).to(tl.int64)
    counts += row * FORMAT.n_digits * 256
    prefix, _, _ = _descend(counts, k, DIGIT)
    digits = tl.arange(0, 256)
    found = tl.zeros([256], dtype=tl.int32)
    for block in range(split.blocks):
        column = (part * split.blocks + block) * BLOCK + tl.arange(0, BLOCK)
        inside = column < split.width
        key = _load_keys(keys, row * split.width + column, inside, FORMAT.magnitude)
        key = key >> (FORMAT.n_digits - 1 - DIGIT) * 8
        matches = inside & ((key >> 8) == prefix)
        # a key with another prefix counts as digit zero, the last one, where it changes no result
        found += tl.histogram(tl.where(matches, key & 255, 0), 256)
    tl.atomic_add(counts + DIGIT * 256 + digits, found, mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=["k"])
def _count_ties(keys: Keys, counts, ties, split: Split, k, FORMAT: tl.constexpr):
    BLOCK: tl.constexpr = FORMAT.block
    row = (tl.program_id(0) // split.parts).to(tl.int64)
    part = (tl.program_id(0) % split.parts).to(tl.int64)
    threshold, missing, total = _descend(counts + row * FORMAT.n_digits * 256, k, FORMAT.n_digits)
    if missing < total:  # otherwise all ties survive and these counts are never read
        tied = tl.zeros([BLOCK], dtype=tl.int32)
        for block in range(split.blocks):
            column = (part * split.blocks + block) * BLOCK + tl.arange(0, BLOCK)
            inside = column < split.width
            key = _load_keys(keys, row * split.width + column, inside, FORMAT.magnitude)
            tied += (inside & (key == threshold)).to(tl.int32)
        tl.store(ties + tl.program_id(0), tl.sum(tied, axis=0))


@triton.jit(do_not_specialize=["k"])
def _keep_long(
    keys: Keys, counts, ties, out, split: Split, k, FORMAT: tl.constexpr, MAX_PARTS: tl.constexpr
):  # fmt: skip
    BLOCK: tl.constexpr = FORMAT.block
    row = (tl.program_id(0) // split.parts).to(tl.int64)
    part = (tl.program_id(0) % split.parts).to(tl.int64)
    threshold, missing, total = _descend(counts + row * FORMAT.n_digits * 256, k, FORMAT.n_digits)
    choosing = missing < total
    other = tl.arange(0, MAX_PARTS)
    earlier = other < tl.where(choosing, part, 0)
    missing -= tl.sum(tl.load(ties + row * split.parts + other, mask=earlier, other=0), axis=0)
    for block in range(split.blocks):
        column = (part * split.blocks + block) * BLOCK + tl.arange(0, BLOCK)
        inside = column < split.width
        at = row * split.width + column
        key = _load_keys(keys, at, inside, FORMAT.magnitude)
        keep = key >= threshold
        if choosing:
            tied = (inside & (key == threshold)).to(tl.int32)
            keep = (key > threshold) | ((tied != 0) & (tl.cumsum(tied, axis=0) <= missing))
            missing -= tl.sum(tied, axis=0)
        tl.store(out + at, tl.where(keep, tl.load(keys.bits + at, mask=inside, other=0), 0), mask=inside)
