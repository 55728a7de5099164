"""From one site to the next in one operator, on a CPU: a sparse map, a nonlinearity, AbsTopK, holding."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.engine import nonlinearity_kernels, site_back_kernels, site_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features, floats
from thinwire.engine.operator import operator
from thinwire.engine.pointwise import Held
from thinwire.engine.products import SparsePattern, weight_gradient
from thinwire.engine.tiles import TOKENS

Nonlinearity = Literal["identity", "relu", "gelu"]
FUNCTIONS = {"identity": lambda x: x, "relu": F.relu, "gelu": F.gelu}
"""The nonlinearities, as PyTorch has them."""
CODES: dict[str, int] = {
    "identity": nonlinearity_kernels.IDENTITY,
    "relu": nonlinearity_kernels.RELU,
    "gelu": nonlinearity_kernels.GELU,
}
FEWEST = 16
"""Tokens below which the steps one by one are faster, since a tile has more."""


def pays(x: Tensor) -> bool:
    """Whether the operator is the faster way for x [..., width]."""
    return x.device.type == "cpu" and x.numel() >= FEWEST * x.shape[-1]


def map_and_keep(
    x: Tensor,
    pattern: SparsePattern,
    values: Tensor,
    bias: Tensor,
    nonlinearity: Nonlinearity,
    k: int,
    held: Held | None = None,
) -> Tensor:
    """AbsTopK of the nonlinearity of x [..., n_columns] through a sparse map: feature-major float32 [..., n_rows].

    Some nodes are `held` after that; raises ValueError where that, or the width of x, does not fit.
    """
    pattern.check(x)
    if held is not None:
        held.check(pattern.n_rows, x[..., 0].numel())
    mean, mask = held if held is not None else (None, None)
    learns = any(each is not None and each.requires_grad for each in (x, values, bias, mask))
    wanted = torch.is_grad_enabled() and mask is not None and learns
    places = pattern.columns, pattern.starts, pattern.rows, pattern.column_starts, pattern.order
    return _map_and_keep(x, values, bias, *places, mean, mask, CODES[nonlinearity], k, wanted)[0]


@operator("map_and_keep")
def _map_and_keep(
    x: Tensor,
    values: Tensor,
    bias: Tensor,
    columns: Tensor,
    starts: Tensor,
    rows: Tensor,
    column_starts: Tensor,
    order: Tensor,
    mean: Tensor | None,
    mask: Tensor | None,
    nonlinearity: int,
    k: int,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result; flags; and which tokens have fewer than k nonzeros, all if k is the width.

    The flags, int8 [n_rows, n], say where a row with a mask other than 1 was not zero; other rows are not written.
    There are none unless `wanted`.
    """
    given = features(x.float())
    n_rows, n = len(starts) - 1, given.shape[1]
    out, short = torch.empty(n_rows, n), torch.empty(n, dtype=torch.bool)
    flags = torch.empty(n_rows if wanted else 0, n, dtype=torch.int8)
    use_threads()
    site_kernels.map_and_keep(
        *matrix_numbers(values, columns, starts, bias),
        given.numpy(),
        nonlinearity,
        k,
        *held_numbers(mean, mask),
        torch.get_num_threads(),
        out.numpy(),
        flags.numpy(),
        short.numpy(),
    )
    return activations(out, x.shape[:-1]), flags, short


def matrix_numbers(values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> tuple[np.ndarray, ...]:
    """A matrix with compressed rows, and a bias, as kernels take them."""
    return floats(values), columns.numpy(), starts.numpy(), floats(bias)


def held_numbers(mean: Tensor | None, mask: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """What holds nodes, as kernels take it: one trial without any nodes, if nothing does."""
    if mean is None or mask is None:
        return np.empty(0, np.float32), np.empty((1, 0), np.float32)
    return floats(mean), floats(mask.contiguous())


def parts_of_mask_gradient(n: int, mask: Tensor | None, width: int) -> Tensor:
    """Place for the gradient of a mask from each tile of a trial's tokens, of n in all: [trials, tiles, width]."""
    trials = 1 if mask is None else len(mask)
    return torch.empty(trials, -(-n // trials // TOKENS), width)


@operator("map_and_keep_backward")
def _map_and_keep_backward(
    grad: Tensor,
    x: Tensor | None,
    values: Tensor,
    bias: Tensor,
    columns: Tensor,
    starts: Tensor,
    rows: Tensor,
    column_starts: Tensor,
    order: Tensor,
    mean: Tensor | None,
    mask: Tensor | None,
    kept: Tensor,
    flags: Tensor,
    short: Tensor,
    nonlinearity: int,
    wanted_input: bool,
    wanted_map: bool,
    wanted_mask: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, of what the nonlinearity was given, and of the mask; empty where not wanted.

    x is the input, if the slope of the nonlinearity or a mask needs it.
    """
    given, of_result = features(kept), features(grad.float())
    n_rows, n = given.shape
    n_columns = len(column_starts) - 1
    d_x, d_map = torch.empty(n_columns if wanted_input else 0, n), torch.empty(n_rows if wanted_map else 0, n)
    d_mask = parts_of_mask_gradient(n, mask, n_rows if wanted_mask else 0)
    matrix = values.detach().float()
    by_column = matrix[order] if wanted_input and n_columns > n_rows else matrix  # not read otherwise
    use_threads()
    site_back_kernels.pass_back(
        matrix_numbers(matrix, columns, starts, bias),
        (by_column.numpy(), rows.numpy(), column_starts.numpy()),
        np.empty((0, n), np.float32) if x is None else features(x.float()).numpy(),
        nonlinearity,
        given.numpy(),
        (*held_numbers(mean, mask), flags.numpy()),
        short.view(torch.int8).numpy(),
        of_result.numpy(),
        torch.get_num_threads(),
        d_x.numpy(),
        d_map.numpy(),
        d_mask.numpy(),
    )
    lead = kept.shape[:-1]
    return activations(d_x, lead), activations(d_map, lead), d_mask.sum(1)


@_map_and_keep.register_fake
def _(x, values, bias, columns, starts, rows, column_starts, order, mean, mask, nonlinearity, k, wanted):
    n_rows, n = len(starts) - 1, x[..., 0].numel()
    out = empty_activations(x, n_rows, torch.float32)
    flags = x.new_empty((n_rows if wanted else 0, n), dtype=torch.int8)
    return out, flags, x.new_empty(n, dtype=torch.bool)


@_map_and_keep_backward.register_fake
def _(
    grad,
    x,
    values,
    bias,
    columns,
    starts,
    rows,
    column_starts,
    order,
    mean,
    mask,
    kept,
    flags,
    short,
    nonlinearity,
    wanted_input,
    wanted_map,
    wanted_mask,
):
    n_rows = len(starts) - 1
    d_x = empty_activations(grad, len(column_starts) - 1 if wanted_input else 0, torch.float32)
    d_map = empty_activations(grad, n_rows if wanted_map else 0, torch.float32)
    d_mask = grad.new_empty(1 if mask is None else len(mask), n_rows if wanted_mask else 0, dtype=torch.float32)
    return d_x, d_map, d_mask


def _keep_for_backward(ctx, inputs, output) -> None:
    x, values, *rest, nonlinearity, _, _ = inputs
    # the input is kept only where the values have a gradient, or something is made from it again
    ctx.remade = nonlinearity == CODES["gelu"] or len(output[1]) > 0
    ctx.save_for_backward(x if values.requires_grad or ctx.remade else None, values, *rest, *output)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.nonlinearity, ctx.dtype = nonlinearity, x.dtype


def _backward(ctx, grad: Tensor, _, __) -> tuple[Tensor | None, ...]:
    x, *saved = ctx.saved_tensors
    values, _, columns, starts = saved[:4]
    wanted_x, wanted_values, wanted_bias, *_, wanted_mask, _, _, _ = ctx.needs_input_grad
    d_x, d_map, d_mask = _map_and_keep_backward(
        grad, x if ctx.remade else None, *saved, ctx.nonlinearity, wanted_x, wanted_values or wanted_bias, wanted_mask
    )
    d_x = d_x.to(ctx.dtype) if wanted_x else None
    d_values = weight_gradient(d_map, x, columns, starts).to(values.dtype) if wanted_values else None
    d_bias = d_map.flatten(0, -2).sum(0) if wanted_bias else None
    return d_x, d_values, d_bias, *[None] * 6, d_mask if wanted_mask else None, None, None, None


_map_and_keep.register_autograd(_backward, setup_context=_keep_for_backward)
