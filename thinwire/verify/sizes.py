"""Circuits of every size from one ranking of a model's nodes, and the areas under what they do (MIB, 2504.13151)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thinwire.circuit import keep_masks
from thinwire.circuit.edges import weights_between
from thinwire.model.transformer import Transformer
from thinwire.prune.attribution import attribution_scores
from thinwire.prune.config import PruneConfig
from thinwire.prune.masks import NodeMasks
from thinwire.sites import Node, all_sites
from thinwire.verify.inputs import CheckInput

RANKING_PAIRS = 64
"""Training pairs on which the nodes outside a circuit are ranked."""


def ranking(inputs: CheckInput) -> list[Node]:
    """All nodes of the model: those of the circuit by their strengths, then the others by attribution, best first.

    Nodes of the circuit without a strength come after those that have one.
    """
    circuit = inputs.circuit
    strengths = circuit.strengths
    own = sorted(circuit.nodes, key=lambda node: (-strengths.get(node, -math.inf), node))
    few = inputs.fit.take(torch.arange(min(len(inputs.fit), RANKING_PAIRS), dtype=torch.int64, device="cpu"))
    masks = NodeMasks(inputs.model, circuit.means, PruneConfig(frozen_norms=circuit.frozen_norms))
    scores = attribution_scores(masks, few)
    known = set(own)
    others = [masks.units[column][0] for column in scores.argsort(descending=True, stable=True).tolist()]
    return own + [node for node in others if node not in known]


def prefixes(model: Transformer, ranked: Sequence[Node], shares: Sequence[float]) -> list[int]:
    """How many nodes of a ranking of all nodes have, between them, so large shares of the model's edges.

    The rank of an edge is that of the later of its two ends.
    """
    shape = model.config
    rank = {site: torch.zeros(site.width(shape), dtype=torch.int64, device="cpu") for site in all_sites(shape)}
    for place, node in enumerate(ranked):
        rank[node.site][node.index] = place
    later = [
        torch.maximum(rank[source][found.columns], rank[target][found.rows])
        for _, source, target, found in weights_between(model, keep_masks(ranked, shape))
    ]
    ranks = torch.cat(later).sort().values
    return [int(ranks[max(1, math.ceil(share * len(ranks))) - 1]) + 1 for share in shares]


def area(values: Tensor, at: Sequence[float]) -> Tensor:
    """Mean height [...] of the curve through values [..., n] at n increasing places, by the trapezoidal rule."""
    places = torch.tensor(at, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, places, dim=-1) / (places[-1] - places[0])
