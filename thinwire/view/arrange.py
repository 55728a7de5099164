"""Order and position within rows, for a layered drawing in which the row of everything is known.

Rows are swept up and down. Every block wants the weighted mean of its neighbours' positions (barycentre). The row is
ordered by these means, and each block gets the position nearest to its mean at which nothing overlaps (isotonic
regression: exact for the given order). That is a local search, so small pictures start from several seeded orders
and keep the one with the fewest crossings.
"""

import random
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS, RELAXATIONS = 24, 12
STARTS, SMALL = 16, 400
"""Orders to start from while a picture has at most SMALL joints; beyond that, one."""
LIGHT = 1e-3
"""Weight of a block without lines."""


@dataclass(frozen=True, eq=False)
class Joint:
    """One end of a line from a block: at `own` right of the block's centre, to `theirs` right of the other's."""

    own: float
    other: "Block"
    theirs: float
    pull: float


@dataclass(eq=False)
class Block:
    """Items that stay side by side (none: a waypoint of a bus), and the lines to other blocks."""

    width: float
    items: list[int] = field(default_factory=list)
    head: int | None = None
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    joints: list[Joint] = field(default_factory=list)
    weight: float = 0.0
    """Sum of the pulls."""

    @property
    def wish(self) -> float:
        """The position that the block wants for its centre."""
        if not self.weight:
            return self.x
        return sum((j.other.x + j.theirs - j.own) * j.pull for j in self.joints) / self.weight


def tie(one: Block, other: Block, own: float, theirs: float, pull: float) -> None:
    """Join two blocks by a line between the given offsets from their centres."""
    one.joints.append(Joint(own, other, theirs, pull))
    other.joints.append(Joint(theirs, one, own, pull))
    one.weight += pull
    other.weight += pull


def arrange(rows: list[list[Block]], gap: float) -> None:
    """Order the blocks of every row in place, and give them positions without overlap."""
    for number, blocks in enumerate(rows):
        for block in blocks:
            block.row = number
    joints = sum(len(block.joints) for blocks in rows for block in blocks) // 2
    start = [list(blocks) for blocks in rows]
    best: tuple[float, list[list[Block]], list[list[float]]] | None = None
    for seed in range(STARTS if joints <= SMALL else 1):
        rng = random.Random(seed)
        for blocks, original in zip(rows, start, strict=True):
            blocks[:] = rng.sample(original, len(original)) if seed else original
            _reset(blocks, gap)
        _sweep(rows, gap)
        cost = crossings(rows) + 1e-5 * _length(rows)
        if best is None or cost < best[0] - 1e-9:
            best = cost, [list(blocks) for blocks in rows], [[block.x for block in blocks] for blocks in rows]
    assert best is not None
    for blocks, order, positions in zip(rows, best[1], best[2], strict=True):
        blocks[:] = order
        for block, x in zip(order, positions, strict=True):
            block.x = x


def relax(lanes: list[list[Block]], gap: float) -> None:
    """Move blocks nearer to the positions they want, and keep the order within each lane."""
    for _ in range(RELAXATIONS):
        for lane in lanes:
            place(lane, gap)


def place(blocks: list[Block], gap: float) -> None:
    """Give ordered blocks the positions without overlap nearest to those they want (pool adjacent violators)."""
    shifts = _shifts(blocks, gap)
    pools: list[tuple[float, float, int]] = []
    for block, shift in zip(blocks, shifts, strict=True):
        mean, weight, size = block.wish - shift, block.weight or LIGHT, 1
        while pools and pools[-1][0] > mean:
            below, heavy, count = pools.pop()
            mean = (mean * weight + below * heavy) / (weight + heavy)
            weight, size = weight + heavy, size + count
        pools.append((mean, weight, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    for block, mean, shift in zip(blocks, means, shifts, strict=True):
        block.x = mean + shift


def crossings(rows: list[list[Block]]) -> int:
    """How often lines between neighbouring rows cross, drawn straight."""
    total = 0
    for blocks in rows:
        lines = [
            (block.x + joint.own, joint.other.x + joint.theirs)
            for block in blocks
            for joint in block.joints
            if joint.other.row == block.row + 1
        ]
        seen: list[float] = []
        for _, upper in sorted(lines):
            total += len(seen) - bisect_right(seen, upper)
            insort(seen, upper)
    return total


def _sweep(rows: list[list[Block]], gap: float) -> None:
    for sweep in range(SWEEPS):
        for blocks in rows if sweep % 2 == 0 else reversed(rows):
            blocks.sort(key=lambda block: block.wish)
            place(blocks, gap)


def _length(rows: list[list[Block]]) -> float:
    """Sum over lines of how far they run sideways, weighted by their pull."""
    joints = ((block, joint) for blocks in rows for block in blocks for joint in block.joints)
    return sum(abs(block.x + j.own - j.other.x - j.theirs) * j.pull for block, j in joints) / 2


def _reset(blocks: list[Block], gap: float) -> None:
    """Side by side around zero, in the order given."""
    shifts = _shifts(blocks, gap)
    for block, shift in zip(blocks, shifts, strict=True):
        block.x = shift - shifts[-1] / 2


def _shifts(blocks: list[Block], gap: float) -> list[float]:
    """Least distance of each block's centre from the first one's; waypoints need half the gap."""
    shifts = [0.0]
    for left, right in pairwise(blocks):
        room = gap if left.items and right.items else gap / 2
        shifts.append(shifts[-1] + (left.width + right.width) / 2 + room)
    return shifts[: len(blocks)]
