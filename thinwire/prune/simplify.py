"""Drop what a circuit does not need: what the paper's authors did by hand.

1. List the circuit's wires. Take out chunks of nodes, weakest first, with their wires, while the target still holds
   with a calibration of its own; chunks shrink to single nodes, and the sweep ends when no node can go.
2. The same with wires.
3. Again from single nodes until a sweep takes none: wires that went may leave nodes that nobody needs.
4. Measure the loss without each node and each wire that is left. All miss the target, or the search goes on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from thinwire.circuit import Wire, weight_edges
from thinwire.prune.discretize import Cut, Judge
from thinwire.prune.passes import Parts
from thinwire.sites import Node

FIRST_CHUNKS = 8
"""The first sweep tries to take out this many chunks."""
Item = TypeVar("Item")


def simplify(items: Sequence[Item], meets: Callable[[Sequence[Item]], bool], chunks: int = FIRST_CHUNKS) -> list[Item]:
    """A subset of `items` (weakest first) that `meets` the target and from which no single item can be dropped.

    The first sweep tries to drop that many chunks of items, the last ones single items.
    """
    kept = list(items)
    size = max(1, len(kept) // chunks)
    while True:
        before = len(kept)
        start = 0
        while start < len(kept):
            rest = kept[:start] + kept[start + size :]
            if meets(rest):
                kept = rest
            else:
                start += size
        if size == 1 and len(kept) == before:
            return kept
        size = max(1, size // 2)


def simplified_cut(cut: Cut, judge: Judge, target: float) -> Cut:
    """The cut without what it does not need: the target is missed without any node or wire of the result.

    Nodes and wires rank as the cut's columns do; wires without a column by the weaker of their ends. Forced nodes stay.
    """
    every = frozenset((edge.source, edge.target) for edge in weight_edges(judge.model, cut.nodes))
    parts = Parts(frozenset(cut.nodes), every if cut.wires is None else frozenset(cut.wires))
    weakness = _weakness(cut, judge)
    judge.start_from(parts)
    chunks = FIRST_CHUNKS
    while True:
        before = parts
        for kind in (Node, tuple):
            parts = _sweep(parts, kind, weakness, judge, target, chunks)
        chunks = len(before.nodes) + len(every)
        if parts != before:
            continue
        losses = {item: judge.measure_parts(parts.without([item]))[0] for item in _droppable(parts, judge)}
        least = min(losses.values(), default=math.nan)
        if not least <= target:
            break
        parts = parts.without([min(losses, key=losses.__getitem__)])
        judge.start_from(parts)
    whole = {(edge.source, edge.target) for edge in weight_edges(judge.model, parts.nodes)} == parts.wires
    return judge.cut_parts(Parts(parts.nodes) if whole else parts, cut.columns, least)


def _weakness(cut: Cut, judge: Judge) -> dict[Node | Wire, int]:
    """Rank of every node and wire that a column has, 0 for the strongest; a node's is that of its strongest wire."""
    rank: dict[Node | Wire, int] = {}
    for place, column in enumerate(cut.columns):
        unit = judge.units[column]
        for node in unit:
            rank.setdefault(node, place)
        if judge.wired:
            source, target = unit
            rank[source, target] = place
    return rank


def _sweep(
    parts: Parts, kind: type, weakness: Mapping[Node | Wire, int], judge: Judge, target: float, chunks: int
) -> Parts:
    """The parts without the nodes, or without the wires, that can go."""
    last = len(judge.units)

    def strength(item: Node | Wire) -> int:
        ends = [] if isinstance(item, Node) else [weakness.get(end, last) for end in item]
        return -weakness.get(item, max(ends, default=last))

    items = sorted(filter(lambda item: isinstance(item, kind), _droppable(parts, judge)), key=strength)
    kept = parts

    def meets(stay: Sequence[Node | Wire]) -> bool:
        nonlocal kept
        candidate = parts.without(set(items).difference(stay))
        if not judge.meets(candidate, target):
            return False
        kept = candidate
        judge.start_from(candidate)
        return True

    simplify(items, meets, chunks)
    return kept


def _droppable(parts: Parts, judge: Judge) -> list[Node | Wire]:
    assert parts.wires is not None
    return [*sorted(parts.nodes.difference(judge.forced)), *sorted(parts.wires)]
