"""The losses of a bridge (Gao et al. 2025, A.3), each logged apart."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.bridge.crossings import OwnPass, Pair
from thinwire.bridge.maps import Bridge


def nmse(x: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the variance of the target, a scalar; both [batch, pos, width].

    0 is perfect, and 1 as good as the target's mean. The variance is a constant for the gradient.
    """
    flat = target.float().flatten(0, -2)
    variance = (flat - flat.mean(0)).square().mean().detach()
    return (x.float() - target.float()).square().mean() / variance.clamp_min(torch.finfo(torch.float32).tiny)


def divergence(log_probs: Tensor, logits: Tensor) -> Tensor:
    """KL(p ‖ softmax(logits)) in nats per token, a scalar; `log_probs` of p and the logits are [batch, pos, vocab]."""
    ours = F.log_softmax(logits.float().flatten(0, -2), -1)
    return F.kl_div(ours, log_probs.flatten(0, -2), log_target=True, reduction="batchmean")


def bridge_losses(
    pair: Pair, bridge: Bridge, tokens: Tensor, own: tuple[OwnPass, OwnPass], chosen: Sequence[int]
) -> dict[str, Tensor]:
    """`nmse`, `kl_to_sparse` and `kl_to_dense`, scalars: means over the chosen junctions, which rise.

    `own` are the passes of both models by themselves on tokens [batch, pos].
    """
    return {name: each.mean() for name, each in losses_by_junction(pair, bridge, tokens, own, chosen).items()}


def losses_by_junction(
    pair: Pair, bridge: Bridge, tokens: Tensor, own: tuple[OwnPass, OwnPass], chosen: Sequence[int]
) -> dict[str, Tensor]:
    """`bridge_losses` of each of the chosen junctions apart, [chosen] each; tokens are [batch, pos]."""
    dense, sparse = own
    guide = F.log_softmax(dense.logits.float(), -1).detach()
    errors = [
        nmse(bridge.encode(i, dense.streams[i]), sparse.streams[i])
        + nmse(bridge.decode(i, sparse.streams[i]), dense.streams[i])
        for i in chosen
    ]
    to_sparse = [divergence(guide, logits) for logits in pair.into_sparse(bridge, dense.streams, tokens, chosen)]
    to_dense = [divergence(guide, logits) for logits in pair.into_dense(bridge, sparse.streams, tokens, chosen)]
    found = {"nmse": errors, "kl_to_sparse": to_sparse, "kl_to_dense": to_dense}
    return {name: torch.stack(values) for name, values in found.items()}
