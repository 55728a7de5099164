"""Attribution: node scores without training, to stand in for τ (the baseline of Gao et al. 2025, Fig. 31).

Every mask of the forward pass is a number between 1 (the node as it is) and 0 (the node at its mean). The slope of a
sequence's loss in it is the gradient times (activation - mean), summed over positions: to first order, what removing
the node does. Integrated gradients take the slope along the way from all nodes removed to none, so that the effects
add up to the whole difference in loss.
"""

import torch
from torch import Tensor

from thinwire.progress import Report, silent
from thinwire.prune.masks import NodeMasks
from thinwire.tasks import PairBatch, norms_on, sequence_losses

CHUNK = 32
"""Pairs per forward pass, which bounds the memory it takes."""
MOST_PASSES = 2048
"""Pairs times points of the path; of more pairs the first ones are used."""


def attribution_scores(masks: NodeMasks, pairs: PairBatch, steps: int = 1, report: Report = silent) -> Tensor:
    """By how much the task loss would change without what each mask keeps, nats, absolute, float32 [n].

    `steps` points on the path of integrated gradients; 1 is the gradient of the whole model. Of the usual ways to sum,
    signed over positions and sequences and absolute at the end ranks best: a node that does not decide the answer
    moves the two sides of a pair in opposite directions.
    """
    n_pairs = min(len(pairs), max(1, MOST_PASSES // steps))
    total = torch.zeros(masks.n)
    done = 0
    for chunk in torch.arange(n_pairs).split(CHUNK):
        total += removal_effects(masks, pairs.take(chunk), steps).sum(0)
        done += len(chunk)
        report(done, n_pairs, f"attribution of {masks.n:,} masks")
    return (total / (2 * n_pairs)).abs()


def removal_effects(masks: NodeMasks, batch: PairBatch, steps: int = 1) -> Tensor:
    """By how much each sequence's loss would rise without what a mask keeps, nats, float32 [2n pairs, n masks].

    Linear where `steps` is 1; otherwise the mean over the middles of `steps` parts of the path.
    """
    effects = torch.zeros(len(batch.tokens), masks.n)
    norms = norms_on(masks.model, batch, masks.frozen_norms)
    for step in range(steps):
        gate = 1.0 if steps == 1 else (step + 0.5) / steps
        gates = torch.full(effects.shape, gate, requires_grad=True)
        logits = masks.logits(gates, batch, norms)
        (slopes,) = torch.autograd.grad(sequence_losses(logits, batch).sum(), gates)
        effects -= slopes / steps
    return effects
