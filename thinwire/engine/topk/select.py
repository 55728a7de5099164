"""Exact selection by magnitude: keep the k largest entries of each row, or of a whole matrix, and zero the rest.

Ties go to the lowest index, so exactly k survive. The plain functions are the definition; on CPU float32 and bfloat16
take the kernels of `thinwire.engine.topk.rows`, and on CUDA, where Triton is installed, those of
`thinwire.engine.gpu.rows`, which give the same result.
"""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from thinwire.engine.gpu.find import triton_module
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import INTEGERS
from thinwire.engine.topk import columns as column_kernels
from thinwire.engine.topk import reference
from thinwire.engine.topk import rows as row_kernels
from thinwire.engine.topk.rows import GUESSES

_MANTISSA_BITS = {torch.float32: 23, torch.bfloat16: 7}

_MAGNITUDE = 0x7FFFFFFF
"""All bits of a float but its sign."""
_SAMPLE = 512
"""Entries of a matrix that the first guess at its threshold is taken from."""


def _gpu_kernels(x: Tensor) -> ModuleType | None:
    """The Triton kernels, where they are installed and x is of a kind that they take."""
    return triton_module("rows") if x.device.type == "cuda" and x.dtype in INTEGERS else None


def keep_rows(x: Tensor, k: int) -> Tensor:
    """x [rows, width] with all but the k largest magnitudes of each row set to zero."""
    gpu = _gpu_kernels(x)
    if gpu is not None:
        return gpu.keep_rows(x, k)
    if x.device.type != "cpu" or x.dtype not in INTEGERS:
        return reference.keep_rows(x, k)
    integer = INTEGERS[x.dtype]
    x = x.contiguous()
    out = torch.empty_like(x)
    magnitude = np.array(torch.iinfo(integer).max, dtype=str(integer).removeprefix("torch."))[()]
    use_threads()
    row_kernels.keep_rows(bits(x), bits(out), k, magnitude, spacing(x.dtype, x.shape[1]))
    return out


def pass_rows(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient of `keep_rows` from its result [rows, width] and the gradient of that.

    Kept entries pass. A row with fewer than k nonzeros passes everything: any of its zeros would survive if it moved.
    """
    gpu = _gpu_kernels(grad)
    if gpu is not None and grad.shape[1] <= gpu.WIDEST:
        return gpu.pass_rows(kept, grad, k)
    if grad.device.type != "cpu" or grad.dtype not in INTEGERS:
        return reference.pass_rows(kept, grad, k)
    kept, grad = kept.contiguous(), grad.contiguous()
    out = torch.empty_like(grad)
    use_threads()
    row_kernels.pass_rows(bits(kept), bits(grad), bits(out), k)
    return out


def keep_columns(x: Tensor, k: int) -> Tensor:
    """Contiguous x [width, n] with all but the k largest magnitudes of each column set to zero."""
    gpu = _gpu_kernels(x)
    if gpu is not None and gpu.holds_columns(x):
        return gpu.keep_columns(x, k)
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return keep_rows(x.T.contiguous(), k).T.contiguous()
    out = torch.empty_like(x)
    use_threads()
    column_kernels.keep_columns(x.detach().numpy(), k, torch.get_num_threads(), out.numpy())
    return out


def pass_columns(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    """Gradient of `keep_columns` from its result [width, n] and the gradient of that, both contiguous."""
    gpu = _gpu_kernels(grad)
    if gpu is not None and gpu.holds_columns(grad):
        return gpu.pass_columns(kept, grad, k)
    if grad.device.type != "cpu" or grad.dtype != torch.float32:
        return pass_rows(kept.T.contiguous(), grad.T.contiguous(), k).T.contiguous()
    out = torch.empty_like(grad)
    use_threads()
    column_kernels.pass_columns(bits(kept), bits(grad), bits(out), k)
    return out


def bits(x: Tensor) -> np.ndarray:
    """The bits of contiguous floats x, of any shape, as integers of the same size and shape."""
    return x.view(INTEGERS[x.dtype]).numpy()


def spacing(dtype: torch.dtype, width: int) -> int:
    """How many bit patterns may lie between one magnitude and the next in so many numbers."""
    # near the quartile of a normal distribution a third of the row lies within one power of two
    return max(1, 3 * 2 ** _MANTISSA_BITS[dtype] // width)


@torch.no_grad()
def keep_largest_(matrix: Tensor, k: int, reserved: Tensor | None = None) -> None:
    """Zero all but the k largest magnitudes of a tensor of any shape, in place.

    `reserved` (bool, same shape, at most k True) marks entries that survive whatever their size.
    """
    gpu = _gpu_kernels(matrix)
    if gpu is not None and matrix.is_contiguous() and matrix.numel() < 2**31:  # its counters have 32 bits
        gpu.keep_largest_(matrix, k, reserved)
        return
    if matrix.device.type != "cpu" or matrix.dtype != torch.float32 or not matrix.is_contiguous():
        rank = matrix.abs() if reserved is None else matrix.abs().masked_fill(reserved, torch.inf)
        matrix.masked_fill_(~reference.keep_mask(rank.flatten(), k).view_as(matrix), 0)
        return
    values = matrix.view(torch.int32).view(-1)
    ranked = values if reserved is None else values.masked_fill(reserved.flatten(), _MAGNITUDE)
    _keep_bits(values.numpy(), ranked.numpy(), k)


def _keep_bits(values: np.ndarray, ranked: np.ndarray, k: int) -> None:
    """Zero all but k of `values`, those whose magnitudes in `ranked` are largest; both hold the bits of floats."""
    use_threads()
    threshold = _threshold(ranked, k)
    missing = k - row_kernels.count_reaching(ranked, threshold)
    tied = np.flatnonzero((ranked & _MAGNITUDE) == threshold - 1)[:missing] if missing > 0 and threshold > 0 else []
    kept = values[tied]
    row_kernels.zero_below(values, ranked, threshold)
    values[tied] = kept


def _threshold(ranked: np.ndarray, k: int) -> int:
    """The smallest threshold that at most k magnitudes reach, or one that exactly k do.

    The first guesses come from a sample, the next are interpolated between counts, and after a few the interval is
    halved.
    """
    sample = np.sort(ranked[:: max(1, ranked.size // _SAMPLE)] & _MAGNITUDE)[::-1]
    place = k * sample.size // ranked.size
    margin = 1 + 2 * int(place**0.5)
    low, high, n_low, n_high = 0, _MAGNITUDE, ranked.size, 0
    middle, tries = int(sample[min(place, sample.size - 1)]), 0
    while low < high:
        middle = min(max(middle, low), high - 1)
        count = row_kernels.count_reaching(ranked, middle)
        tries += 1
        if count == k:
            return middle
        if count > k:
            low, n_low = middle + 1, count
        else:
            high, n_high = middle, count
        if tries > GUESSES:
            middle = (low + high) // 2
        elif low > 0 and high < _MAGNITUDE:
            middle = low + (high - low) * (n_low - k) // (n_low - n_high)
        else:
            place += -margin if count > k else margin
            middle = int(sample[min(max(place, 0), sample.size - 1)])
            margin *= 2
    return low
