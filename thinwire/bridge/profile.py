"""The profile of a bridge: the cross-entropy of every crossing, on held-out tokens."""

from dataclasses import dataclass

import torch
from pydantic import with_config
from torch import Tensor

from thinwire.bridge.agreement import Crossed, Tally
from thinwire.bridge.crossings import Pair
from thinwire.bridge.losses import nmse
from thinwire.bridge.maps import Bridge
from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.model.transformer import next_token_loss


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Profile:
    """Held-out losses of a bridge, nats per token, corpus parts weighted as in training. Lists are by junction."""

    dense: float
    """Cross-entropy of the dense model by itself."""
    sparse: float
    """The same of the sparse model."""
    to_sparse: list[float]
    """Of the crossings from the dense into the sparse model."""
    to_dense: list[float]
    """Of the crossings from the sparse into the dense model."""
    nmse_encode: list[float]
    """Squared error of the encoder's output over the variance of the sparse stream."""
    nmse_decode: list[float]
    """Squared error of the decoder's output over the variance of the dense stream."""

    @property
    def gap_to_sparse(self) -> float:
        """How far the worst crossing into the sparse model lies above the dense model, nats per token."""
        return max(self.to_sparse) - self.dense

    @property
    def gap_to_dense(self) -> float:
        """The same of crossings into the dense model."""
        return max(self.to_dense) - self.dense


@torch.no_grad()
def measure_profile(
    pair: Pair, bridge: Bridge, batches: list[tuple[float, Tensor]], tally: Tally | None = None
) -> Profile:
    """The profile on batches of tokens [batch, pos + 1], each with its weight; weights are normalized.

    A `tally` gets every batch too, so that agreement is measured in the same passes.
    """
    total = sum(weight for weight, _ in batches)
    sums = torch.zeros(2 + 4 * len(bridge.junctions), dtype=torch.float64, device="cpu")
    for weight, tokens in batches:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        dense, sparse = pair.own(bridge, inputs)
        streams = list(enumerate(zip(dense.streams, sparse.streams, strict=True)))
        found = [next_token_loss(own.logits, targets) for own in (dense, sparse)]
        to_sparse = list(pair.into_sparse(bridge, dense.streams, inputs))
        to_dense = list(pair.into_dense(bridge, sparse.streams, inputs))
        found += [next_token_loss(logits, targets) for logits in (*to_sparse, *to_dense)]
        found += [nmse(bridge.encode(i, h_dense), h_sparse) for i, (h_dense, h_sparse) in streams]
        found += [nmse(bridge.decode(i, h_sparse), h_dense) for i, (h_dense, h_sparse) in streams]
        if tally is not None:
            tally.add(weight / total, Crossed(tokens, dense, sparse, to_sparse, to_dense))
        sums += weight / total * torch.stack([value.double().cpu() for value in found])
    own, *by_junction = sums[:2].tolist(), *sums[2:].reshape(4, -1).tolist()
    return Profile(own[0], own[1], *by_junction)
