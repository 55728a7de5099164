"""Mean activation of every node over the pretraining distribution: what removed nodes are held at (A.5, step 1)."""

import torch
from torch import Tensor

from thinwire.data import Tokens
from thinwire.model.taps import record
from thinwire.model.transformer import Transformer
from thinwire.sites import Site

ROWS = 16
"""Sequences per forward pass."""


@torch.no_grad()
def mean_activations(model: Transformer, tokens: Tokens, n_tokens: int, seed: int = 0) -> dict[Site, Tensor]:
    """Mean after AbsTopK of every node, float32 [width] per site, over `n_tokens` or more of the training mixture."""
    context = model.config.context
    n_batches = -(-n_tokens // (ROWS * context))
    sums: dict[Site, Tensor] = {}
    for index in range(n_batches):
        seen = record()
        model(torch.from_numpy(tokens.batch(index, seed, ROWS, context))[:, :-1], tap=seen)
        for site, x in seen.values.items():
            sums[site] = sums.get(site, 0) + x.float().mean((0, 1))
    return {site: total / n_batches for site, total in sums.items()}
