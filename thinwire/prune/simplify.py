"""Drop what a circuit does not need: what the paper's authors did by hand.

1. List the circuit's wires. Take out nodes, with their wires, wires, and tokens that have masks, one after another:
   always that which raises the loss of a few pairs least for each wire that goes with it, as long as the target holds
   on all pairs, with a calibration of its own. Of a great many units the weakest go first, in chunks.
2. Measure the loss without each node, wire and token that is left. All miss the target, or the search goes on: what
   was needed once may have become useless.

What removing something costs hardly falls while others go, so costs are taken again only of what comes up next.
"""

import heapq
import math
from dataclasses import replace

from thinwire.circuit import Wire, weight_edges
from thinwire.progress import Report, silent
from thinwire.prune.discretize import Cut, Judge
from thinwire.prune.passes import Parts, Token
from thinwire.sites import Node

NODE = 0.5
"""What a node counts besides its wires, and a token in all, in wires."""
MANY = 32
"""More units than these are thinned out in chunks first."""
MOST = 2_000
"""With more nodes and wires left than these, masks were hardly trained, and one by one would take hours."""
BULK = 4
"""Chunks hold at most one unit in so many, and may take one part in so many of what is left until the target."""


def simplified_cut(cut: Cut, judge: Judge, target: float, report: Report = silent) -> Cut:
    """The cut without what it does not need: the target is missed without any node, wire or token of the result.

    Forced nodes stay. Of a cut that still has thousands of nodes and wires after chunks have gone, no more are tried.
    """
    every = frozenset((edge.source, edge.target) for edge in weight_edges(judge.model, cut.nodes))
    parts = cut.parts if cut.wires is not None else replace(cut.parts, wires=every)
    judge.start_from(parts)
    parts = _in_bulk(parts, cut, judge, target)
    least = cut.loss_one_fewer
    while len(_droppable(parts, judge)) <= MOST:
        parts = _descend(parts, judge, target, report)
        losses = {item: judge.measure_parts(parts.without([item]))[0] for item in _droppable(parts, judge)}
        least = min(losses.values(), default=math.nan)
        if not least <= target:
            break
        parts = parts.without([min(losses, key=losses.__getitem__)])
        judge.start_from(parts)
    whole = {(edge.source, edge.target) for edge in weight_edges(judge.model, parts.nodes)} == parts.wires
    return judge.cut_parts(replace(parts, wires=None) if whole else parts, cut.columns, least)


def _descend(parts: Parts, judge: Judge, target: float, report: Report) -> Parts:
    """The parts without what can go, cheapest first."""
    now, gone = judge.quick_loss(parts), 0
    queue = [(-math.inf, place, -1, item) for place, item in enumerate(_droppable(parts, judge))]
    tried = len(queue)
    while queue:
        assert parts.wires is not None
        report(tried - len(queue), tried, f"simplifying, {len(parts.wires)} edges")
        _, place, measured_at, item = heapq.heappop(queue)
        if not parts.has(item):
            continue
        rest = parts.without([item])
        if measured_at < gone:  # others have gone since
            price = _price(judge.quick_loss(rest) - now, parts, rest)
            heapq.heappush(queue, (price, place, gone, item))
        elif judge.meets(rest, target):
            judge.start_from(rest)
            parts, now, gone = rest, judge.quick_loss(rest), gone + 1
    return parts


def _in_bulk(parts: Parts, cut: Cut, judge: Judge, target: float) -> Parts:
    """The parts without chunks of the weakest of a great many units, as long as that hardly costs anything."""
    units = [judge.items(column) for column in reversed(cut.columns)]
    size, now = len(units) // BULK, judge.quick_loss(parts)
    while size > 1 and len(units) > MANY:
        start = 0
        while start < len(units):
            rest = parts.without([item for unit in units[start : start + size] for item in unit])
            most = now + max(0.0, target - now) / BULK
            if judge.quick_loss(rest) <= most and judge.meets(rest, target):
                judge.start_from(rest)
                parts, now = rest, judge.quick_loss(rest)
                del units[start : start + size]
            else:
                start += size
        size //= 2
    return parts


def _price(rise: float, parts: Parts, rest: Parts) -> float:
    """What a removal costs: the rise of the loss for each wire that goes; more negative for more where it falls."""
    assert parts.wires is not None
    assert rest.wires is not None
    others = len(parts.nodes) - len(rest.nodes) + len(rest.removed) - len(parts.removed)
    size = len(parts.wires) - len(rest.wires) + NODE * others
    return rise / size if rise > 0 else rise * size


def _droppable(parts: Parts, judge: Judge) -> list[Node | Wire | Token]:
    assert parts.wires is not None
    tokens = frozenset(judge.tokens) - parts.removed
    return [*sorted(parts.nodes.difference(judge.forced)), *sorted(parts.wires), *sorted(tokens)]
