"""Small models whose layers may pass in few operators, and a tap that holds some of their nodes."""

from typing import Any

import torch

from thinwire.model import ModelConfig, Transformer
from thinwire.model.taps import ablate_masks as Hold
from thinwire.sites import all_sites

LAYERS = 3
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinks": {"sink": True},
    "added": {"positions": "added"},
    "beside": {"positions": "concatenated", "d_pos": 5},
    "relu": {"activation": "relu", "biases": False},
    "sparse stream": {"active_residual": True},
    "whole": {"active_sites": ()},
    "no bigram": {"bigram": False},
}


def made(**fields: Any) -> Transformer:
    """A model whose weights, without those of norms, are mostly zero."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_layers": LAYERS, "d_model": 32, "d_head": 8, "context": 300, "vocab_size": 20}
    dense = Transformer(ModelConfig(**sizes | fields))
    for name, matrix in dense.named_parameters():
        if name.endswith(("bias", "sink")) or "norm" in name:
            matrix.data += torch.randn_like(matrix) / 4
        elif "bigram" not in name and "positions" not in name:
            matrix.data *= torch.rand_like(matrix) < 0.1
    return dense.eval().requires_grad_(False)


def hold(model: Transformer, trials: int) -> Hold:
    """A tap that holds a quarter of the nodes, wholly or in part, some of them at zero; every mask has a gradient."""
    generator, masks, means = torch.Generator().manual_seed(1), {}, {}
    for site in all_sites(model.config):
        width = site.width(model.config)
        drawn = torch.rand(trials, width, generator=generator)
        masks[site] = torch.where(drawn < 0.2, 0.0, torch.where(drawn < 0.25, 0.3, 1.0)).requires_grad_()
        means[site] = torch.randn(width, generator=generator) / 4 * (torch.arange(width) % 5 > 0)
    return Hold(masks, means)
