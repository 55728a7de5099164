"""Causal attention in plain PyTorch: what the kernels are tested against."""

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, queries: Tensor) -> Tensor:
    """Causal attention [batch, head, n_queries, d_head] of q, of that shape, over k and v [batch, head, pos, d_head].

    Query t of sequence b stands at position `queries[b, t]` and sees the positions up to its own; `sink` [head] adds
    exp(sink) to each softmax denominator.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    later = torch.arange(k.shape[-2], device=k.device, dtype=torch.int64) > queries[..., None]
    scores = scores.masked_fill(later[:, None], -torch.inf)
    if sink is not None:
        scores = torch.cat([scores, sink[:, None, None].expand(*scores.shape[:-1], 1)], -1)
    return scores.softmax(-1)[..., : k.shape[-2]] @ v
