"""Exact selection by magnitude: keep the k largest entries of each row, or of a whole matrix, and zero the rest.

Ties go to the lowest index, so exactly k survive. The plain functions are the definition; on CPU float32 and bfloat16
take the kernels of `thinwire.model.kernels`, which give the same result.
"""

import numpy as np
import torch
from torch import Tensor

from thinwire.model.kernels import kernels

_ROW_KERNELS = {torch.float32: ("keep_rows_32", torch.int32), torch.bfloat16: ("keep_rows_16", torch.int16)}


def plain_keep_mask(x: Tensor, k: int) -> Tensor:
    """Where the k largest magnitudes of each row of x [..., n] are: bool [..., n], ties to the lowest index."""
    order = x.abs().argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order[..., :k], True)


def keep_rows(x: Tensor, k: int) -> Tensor:
    """x [rows, width] with all but the k largest magnitudes of each row set to zero."""
    if x.device.type != "cpu" or x.dtype not in _ROW_KERNELS:
        return torch.where(plain_keep_mask(x, k), x, 0)
    name, integer = _ROW_KERNELS[x.dtype]
    x = x.contiguous()
    out = torch.empty_like(x)
    getattr(kernels(), name)(x.view(integer).numpy(), out.view(integer).numpy(), k)
    return out


def pass_rows(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient of `keep_rows` from its result [rows, width] and the gradient of that.

    Kept entries pass. A row with fewer than k nonzeros passes everything: any of its zeros would survive if it moved.
    """
    if grad.device.type != "cpu" or grad.dtype not in _ROW_KERNELS:
        return torch.where((kept != 0) | ((kept != 0).sum(-1, keepdim=True) < k), grad, 0)
    integer = _ROW_KERNELS[grad.dtype][1]
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    kernels().pass_rows(kept.view(integer).numpy(), grad.view(integer).numpy(), out.view(integer).numpy(), k)
    return out


@torch.no_grad()
def keep_largest_(matrix: Tensor, k: int, reserved: Tensor | None = None) -> None:
    """Zero all but the k largest magnitudes of a tensor of any shape, in place.

    `reserved` (bool, same shape, at most k True) marks entries that survive whatever their size.
    """
    if matrix.device.type != "cpu" or matrix.dtype != torch.float32 or not matrix.is_contiguous():
        rank = matrix.abs() if reserved is None else matrix.abs().masked_fill(reserved, torch.inf)
        matrix.masked_fill_(~plain_keep_mask(rank.flatten(), k).view_as(matrix), 0)
        return
    bits = matrix.view(torch.int32).flatten() & 0x7FFFFFFF
    if reserved is not None:
        bits[reserved.flatten()] = 0x7FFFFFFF
    _keep_bits(matrix.view(torch.int32).view(-1).numpy(), bits.numpy(), k)


def _keep_bits(values: np.ndarray, bits: np.ndarray, k: int) -> None:
    low, high = 0, 0x7FFFFFFF
    count = -1
    while low < high:
        middle = (low + high) // 2
        count = kernels().count_reaching(bits, middle)
        if count == k:
            low = high = middle
        elif count > k:
            low = middle + 1
        else:
            high = middle
    missing = k - kernels().count_reaching(bits, low)
    if missing > 0 and low > 0:
        bits[np.flatnonzero(bits == low - 1)[:missing]] = low
    kernels().zero_below(values, bits, low)
