"""From one site to the next in one operator, on a CPU: a sparse map, a nonlinearity, AbsTopK."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.engine import site_kernels
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, features
from thinwire.engine.operator import operator
from thinwire.engine.products import SparsePattern, input_gradient, weight_gradient
from thinwire.engine.select import bits

Nonlinearity = Literal["identity", "relu", "gelu"]
FUNCTIONS = {"identity": lambda x: x, "relu": F.relu, "gelu": F.gelu}
"""The nonlinearities, as PyTorch has them."""
CODES: dict[str, int] = {"identity": site_kernels.IDENTITY, "relu": site_kernels.RELU, "gelu": site_kernels.GELU}
FEWEST = 16
"""Tokens below which the steps one by one are faster, since a tile has more."""


def pays(x: Tensor) -> bool:
    """Whether the operator is the faster way for x [..., width]."""
    return x.device.type == "cpu" and x.numel() >= FEWEST * x.shape[-1]


def map_and_keep(
    x: Tensor, pattern: SparsePattern, values: Tensor, bias: Tensor, nonlinearity: Nonlinearity, k: int
) -> Tensor:
    """AbsTopK of the nonlinearity of x [..., n_columns] through a sparse map: feature-major float32 [..., n_rows]."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or values.requires_grad or bias.requires_grad)
    places = pattern.columns, pattern.starts, pattern.rows, pattern.column_starts, pattern.order
    return _map_and_keep(x, values, bias, *places, CODES[nonlinearity], k, wanted)[0]


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
    nonlinearity: int,
    k: int,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, what the nonlinearity was given, and which tokens have fewer than k nonzeros; all if k is the width.

    The second is empty where there is no nonlinearity or no gradient is `wanted`.
    """
    given = features(x.float())
    n_rows, n = len(starts) - 1, given.shape[1]
    out, short = torch.empty(n_rows, n), torch.empty(n, dtype=torch.bool)
    before = torch.empty((n_rows, n) if wanted and nonlinearity else (0, 0))
    use_threads()
    site_kernels.map_and_keep(
        values.detach().float().numpy(),
        columns.numpy(),
        starts.numpy(),
        bias.detach().float().numpy(),
        given.numpy(),
        nonlinearity,
        k,
        torch.get_num_threads(),
        bits(out),
        before.numpy(),
        short.numpy(),
    )
    return activations(out, x.shape[:-1]), before, short


@operator("pass_back")
def _pass_back(kept: Tensor, before: Tensor, grad: Tensor, short: Tensor, nonlinearity: int) -> Tensor:
    """Gradient of what the nonlinearity was given."""
    out = torch.empty(kept.shape[-1], kept[..., 0].numel())
    use_threads()
    given = features(kept).numpy(), before.numpy(), features(grad.float()).numpy()
    site_kernels.pass_back(*given, nonlinearity, short.numpy(), out.numpy())
    return activations(out, kept.shape[:-1])


@_map_and_keep.register_fake
def _(x, values, bias, columns, starts, rows, column_starts, order, nonlinearity, k, wanted):
    n_rows, n = len(starts) - 1, x[..., 0].numel()
    out = x.new_empty((n_rows, *x.shape[:-1]), dtype=torch.float32).movedim(0, -1)
    before = x.new_empty((n_rows, n) if wanted and nonlinearity else (0, 0), dtype=torch.float32)
    return out, before, x.new_empty(n, dtype=torch.bool)


@_pass_back.register_fake
def _(kept, before, grad, short, nonlinearity) -> Tensor:
    return kept.new_empty((kept.shape[-1], *kept.shape[:-1])).movedim(0, -1)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, values, _, columns, starts, rows, column_starts, order, nonlinearity, _, _ = inputs
    needed = x if values.requires_grad else None  # activations are kept only where the values have a gradient
    ctx.save_for_backward(needed, values, columns, starts, rows, column_starts, order, *output)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.nonlinearity, ctx.dtype = nonlinearity, x.dtype


def _backward(ctx, grad: Tensor, _, __) -> tuple[Tensor | None, ...]:
    x, values, columns, starts, rows, column_starts, order, kept, before, short = ctx.saved_tensors
    wanted_x, wanted_values, wanted_bias = ctx.needs_input_grad[:3]
    d_map = _pass_back(kept, before, grad, short, ctx.nonlinearity)
    d_x = input_gradient(d_map, values, rows, column_starts, order).to(ctx.dtype) if wanted_x else None
    d_values = weight_gradient(d_map, x, columns, starts).to(values.dtype) if wanted_values else None
    d_bias = d_map.flatten(0, -2).sum(0) if wanted_bias else None
    return d_x, d_values, d_bias, *[None] * 8


_map_and_keep.register_autograd(_backward, setup_context=_keep_for_backward)
