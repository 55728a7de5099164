"""What the heads of a circuit attend to at the deciding query, in the circuit and in the whole model.

The deciding query is the last token of a prompt: after it the answer stands. A circuit may leave a head's value where
it is and ablate what decides where the head looks; its pattern is then another one than the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.display import one_line
from thinwire.model.attention import Attention, attention_pattern
from thinwire.model.norms import Norms, own_scales
from thinwire.model.precision import own_modes
from thinwire.model.taps import Tap, chain, identity, record
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, last_logits
from thinwire.verify.measurement import Judgement
from thinwire.verify.thresholds import PATTERN_DISTANCE, UNIFORM

SIDES = ("first", "second")


@one_line
@dataclass(frozen=True)
class Pattern:
    """The attention of one head at the last token of each prompt."""

    tokens: Tensor
    """Weights of the prompt's tokens, zero at padding. float32 [2n, pos]"""
    sink: Tensor | None
    """Weight of the sink, float32 [2n]: with those of the tokens it makes one. None for models without sinks."""
    last: Tensor
    """Index of the last token of each prompt: int64 [2n]."""

    @property
    def from_uniform(self) -> Tensor:
        """Total variation from equal weights on all tokens, whatever the sink has: float32 [2n]."""
        lengths = (self.last + 1)[:, None].float()
        position = torch.arange(self.tokens.shape[1], dtype=torch.int64, device=self.tokens.device)
        uniform = (position <= self.last[:, None]) / lengths
        sums = self.tokens.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return (self.tokens / sums - uniform).abs().sum(1) / 2

    def distance(self, other: "Pattern") -> Tensor:
        """Total variation from another pattern over the same prompts, the sink included: float32 [2n]."""
        apart = (self.tokens - other.tokens).abs().sum(1)
        if self.sink is not None and other.sink is not None:
            apart = apart + (self.sink - other.sink).abs()
        return apart / 2


@one_line
@dataclass(frozen=True)
class HeadPattern:
    """A kept head of a circuit on a batch of n pairs; rows as in `PairBatch`: one side first, then the other."""

    layer: int
    head: int
    nodes: tuple[Node, ...]
    """Its q, k and v nodes that the circuit keeps, at least one."""
    circuit: Pattern
    """With only the circuit, as `Circuit.margins` runs it."""
    model: Pattern
    """In the whole model."""

    @property
    def distance(self) -> Tensor:
        """Total variation between the two patterns of each prompt: float32 [2n]."""
        return self.circuit.distance(self.model)

    @property
    def judgement(self) -> Judgement:
        """The worse of the two sides of the pairs, from the means over each side's prompts.

        Fail where the circuit makes uniform what is not, warn where its pattern is another one.
        """
        measured = (self.distance, self.circuit.from_uniform, self.model.from_uniform)
        sides = torch.stack(measured).unflatten(1, (2, -1)).mean(2).T.tolist()
        uniform = [_is_made_uniform(*side) for side in sides]
        if any(uniform):
            where = "" if all(uniform) else f" on the {SIDES[uniform.index(True)]} side"
            keys = any(node.site.kind == "attn.k" for node in self.nodes)
            why = "" if keys else ", which keeps no key of it"
            return Judgement("fail", f"uniform in the circuit{where}{why}, not in the whole model")
        if all(PATTERN_DISTANCE.met(apart) for apart, _, _ in sides):
            return Judgement("pass", "as in the whole model")
        return Judgement("warn", "another pattern than in the whole model")


def _is_made_uniform(apart: float, here: float, there: float) -> bool:
    """Whether a circuit makes a pattern uniform that is not in the model, from its three distances."""
    return not PATTERN_DISTANCE.met(apart) and UNIFORM.met(here) and not UNIFORM.met(there)


@own_modes()
@torch.no_grad()
def head_patterns(model: Transformer, circuit: Circuit, batch: PairBatch) -> list[HeadPattern]:
    """What each head with a kept q, k or v node attends to, sorted by layer and head.

    `model` is the whole model. Raises UserError when it has another shape than the circuit.
    """
    kept: dict[tuple[int, int], list[Node]] = {}
    for node in circuit.nodes:
        if node.site.headed:
            kept.setdefault((node.site.layer, node.index // circuit.shape.d_head), []).append(node)
    if not kept:
        return []
    layers = sorted({layer for layer, _ in kept})
    cut, norms = circuit.cut_model(model), circuit.norms(model, batch)
    alone = _patterns(cut, batch, layers, circuit.to_tap(), norms)
    whole = _patterns(model, batch, layers)
    return [
        HeadPattern(layer, head, tuple(nodes), alone[layer][head], whole[layer][head])
        for (layer, head), nodes in sorted(kept.items())
    ]


def _patterns(
    model: Transformer, batch: PairBatch, layers: Sequence[int], tap: Tap = identity, norms: Norms = own_scales
) -> dict[int, list[Pattern]]:
    """By layer, the pattern of every head at the last token of each prompt, under a tap."""
    seen = record(Site.of(layer, f"attn.{kind}") for layer in layers for kind in "qk")
    last_logits(model, batch, chain(tap, seen), norms=norms)
    return {
        layer: _of_layer(model, batch, layer, *(seen.values[Site.of(layer, f"attn.{k}")] for k in "qk"))
        for layer in layers
    }


def _of_layer(model: Transformer, batch: PairBatch, layer: int, q: Tensor, k: Tensor) -> list[Pattern]:
    """The pattern of every head of a layer from q [2n, pos or 1, width] and k [2n, pos, width]."""
    attention, last = model.sublayers[2 * layer], batch.last
    assert isinstance(attention, Attention)
    if q.shape[1] > 1:  # the last layer runs at the last tokens alone
        q = q[torch.arange(len(q), dtype=torch.int64, device=q.device), last][:, None]
    q, k = (attention.by_head(x.float().contiguous()) for x in (q, k))
    sink = None if attention.sink is None else attention.sink.float()
    found = attention_pattern(q, k, sink, last)[:, :, 0]  # zero at padding, which the mask takes for later positions
    return [Pattern(each, None if sink is None else (1 - each.sum(1)).clamp(min=0), last) for each in found.unbind(1)]
