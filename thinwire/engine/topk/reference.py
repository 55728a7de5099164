"""Selection by magnitude in plain PyTorch: the definition, and what the kernels are tested against."""

import torch
from torch import Tensor


def keep_mask(x: Tensor, k: int) -> Tensor:
    """Where the k largest magnitudes of each row of x [..., n] are: bool [..., n]; ties go to the lowest index."""
    order = x.abs().argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order[..., :k], True)


def keep_rows(x: Tensor, k: int) -> Tensor:
    """x [..., n] with all but the k largest magnitudes of each row zeroed; differentiable, as `pass_rows` says."""
    kept = torch.where(keep_mask(x, k), x, 0)
    if not x.requires_grad:
        return kept
    return torch.where(_passes(kept, k), x, 0)  # the same values, since a row that passes everything keeps it


def pass_rows(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient of `keep_rows` from its result [..., n] and the gradient of that.

    Kept entries pass. A row with fewer than k nonzeros passes everything: any of its zeros would survive if it moved.
    """
    return torch.where(_passes(kept, k), grad, 0)


def _passes(kept: Tensor, k: int) -> Tensor:
    return (kept != 0) | ((kept != 0).sum(-1, keepdim=True) < k)
