"""What the kept nodes do in the circuit alone and in the whole model, on the same prompts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.model.taps import chain, record
from thinwire.prune.means import inside
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch
from thinwire.verify.inputs import CheckInput


@dataclass(frozen=True)
class Recorded:
    """Activations of one model on a batch of n pairs, by site.

    A value is [2n, pos, width], or [2n, 1, width] at the last tokens, where the forward pass computes these alone.
    """

    values: dict[Site, Tensor]
    batch: PairBatch

    def of(self, node: Node) -> Tensor:
        """A node's activations at all real positions that were computed, in one row."""
        x = self.values[node.site][..., node.index].float()
        return x[inside(self.batch)] if x.shape[1] == self.batch.tokens.shape[1] else x.flatten()


@torch.no_grad()
def both(inputs: CheckInput, batch: PairBatch) -> tuple[Recorded, Recorded]:
    """The whole model's activations at the circuit's sites, and the circuit's own."""
    sites = {node.site for node in inputs.circuit.nodes}
    whole, alone = record(sites), record(sites)
    inputs.margins(batch, whole)
    inputs.margins(batch, chain(inputs.circuit.to_tap(), alone), inputs.cut)
    return Recorded(whole.values, batch), Recorded(alone.values, batch)
