"""Attribution: node scores without training, to stand in for τ (the baseline of Gao et al. 2025, Fig. 31).

Every mask of the forward pass is a number between 1 (the node as it is) and 0 (the node at its mean). The derivative of
a sequence's loss with respect to a mask is the gradient times (activation - mean), summed over positions: to first
order, the effect of removing the node. Integrated gradients average this derivative along the path from all nodes
removed to none, so that the effects add up to the whole difference in loss.
"""

import torch
from torch import Tensor

from thinwire.progress import Report, silent
from thinwire.prune.masks import NodeMasks
from thinwire.tasks import PairBatch, norms_on, sequence_losses

CHUNK = 32
"""Pairs per forward pass; bounds the memory."""
MOST_PASSES = 2048
"""Largest number of pairs times points of the path; if there are more pairs, the first ones are used."""


def attribution_scores(masks: NodeMasks, pairs: PairBatch, steps: int = 1, report: Report = silent) -> Tensor:
    """Estimated absolute change of the task loss when what each mask keeps is removed: nats, float32 [n].

    `steps` is the number of points on the path of integrated gradients; with 1 it is the gradient of the whole model.
    Effects are summed with their sign over positions and sequences, and the absolute value is taken at the end. This
    ranks best: a node that does not decide the answer moves the two sides of a pair in opposite directions.
    """
    n_pairs = min(len(pairs), max(1, MOST_PASSES // steps))
    total = torch.zeros(masks.n, dtype=torch.float32, device="cpu")
    done = 0
    for chunk in torch.arange(n_pairs, dtype=torch.int64, device="cpu").split(CHUNK):
        total += removal_effects(masks, pairs.take(chunk), steps).sum(0)
        done += len(chunk)
        report(done, n_pairs, f"attribution of {masks.n:,} masks")
    return (total / (2 * n_pairs)).abs()


def removal_effects(masks: NodeMasks, batch: PairBatch, steps: int = 1) -> Tensor:
    """Estimated rise of each sequence's loss when what a mask keeps is removed: nats, float32 [2n pairs, n masks].

    A linear estimate where `steps` is 1; otherwise the mean over the midpoints of `steps` parts of the path.
    """
    effects = torch.zeros(len(batch.tokens), masks.n, dtype=torch.float32, device="cpu")
    norms = norms_on(masks.model, batch, masks.frozen_norms)
    for step in range(steps):
        gate = 1.0 if steps == 1 else (step + 0.5) / steps
        gates = torch.full(effects.shape, gate, requires_grad=True, dtype=torch.float32, device="cpu")
        logits = masks.logits(gates, batch, norms)
        (slopes,) = torch.autograd.grad(sequence_losses(logits, batch).sum(), gates)
        effects -= slopes / steps
    return effects
