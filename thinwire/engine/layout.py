"""Feature-major activations: tensors [..., width] that lie in memory as [width, ...], a feature after the other.

A nonzero weight then adds one contiguous row of numbers to another, whatever the batch. Shapes are the same in both
layouts, and elementwise operations keep the layout they find, so it never shows outside the kernels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
"""The dtypes that kernels take, and the integer of the same size."""


def is_feature_major(x: Tensor) -> bool:
    """Whether x [..., width] lies feature by feature; not where both layouts are the same."""
    return x.ndim > 1 and not x.is_contiguous() and x.movedim(-1, 0).is_contiguous()


def features(x: Tensor) -> Tensor:
    """x [..., width] as a contiguous matrix [width, n], without a copy where x is feature-major."""
    return x.movedim(-1, 0).reshape(x.shape[-1], -1).contiguous()


def floats(x: Tensor) -> np.ndarray:
    """x as a float32 array of the same shape, without a copy where x is float32."""
    x = x if x.dtype == torch.float32 else x.float()
    return (x.detach() if x.requires_grad else x).numpy()


def empty_activations(like: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialized feature-major tensor [..., width] with the leading dimensions of `like` [..., any]."""
    last = like.ndim - 1
    order = last, *range(last)
    # not a view, since nobody may change one of several that an operator returns
    return torch.empty_permuted((*like.shape[:-1], width), order, dtype=dtype or like.dtype, device=like.device)


def activations(rows: Tensor, lead: Sequence[int]) -> Tensor:
    """The feature-major tensor [*lead, width] of a contiguous matrix [width, n]."""
    return rows.view(len(rows), *lead).movedim(0, -1)
