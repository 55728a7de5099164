"""GPU selection in rows too long for one program, and in whole matrices: radix selection, 8 bits a digit.

1. For each digit from the top: how often each value occurs among the keys whose higher digits are those of the k-th
   largest. A launch finds these higher digits from the counts that the launches before it left on the device.
2. Only where keys equal to the k-th largest are too many: how many each part of the row holds.
3. Keep what exceeds the k-th largest, and of its equals the first by index.

Nothing is sorted and nothing waits for the host, so that a CUDA graph can hold the whole selection.
"""

# kernels are not typed as Python is
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.engine.topk.select import INTEGERS

MAGNITUDES = {torch.float32: 0x7FFFFFFF, torch.bfloat16: 0x7FFF}
"""The bits of each dtype without its sign."""
BLOCK = 4096
"""Entries that a program reads at once."""
MAX_PARTS = 1024
"""Programs that share a row; each takes one contiguous part, so that a part's ties follow those before it."""


def keep_long_rows(x: Tensor, out: Tensor, k: int, reserved: Tensor | None, block: int = BLOCK) -> None:
    """Write x [rows, width] to `out`, which may be x, with all but the k largest magnitudes of each row set to zero.

    Both are contiguous float32 or bfloat16, as is `reserved` (bool, at most k True a row) that marks what survives.
    """
    rows, width = x.shape
    if not x.numel() or k >= width:
        out.copy_(x)
        return
    integer = INTEGERS[x.dtype]
    n_digits = x.itemsize  # of 8 bits
    blocks = triton.cdiv(width, block)
    per_part = triton.cdiv(blocks, MAX_PARTS)
    parts = triton.cdiv(blocks, per_part)
    counts = torch.zeros(rows, n_digits, 256, dtype=torch.int32, device=x.device)
    ties = torch.empty(rows, parts, dtype=torch.int32, device=x.device)
    values = x.view(integer)
    marks = values if reserved is None else reserved.view(torch.uint8)
    shared = {"RESERVED": reserved is not None, "MAGNITUDE": MAGNITUDES[x.dtype], "N_DIGITS": n_digits, "BLOCK": block}
    grid = (rows * parts,)
    with torch.cuda.device_of(x):
        for digit in range(n_digits):
            _count_digit[grid](values, marks, counts, width, k, parts, per_part, DIGIT=digit, **shared, num_warps=8)
        _count_ties[grid](values, marks, counts, ties, width, k, parts, per_part, **shared, num_warps=8)
        _keep_long[grid](
            values, marks, counts, ties, out.view(integer), width, k, parts, per_part,
            **shared, MAX_PARTS=MAX_PARTS, num_warps=8,
        )  # fmt: skip


@triton.jit
def _keys(values, reserved, at, inside, RESERVED: tl.constexpr, MAGNITUDE: tl.constexpr):
    """Bits of the magnitudes at these places; reserved entries come first, with the largest there are."""
    keys = tl.load(values + at, mask=inside, other=0).to(tl.int32) & MAGNITUDE
    if RESERVED:
        keys = tl.where(tl.load(reserved + at, mask=inside, other=0) != 0, MAGNITUDE, keys)
    return keys


@triton.jit
def _descend(counts, k, DIGITS: tl.constexpr):
    """From the counts of the first DIGITS digits: those digits of the k-th largest key.

    Also how many of the keys that begin with these digits are among the k largest, and at most how many there are.
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
def _count_digit(
    values, reserved, counts, width, k, parts, per_part,
    DIGIT: tl.constexpr, RESERVED: tl.constexpr, MAGNITUDE: tl.constexpr, N_DIGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // parts).to(tl.int64)
    part = (tl.program_id(0) % parts).to(tl.int64)
    counts += row * N_DIGITS * 256
    prefix, _, _ = _descend(counts, k, DIGIT)
    digits = tl.arange(0, 256)
    found = tl.zeros([256], dtype=tl.int32)
    for block in range(per_part):
        column = (part * per_part + block) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        keys = _keys(values, reserved, row * width + column, inside, RESERVED, MAGNITUDE) >> (N_DIGITS - 1 - DIGIT) * 8
        belongs = inside & ((keys >> 8) == prefix)
        # what does not belong counts as a zero: these come last, so that no digit is found differently
        found += tl.histogram(tl.where(belongs, keys & 255, 0), 256)
    tl.atomic_add(counts + DIGIT * 256 + digits, found, mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=["k"])
def _count_ties(
    values, reserved, counts, ties, width, k, parts, per_part,
    RESERVED: tl.constexpr, MAGNITUDE: tl.constexpr, N_DIGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // parts).to(tl.int64)
    part = (tl.program_id(0) % parts).to(tl.int64)
    threshold, missing, total = _descend(counts + row * N_DIGITS * 256, k, N_DIGITS)
    if missing < total:  # otherwise all ties survive, and nobody asks where they are
        tied = tl.zeros([BLOCK], dtype=tl.int32)
        for block in range(per_part):
            column = (part * per_part + block) * BLOCK + tl.arange(0, BLOCK)
            inside = column < width
            keys = _keys(values, reserved, row * width + column, inside, RESERVED, MAGNITUDE)
            tied += (inside & (keys == threshold)).to(tl.int32)
        tl.store(ties + tl.program_id(0), tl.sum(tied, axis=0))


@triton.jit(do_not_specialize=["k"])
def _keep_long(
    values, reserved, counts, ties, out, width, k, parts, per_part,
    RESERVED: tl.constexpr, MAGNITUDE: tl.constexpr, N_DIGITS: tl.constexpr, BLOCK: tl.constexpr,
    MAX_PARTS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // parts).to(tl.int64)
    part = (tl.program_id(0) % parts).to(tl.int64)
    threshold, missing, total = _descend(counts + row * N_DIGITS * 256, k, N_DIGITS)
    choosing = missing < total
    other = tl.arange(0, MAX_PARTS)
    earlier = other < tl.where(choosing, part, 0)
    missing -= tl.sum(tl.load(ties + row * parts + other, mask=earlier, other=0), axis=0)
    for block in range(per_part):
        column = (part * per_part + block) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        at = row * width + column
        keys = _keys(values, reserved, at, inside, RESERVED, MAGNITUDE)
        keep = keys >= threshold
        if choosing:
            tied = (inside & (keys == threshold)).to(tl.int32)
            keep = (keys > threshold) | ((tied != 0) & (tl.cumsum(tied, axis=0) <= missing))
            missing -= tl.sum(tied, axis=0)
        tl.store(out + at, tl.where(keep, tl.load(values + at, mask=inside, other=0), 0), mask=inside)
