"""Models with sparse weights, the same compiled, and what tests compare of both."""

import torch
from tiny import tiny_model, tiny_prompts
from torch import Tensor

from thinwire.compiled.compile import compile_sparse
from thinwire.model import Transformer
from thinwire.model.taps import Ablate, AblateMasks, ablate, ablate_masks
from thinwire.sites import ResidPoint, Site, all_sites
from thinwire.tasks import PairBatch

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""How near the logits and activations of both models are: each rounds in float32, in its own order."""
NEAR = {"rtol": 1e-5, "atol": 1e-6}
"""How near those of the compiled model are with fused layers and site by site."""
UNDERFLOW = 1e-20
"""Smaller magnitudes count as zero: the dense model's library flushes denormal values, and norms enlarge them."""
LAYERS = 3
KINDS = ("dense", "compiled")
SIZES: dict[str, object] = {"n_layers": LAYERS, "d_model": 32, "d_head": 8, "context": 300, "vocab_size": 20}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "no biases": {"biases": False},
    "added": {"positions": "added", "sink": True},
    "concatenated": {"positions": "concatenated", "d_pos": 5, "sink": True},
    "active residual": {"active_residual": True, "active_fraction": 0.5},
    "relu": {"activation": "relu", "bigram": False},
    "every channel": {"active_fraction": 1.0, "biases": False},
    "some sites": {"active_sites": ("attn.q", "attn.act_in", "mlp.post_act"), "biases": False},
}


def twins(variant: str = "plain", density: float = 0.1, mixed: bool = False) -> tuple[Transformer, Transformer]:
    """A dense model without gradients, and the same compiled; in a mixed one some matrices are too dense to be sparse.

    The mixed model's middle layer is sparse throughout.
    """
    dense = tiny_model(density=density, **SIZES | VARIANTS[variant]).eval().requires_grad_(False)
    dense.precision = "fp32"
    if mixed:
        for name in ("embedding", "blocks.0.attn.w_q", "blocks.2.mlp.w_in", "blocks.2.attn.w_o"):
            weight = dense.get_submodule(name).get_parameter("weight")
            weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return dense, compile_sparse(dense)


def random_masks(model: Transformer, trials: int, gradient: bool = False) -> AblateMasks:
    """An ablation of a quarter of the nodes, some of them in part, and some to zero."""
    generator, masks, constants = torch.Generator().manual_seed(1), {}, {}
    for site in all_sites(model.config):
        width = site.width(model.config)
        drawn = torch.rand(trials, width, generator=generator)
        masks[site] = torch.where(drawn < 0.2, 0.0, torch.where(drawn < 0.25, 0.3, 1.0)).requires_grad_(gradient)
        constants[site] = torch.randn(width, generator=generator) / 4 * (torch.arange(width) % 5 > 0)
    return ablate_masks(masks, constants)


def assert_same_activations(found: dict[Site | ResidPoint, Tensor], expected: dict[Site | ResidPoint, Tensor]) -> None:
    """The same places in the same order, the same channels kept, and values that are close.

    Where two channels of a token are nearer to each other than rounding, AbsTopK could keep either. On the seeds of
    these tests nothing is that near.
    """
    assert list(found) == list(expected)
    for place, values in found.items():
        assert values.shape == expected[place].shape
        other = (values.abs() > UNDERFLOW) != (expected[place].abs() > UNDERFLOW)
        assert not other.any(), f"{place} keeps other channels at {other.nonzero().tolist()}: a near tie, or a mistake"
        torch.testing.assert_close(values, expected[place], **CLOSE)


def model_of(kind: str, variant: str = "plain") -> Transformer:
    return twins(variant)[KINDS.index(kind)]


def batch_of(model: Transformer) -> PairBatch:
    """Three pairs of prompts of 5 to 20 tokens."""
    last = torch.tensor([19, 4, 11, 19, 7, 4])
    target = torch.tensor([1, 2, 3, 4, 5, 6])
    return PairBatch(tiny_prompts(model, 6, 20), last, target, target + 6)


def at_last_positions(x: Tensor, batch: PairBatch) -> Tensor:
    return x[torch.arange(len(batch.last)), batch.last]


def constant_ablation(model: Transformer) -> Ablate:
    """Two thirds of the nodes of every site kept, the others ablated to constants."""
    widths = {site: site.width(model.config) for site in all_sites(model.config)}
    keep = {site: torch.arange(width) % 3 > 0 for site, width in widths.items()}
    return ablate(keep, {site: torch.linspace(-0.5, 0.5, width) for site, width in widths.items()})
