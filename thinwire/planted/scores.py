"""How near a found circuit comes to a planted one: exact recovery, Jaccard index, and AUROC of a ranking of edges."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from thinwire.circuit import EdgeEnds
from thinwire.planted.model import Planted, Wiring
from thinwire.sites import Node

CHANCE = 0.5
"""AUROC of a random ranking."""


@dataclass(frozen=True)
class Recovery:
    """A found circuit against the true one that it is most like."""

    exact: bool
    """Whether its edges are those of a true circuit."""
    jaccard: float
    """Edges in both over edges in either."""
    missing: int
    """True edges that were not found."""
    extra: int
    """Found edges that are not true."""


def recovery(found: Collection[EdgeEnds], truth: Collection[Wiring]) -> Recovery:
    """The edges of a found circuit against the true circuit with the largest Jaccard index.

    Where nothing is true, only the empty circuit is exact. Raises ValueError without any truth to compare with: give an
    empty `Wiring` where there is no circuit.
    """
    if not truth:
        raise ValueError("there is no truth to compare with; give an empty Wiring where there is no circuit")
    edges = frozenset(found)
    each = [_against(edges, wiring.edges) for wiring in truth]
    return max(each, key=lambda one: (one.jaccard, one.exact))


def _against(found: frozenset[EdgeEnds], true: frozenset[EdgeEnds]) -> Recovery:
    either = len(found | true)
    jaccard = len(found & true) / either if either else 1.0
    return Recovery(found == true, jaccard, len(true - found), len(found - true))


def edge_scores(edges: Collection[EdgeEnds], nodes: Mapping[Node, float]) -> dict[EdgeEnds, float]:
    """Scores of edges from a ranking of nodes: an edge has the smaller score of its two ends.

    A set of nodes keeps an edge where it keeps both ends, so the edge comes in with the later of them. A node without a
    score is below all others.
    """
    least = min(nodes.values(), default=0.0) - 1.0
    return {edge: min(nodes.get(edge.source, least), nodes.get(edge.target, least)) for edge in edges}


def edge_auroc(scores: Mapping[EdgeEnds, float], truth: Collection[Wiring]) -> float:
    """Probability that a true edge scores higher than one that is not, ties counted half; of the best true circuit.

    `scores` has every edge of the model. Raises ValueError where a truth has no edge, or every one.
    """
    return max(_auroc(scores, wiring.edges) for wiring in truth)


def _auroc(scores: Mapping[EdgeEnds, float], true: frozenset[EdgeEnds]) -> float:
    values = np.array([scores[edge] for edge in scores], dtype=np.float64)
    is_true = np.array([edge in true for edge in scores], dtype=bool)
    if is_true.all() or not is_true.any() or is_true.sum() < len(true):
        raise ValueError("an AUROC needs a score of every true edge, and edges that are not true")
    others = np.sort(values[~is_true])
    below, ties_too = (np.searchsorted(others, values[is_true], side=side) for side in ("left", "right"))
    return float((below + ties_too).mean() / (2 * len(others)))


def truth_of(planted: Planted) -> tuple[Wiring, ...]:
    """The circuits that count as found: the true ones, or the empty one where nothing in the model does the task."""
    return planted.truth or (Wiring.of(()),)
