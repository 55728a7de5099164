"""Finds the sparse reads through which a dense model is steered best, by one backward pass.

To first order, steering through a channel of a read shifts the log-odds by the gradient of the dense model's log-odds
with respect to its own read, times what the channel's difference is worth there. One backward pass gives this for all
channels at all points. Reads are chosen on training pairs; what they do is then measured on held-out pairs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinwire.bridge.reads import Read
from thinwire.bridge.steer import Steering
from thinwire.tasks import margin


def scan(steering: Steering) -> dict[int, Tensor]:
    """The slope of every read at strength 0: nats of log-odds towards the other prompt's answer per unit of strength.

    float32 [2n, d_sparse] per point of the sparse model, a row for each prompt.
    """
    batch, decoder = steering.batch, steering.decoder
    zeros = {
        point: torch.zeros(
            *batch.tokens.shape, len(decoder.columns[point]), dtype=torch.float32, device=batch.tokens.device
        ).requires_grad_()
        for point in decoder.columns
    }
    with torch.enable_grad():
        logits = steering.target.moved_last(batch, {decoder.to_dense[point]: move for point, move in zeros.items()})
        towards = -margin(logits, batch).sum()
        gradients = torch.autograd.grad(towards, list(zeros.values()))
    found: dict[int, Tensor] = {}
    for point, gradient in zip(zeros, gradients, strict=True):
        found[point] = (gradient @ decoder.columns[point] * steering.deltas[point]).sum(1)
    return found


def best_reads(slopes: dict[int, Tensor], k: int = 32, points: Sequence[int] | None = None) -> tuple[Read, ...]:
    """The k reads with the largest mean slopes over both sides of the pairs, at most; all of them are above 0.

    `slopes` are as of `scan`, [2n, d_sparse] per point; `points` limits the choice to some.
    """
    ranked = [
        (value, Read(point, channel))
        for point in (slopes if points is None else points)
        for channel, value in enumerate(slopes[point].mean(0).tolist())
        if value > 0
    ]
    ranked.sort(key=lambda each: (-each[0], each[1]))
    return tuple(sorted(read for _, read in ranked[:k]))
