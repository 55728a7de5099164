"""Simplification: removes what a circuit does not need, as the paper's authors did by hand.

1. List the circuit's edges. Remove nodes (with their edges), edges, and tokens that have masks, one after another:
   always the one that raises the loss of a few pairs least for each edge removed with it, as long as the target holds
   on all pairs under a newly fitted calibration. If there are very many units, the weakest are first removed in chunks.
2. Compute the loss without each remaining node, edge and token. If one of them is not needed, remove it and repeat 1:
   something that was needed before may have become useless.

The cost of a removal hardly falls while others are removed, so it is computed again only for the cheapest candidates.
"""

import heapq
import math
from dataclasses import replace

from thinwire.circuit import EdgeEnds, weight_edges
from thinwire.display import plural
from thinwire.progress import Report, silent
from thinwire.prune.discretize import Candidate, Evaluator
from thinwire.prune.passes import Parts, Token
from thinwire.sites import Node

NODE = 0.5
"""Size of a node in addition to its edges, and of a token, in edges."""
MANY = 32
"""If there are more units, they are first removed in chunks."""
MOST = 2_000
"""If more nodes and edges remain, masks were hardly trained, and removal one by one would take hours."""
BULK = 4
"""A chunk has at most 1/BULK of the units, and may use 1/BULK of the loss that remains until the target."""


def simplified(candidate: Candidate, evaluator: Evaluator, target: float, report: Report = silent) -> Candidate:
    """The candidate without what it does not need: without any one node, edge or token, the result misses the target.

    Forced nodes stay. If thousands of nodes and edges remain after removal in chunks, no further ones are tried.
    """
    every = frozenset(edge.ends for edge in weight_edges(evaluator.model, candidate.nodes))
    parts = candidate.parts if candidate.kept_edges is not None else replace(candidate.parts, kept_edges=every)
    evaluator.start_from(parts)
    parts = _in_bulk(parts, candidate, evaluator, target)
    least = candidate.loss_one_fewer
    while len(_droppable(parts, evaluator)) <= MOST:
        parts = _descend(parts, evaluator, target, report)
        losses = {item: evaluator.measure_parts(parts.without([item])).loss for item in _droppable(parts, evaluator)}
        least = min(losses.values(), default=math.nan)
        if not least <= target:
            break
        parts = parts.without([min(losses, key=losses.__getitem__)])
        evaluator.start_from(parts)
    whole = {edge.ends for edge in weight_edges(evaluator.model, parts.nodes)} == parts.kept_edges
    return evaluator.candidate_of(replace(parts, kept_edges=None) if whole else parts, candidate.columns, least)


def _descend(parts: Parts, evaluator: Evaluator, target: float, report: Report) -> Parts:
    """The parts without what is not needed, removed cheapest first."""
    now, gone = evaluator.quick_loss(parts), 0
    queue = [(-math.inf, index, -1, item) for index, item in enumerate(_droppable(parts, evaluator))]
    tried = len(queue)
    while queue:
        assert parts.kept_edges is not None
        report(tried - len(queue), tried, f"simplifying, {plural(len(parts.kept_edges), 'edge')}")
        _, index, measured_at, item = heapq.heappop(queue)
        if not parts.has(item):
            continue
        rest = parts.without([item])
        if measured_at < gone:  # others have been removed since
            price = _price(evaluator.quick_loss(rest) - now, parts, rest)
            heapq.heappush(queue, (price, index, gone, item))
        elif evaluator.meets(rest, target):
            evaluator.start_from(rest)
            parts, now, gone = rest, evaluator.quick_loss(rest), gone + 1
    return parts


def _in_bulk(parts: Parts, candidate: Candidate, evaluator: Evaluator, target: float) -> Parts:
    """The parts without chunks of the weakest units, removed if the loss hardly rises; for very many units only."""
    units = [evaluator.items(column) for column in reversed(candidate.columns)]
    size, now = len(units) // BULK, evaluator.quick_loss(parts)
    while size > 1 and len(units) > MANY:
        start = 0
        while start < len(units):
            rest = parts.without([item for unit in units[start : start + size] for item in unit])
            most = now + max(0.0, target - now) / BULK
            if evaluator.quick_loss(rest) <= most and evaluator.meets(rest, target):
                evaluator.start_from(rest)
                parts, now = rest, evaluator.quick_loss(rest)
                del units[start : start + size]
            else:
                start += size
        size //= 2
    return parts


def _price(rise: float, parts: Parts, rest: Parts) -> float:
    """Cost of a removal: rise of the loss per removed edge; if the loss falls, larger removals are cheaper."""
    assert parts.kept_edges is not None
    assert rest.kept_edges is not None
    others = len(parts.nodes) - len(rest.nodes) + len(rest.removed) - len(parts.removed)
    size = len(parts.kept_edges) - len(rest.kept_edges) + NODE * others
    return rise / size if rise > 0 else rise * size


def _droppable(parts: Parts, evaluator: Evaluator) -> list[Node | EdgeEnds | Token]:
    assert parts.kept_edges is not None
    tokens = frozenset(evaluator.tokens) - parts.removed
    return [*sorted(parts.nodes.difference(evaluator.forced)), *sorted(parts.kept_edges), *sorted(tokens)]
