"""What the kept nodes do in the circuit alone and in the whole model, on the same prompts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.model.attention import Attention, at_last, attention_pattern
from thinwire.model.taps import chain, record
from thinwire.prune.means import inside
from thinwire.sites import HEADED_KINDS, Node, Site
from thinwire.tasks import PairBatch
from thinwire.verify.inputs import CheckInput


@dataclass(frozen=True)
class Head:
    """An attention head."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


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

    def pattern(self, attention: Attention, layer: int) -> Tensor:
        """Attention weights of the last tokens in a layer, the sink in front: float32 [2n, head, 1 + pos]."""
        q, k = (self.values[Site.of(layer, kind)].float() for kind in ("attn.q", "attn.k"))
        last = self.batch.last
        q = q if q.shape[1] < k.shape[1] else at_last(q, last)
        weights = attention_pattern(
            attention.by_head(q.contiguous()), attention.by_head(k.contiguous()), attention.sink, last
        )
        weights = weights[:, :, 0]
        return torch.cat([1 - weights.sum(-1, keepdim=True), weights], -1)


def kept_heads(inputs: CheckInput) -> list[Head]:
    """The heads with a kept channel of q, k or v, in the order of the forward pass."""
    shape = inputs.model.config
    kept = [node for node in inputs.circuit.nodes if node.site.kind in HEADED_KINDS]
    return sorted(
        {Head(node.site.layer, node.index // shape.d_head) for node in kept}, key=lambda head: (head.layer, head.index)
    )


@torch.no_grad()
def both(inputs: CheckInput, batch: PairBatch) -> tuple[Recorded, Recorded]:
    """The whole model's activations at the circuit's sites, and the circuit's own."""
    layers = {head.layer for head in kept_heads(inputs)}
    sites = {node.site for node in inputs.circuit.nodes}
    sites |= {Site.of(layer, kind) for layer in layers for kind in ("attn.q", "attn.k")}
    whole, alone = record(sites), record(sites)
    inputs.margins(batch, whole)
    inputs.margins(batch, chain(inputs.circuit.to_tap(), alone), inputs.cut)
    return Recorded(whole.values, batch), Recorded(alone.values, batch)
