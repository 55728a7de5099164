"""Kept nodes as steps between two levels (Gao et al. 2025, appendix C), fitted greedily and not trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.model.taps import Intervention, chain, record
from thinwire.prune.means import inside
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, loss_of
from thinwire.verify.inputs import CheckInput

QUARTERS = (0.25, 0.5, 0.75)
"""Where in the range of a node's values thresholds are tried; and the quantiles of the values that are tried too.

The range alone would miss, where a few values are far from all others."""


@dataclass(frozen=True)
class Step:
    """A node that has the level `low` up to a threshold and `high` beyond it."""

    threshold: float
    low: float
    high: float


class Binarize(Intervention):
    """Replaces the values of some nodes by their steps."""

    def __init__(self, steps: Mapping[Node, Step]) -> None:
        super().__init__(frozenset(node.site for node in steps))
        self.steps = steps

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; x and the result are [batch, pos, width], `last` [batch]."""
        x = x.clone()
        for node, step in self.steps.items():
            if node.site == site:
                own = x[..., node.index]
                x[..., node.index] = torch.where(own > step.threshold, step.high, step.low).to(x.dtype)
        return x


def binarized_margins(inputs: CheckInput, batch: PairBatch, steps: Mapping[Node, Step]) -> Tensor:
    """Margins [2n] of the circuit alone with some nodes as steps, not calibrated."""
    return inputs.margins(batch, chain(inputs.circuit.to_tap(), Binarize(steps)), inputs.cut)


def fitted_steps(inputs: CheckInput, batch: PairBatch) -> dict[Node, Step]:
    """A step for every kept node, one after another in the order of the forward pass; earlier ones are steps already.

    Of the thresholds that are tried, the one with the least refitted loss on the batch is taken.
    """
    steps: dict[Node, Step] = {}
    for node in inputs.circuit.nodes:
        values = _values(inputs, batch, node, steps)
        tried = [steps | {node: step} for step in candidates(values)]
        losses = [loss_of(inputs.refitted(binarized_margins(inputs, batch, each))).item() for each in tried]
        steps = tried[losses.index(min(losses))]
    return steps


def candidates(values: Tensor) -> Sequence[Step]:
    """The steps that are tried for values [n] of a node: its levels are the means on both sides of the threshold."""
    low, high = values.min().item(), values.max().item()
    found = []
    quarters = torch.tensor(QUARTERS, dtype=values.dtype, device=values.device)
    for threshold in (*(low + part * (high - low) for part in QUARTERS), *values.quantile(quarters).tolist()):
        above = values > threshold
        below = values[~above].mean().item() if not above.all() else low
        found.append(Step(threshold, below, values[above].mean().item() if above.any() else high))
    return found


def _values(inputs: CheckInput, batch: PairBatch, node: Node, steps: Mapping[Node, Step]) -> Tensor:
    """The values [n] of a node at all real positions that are computed, after the steps of earlier nodes."""
    seen = record([node.site])
    inputs.margins(batch, chain(inputs.circuit.to_tap(), Binarize(steps), seen), inputs.cut)
    x = seen.values[node.site][..., node.index].float()
    return x[inside(batch)] if x.shape[1] == batch.tokens.shape[1] else x.flatten()
