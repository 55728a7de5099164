"""From one site to the next, as one operator on a CPU: a sparse map, a nonlinearity, AbsTopK, ablation."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, empty_activations, features, floats
from thinwire.engine.operator import operator
from thinwire.engine.simd import nonlinearities
from thinwire.engine.simd.tiles import TOKENS
from thinwire.engine.sites import backward, forward
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.sites.records import SiteGradients, SiteResult
from thinwire.engine.spmm.operators import weight_gradient
from thinwire.engine.spmm.pattern import PatternTensors, SparsePattern, csr_matrix
from thinwire.engine.topk.ablation import KernelAblation

Nonlinearity = Literal["identity", "relu", "gelu"]
FUNCTIONS = {"identity": lambda x: x, "relu": F.relu, "gelu": F.gelu}
"""The nonlinearities, as PyTorch has them."""
CODES: dict[str, int] = {
    "identity": nonlinearities.IDENTITY,
    "relu": nonlinearities.RELU,
    "gelu": nonlinearities.GELU,
}
MIN_TOKENS = 16
"""With fewer tokens the steps one by one are faster, since a tile has `TOKENS`."""


class SiteOptions(NamedTuple):
    """What an operator takes as a list of integers."""

    nonlinearity: int
    """One of CODES."""
    k: int
    """How many channels AbsTopK keeps."""
    needs_flags: int
    """1 if the backward pass needs flags of ablated nodes, otherwise 0."""


def pays(x: Tensor) -> bool:
    """Whether the operator is the faster way for x [..., width]."""
    return x.device.type == "cpu" and x.numel() >= MIN_TOKENS * x.shape[-1]


def map_and_keep(
    x: Tensor,
    pattern: SparsePattern,
    values: Tensor,
    bias: Tensor,
    nonlinearity: Nonlinearity,
    k: int,
    ablation: Ablation | None = None,
) -> Tensor:
    """AbsTopK of the nonlinearity of x [..., n_columns] through a sparse map, then the ablation.

    The result is feature-major float32 [..., n_rows]. Raises ValueError where the ablation, or the width of x, does not
    fit.
    """
    pattern.check(x)
    if ablation is not None:
        ablation.check(pattern.n_rows, x[..., 0].numel())
    constants, mask = ablation if ablation is not None else (None, None)
    learns = any(each is not None and each.requires_grad for each in (x, values, bias, mask))
    needs_flags = torch.is_grad_enabled() and mask is not None and learns
    options = [CODES[nonlinearity], k, int(needs_flags)]
    return _map_and_keep(x, values, bias, mask, constants, pattern.tensors, options)[0]


@operator("map_and_keep")
def _map_and_keep(
    x: Tensor,
    values: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    constants: Tensor | None,
    index: Sequence[Tensor],
    options: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """The result; flags; and which tokens are short: have fewer than k nonzeros, all if k is the width.

    `options` are the fields of `SiteOptions`. Flags, int8 [n_rows, n], say where a row
    whose mask is not 1 was not zero; other rows are not written. They are [0, n] where not needed.
    """
    site, pattern = SiteOptions(*options), PatternTensors(*index)
    rows = features(x.float())
    out, flags, short = empty_output(len(bias), rows.shape[1], bool(site.needs_flags))
    use_threads()
    forward.map_and_keep(
        csr_matrix(values, bias, pattern.indices, pattern.indptr),
        rows.numpy(),
        site.nonlinearity,
        site.k,
        torch.get_num_threads(),
        kernel_ablation(constants, mask, flags),
        out.numpy(),
        short.numpy(),
    )
    return activations(out, x.shape[:-1]), flags, short


def empty_output(width: int, n: int, needs_flags: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what a site keeps [width, n], its flags, and its short tokens [n]."""
    out = torch.empty(width, n, dtype=torch.float32, device="cpu")
    flags = torch.empty(width if needs_flags else 0, n, dtype=torch.int8, device="cpu")
    return out, flags, torch.empty(n, dtype=torch.bool, device="cpu")


def site_result(result: Sequence[Tensor], ablation: Sequence[Tensor], grad: Tensor) -> SiteResult:
    """What backward kernels take: [kept, flags, short] of the forward pass, [constants, mask] or [], and a gradient."""
    kept, flags, short = result
    constants, mask = ablation or (None, None)
    return SiteResult(
        features(kept).numpy(),
        *kernel_ablation(constants, mask, flags),
        short.view(torch.int8).numpy(),
        features(grad.float()).numpy(),
    )


def kernel_ablation(constants: Tensor | None, mask: Tensor | None, flags: Tensor) -> KernelAblation:
    """What kernels take for constants [width] and a mask [trials, width], or for neither, and memory for flags."""
    if constants is None or mask is None:
        return KernelAblation(np.empty(0, np.float32), np.empty((1, 0), np.float32), flags.numpy())
    return KernelAblation(floats(constants), floats(mask.contiguous()), flags.numpy())


def empty_mask_gradient(n: int, ablation: Sequence[Tensor], width: int) -> Tensor:
    """Memory for the gradient of a mask from each tile of a trial, of n tokens in all: [trials, tiles, width]."""
    trials = len(ablation[1]) if ablation else 1
    return torch.empty(trials, -(-n // trials // TOKENS), width, dtype=torch.float32, device="cpu")


@operator("map_and_keep_backward")
def _map_and_keep_backward(
    grad: Tensor,
    x: Tensor | None,
    matrix: Sequence[Tensor],
    index: Sequence[Tensor],
    ablation: Sequence[Tensor],
    result: Sequence[Tensor],
    nonlinearity: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, of the input of the nonlinearity, and of the mask; empty unless `needs` has them.

    x is the input, if the derivative of the nonlinearity or a mask needs it; `matrix` is [values, bias], `ablation`
    [constants, mask] or [], `result` what the forward pass returned.
    """
    values, bias = matrix[0].detach().float(), matrix[1]
    pattern = PatternTensors(*index)
    needs_x, needs_mapped, needs_mask = needs
    n_rows, n_columns, n = len(bias), len(pattern.csc_indptr) - 1, result[0][..., 0].numel()
    d_x = torch.empty(n_columns if needs_x else 0, n, dtype=torch.float32, device="cpu")
    d_mapped = torch.empty(n_rows if needs_mapped else 0, n, dtype=torch.float32, device="cpu")
    d_mask = empty_mask_gradient(n, ablation, n_rows if needs_mask else 0)
    by_column = values[pattern.csc_order] if needs_x and n_columns > n_rows else values  # not read otherwise
    use_threads()
    backward.map_and_keep_backward(
        csr_matrix(values, bias, pattern.indices, pattern.indptr),
        csr_matrix(by_column, values.new_zeros(n_columns), pattern.csc_indices, pattern.csc_indptr),
        np.empty((0, n), np.float32) if x is None else features(x.float()).numpy(),
        nonlinearity,
        site_result(result, ablation, grad),
        torch.get_num_threads(),
        SiteGradients(d_x.numpy(), d_mapped.numpy(), d_mask.numpy()),
    )
    lead = result[0].shape[:-1]
    return activations(d_x, lead), activations(d_mapped, lead), d_mask.sum(1)


@_map_and_keep.register_fake
def _(x, values, bias, mask, constants, index, options):
    n_rows, n = len(bias), x[..., 0].numel()
    out = empty_activations(x, n_rows, torch.float32)
    flags = x.new_empty((n_rows if SiteOptions(*options).needs_flags else 0, n), dtype=torch.int8)
    return out, flags, x.new_empty(n, dtype=torch.bool)


@_map_and_keep_backward.register_fake
def _(grad, x, matrix, index, ablation, result, nonlinearity, needs):
    needs_x, needs_mapped, needs_mask = needs
    n_rows, trials = len(matrix[1]), len(ablation[1]) if ablation else 1
    d_x = empty_activations(grad, len(PatternTensors(*index).csc_indptr) - 1 if needs_x else 0, torch.float32)
    d_mapped = empty_activations(grad, n_rows if needs_mapped else 0, torch.float32)
    return d_x, d_mapped, grad.new_empty(trials, n_rows if needs_mask else 0, dtype=torch.float32)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, values, bias, mask, constants, index, options = inputs
    # the input is kept only where the values have a gradient, or the backward pass computes the map again
    site = SiteOptions(*options)
    ctx.recomputes = site.nonlinearity == CODES["gelu"] or bool(site.needs_flags)
    kept_input = x if values.requires_grad or ctx.recomputes else None
    ctx.save_for_backward(kept_input, values, bias, mask, constants, *output, *index)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.nonlinearity, ctx.dtype = site.nonlinearity, x.dtype


def _backward(ctx, grad: Tensor, *_) -> tuple[Tensor | list[None] | None, ...]:
    x, values, bias, mask, constants, kept, flags, short, *index = ctx.saved_tensors
    needs_x, needs_values, needs_bias, needs_mask, *_ = ctx.needs_input_grad
    d_x, d_mapped, d_mask = _map_and_keep_backward(
        grad,
        x if ctx.recomputes else None,
        [values, bias],
        index,
        [] if mask is None else [constants, mask],
        [kept, flags, short],
        ctx.nonlinearity,
        [needs_x, needs_values or needs_bias, needs_mask],
    )
    d_x = d_x.to(ctx.dtype) if needs_x else None
    d_values = weight_gradient(d_mapped, x, index).to(values.dtype) if needs_values else None
    d_bias = d_mapped.flatten(0, -2).sum(0) if needs_bias else None
    return d_x, d_values, d_bias, d_mask if needs_mask else None, None, [None] * len(index), None


_map_and_keep.register_autograd(_backward, setup_context=_keep_for_backward)
