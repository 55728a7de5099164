"""Products of a sparse matrix with activations, and rows of one by index, as operators.

Gradients of the matrix reach its nonzeros alone. `SparsePattern` says where these are.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from thinwire.engine.gpu.find import triton_module
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, features, floats
from thinwire.engine.operator import operator
from thinwire.engine.spmm import gather, kernels
from thinwire.engine.spmm.pattern import CsrMatrix, PatternTensors, SparsePattern, csr_matrix, first_of_each
from thinwire.errors import UserError


def multiply(x: Tensor, pattern: SparsePattern, values: Tensor, bias: Tensor) -> Tensor:
    """x [..., n_columns] times the transposed matrix, plus bias [n_rows]: feature-major [..., n_rows].

    The result is float32; bfloat16 from bfloat16 on a GPU. Raises ValueError where x has another width.
    """
    pattern.check(x)
    return sparse_linear(x, values, bias, pattern.tensors)


def has_kernels(device: torch.device) -> bool:
    """Whether the operators of this module run there: on a CPU, and on CUDA where Triton is installed."""
    return device.type == "cpu" or (device.type == "cuda" and triton_module("products") is not None)


def _gpu_kernels(x: Tensor) -> ModuleType | None:
    """The Triton kernels for a tensor on a CUDA device, None for one on a CPU."""
    if not has_kernels(x.device):
        raise UserError(f"No sparse kernels run on {x.device}; install Triton for CUDA, or move the model to the CPU.")
    return None if x.device.type == "cpu" else triton_module("products")


@operator("sparse_linear")
def sparse_linear(x: Tensor, values: Tensor, bias: Tensor, index: Sequence[Tensor]) -> Tensor:
    """See `multiply`: [..., n_rows] from x [..., n_columns], `values` [nonzeros] and `bias` [n_rows].

    `index` has the tensors of the pattern.
    """
    pattern = PatternTensors(*index)
    gpu = _gpu_kernels(x)
    if gpu is not None:
        rows = gpu.multiply(features(x), values, bias, pattern.indices, pattern.indptr)
        return activations(rows, x.shape[:-1])
    return _product(x, csr_matrix(values, bias, pattern.indices, pattern.indptr))


@operator("sparse_linear_input_gradient")
def input_gradient(grad: Tensor, values: Tensor, index: Sequence[Tensor]) -> Tensor:
    """Gradient [..., in] of the input of a map, from that of its result [..., out].

    On a CPU, channels whose gradient is zero throughout cost nothing.
    """
    pattern = PatternTensors(*index)
    by_column, bias = values.detach()[pattern.csc_order], values.new_zeros(len(pattern.csc_indptr) - 1)
    gpu = _gpu_kernels(grad)
    if gpu is not None:
        rows = gpu.multiply(features(grad), by_column, bias, pattern.csc_indices, pattern.csc_indptr)
        return activations(rows, grad.shape[:-1])
    transposed = csr_matrix(by_column, bias, pattern.csc_indices, pattern.csc_indptr)
    return _product(grad, kernels.without_zero_rows(transposed, features(grad.float()).numpy()))


@operator("sparse_linear_weight_gradient")
def weight_gradient(grad: Tensor, x: Tensor, index: Sequence[Tensor]) -> Tensor:
    """Gradient [nonzeros] of a map's values, from its input x [..., in] and the gradient of its result [..., out]."""
    indices, indptr = PatternTensors(*index)[:2]
    gpu = _gpu_kernels(x)
    if gpu is not None:
        return gpu.weight_gradient(indices, indptr, features(x), features(grad))
    out = torch.empty(len(indices), dtype=torch.float32, device="cpu")
    use_threads()
    kernels.weight_gradient(
        indices.numpy(), indptr.numpy(), features(x.float()).numpy(), features(grad.float()).numpy(), out.numpy()
    )
    return out


def _product(x: Tensor, matrix: CsrMatrix) -> Tensor:
    rows = features(x.float())
    out = torch.empty(len(matrix.bias), rows.shape[1], dtype=torch.float32, device="cpu")
    use_threads()
    kernels.multiply(matrix, rows.numpy(), out.numpy())
    return activations(out, x.shape[:-1])


def _result_dtype(x: Tensor) -> torch.dtype:
    return torch.bfloat16 if x.device.type == "cuda" and x.dtype == torch.bfloat16 else torch.float32


@sparse_linear.register_fake
def _(x: Tensor, values: Tensor, bias: Tensor, index: Sequence[Tensor]) -> Tensor:
    return x.new_empty((len(bias), *x.shape[:-1]), dtype=_result_dtype(x)).movedim(0, -1)


@input_gradient.register_fake
def _(grad: Tensor, values: Tensor, index: Sequence[Tensor]) -> Tensor:
    return grad.new_empty(
        (len(PatternTensors(*index).csc_indptr) - 1, *grad.shape[:-1]), dtype=_result_dtype(grad)
    ).movedim(0, -1)


@weight_gradient.register_fake
def _(grad: Tensor, x: Tensor, index: Sequence[Tensor]) -> Tensor:
    return grad.new_empty(len(PatternTensors(*index).indices), dtype=torch.float32)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, values, _, index = inputs
    # activations are kept only where the values have a gradient
    ctx.save_for_backward(x if values.requires_grad else None, values, *index)
    ctx.dtype = x.dtype


def _backward(ctx, grad: Tensor) -> tuple[Tensor | list[None] | None, ...]:
    x, values, *index = ctx.saved_tensors
    needs_x, needs_values, needs_bias, *_ = ctx.needs_input_grad
    d_x = input_gradient(grad, values, index).to(ctx.dtype) if needs_x else None
    d_values = weight_gradient(grad, x, index).to(values.dtype) if needs_values else None
    d_bias = grad.flatten(0, -2).sum(0, dtype=torch.float32) if needs_bias else None
    return d_x, d_values, d_bias, [None] * len(index)


sparse_linear.register_autograd(_backward, setup_context=_keep_for_backward)


def check_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Check `tokens`, of any shape, since kernels do not.

    Raises IndexError for tokens outside [0, vocab_size), and TypeError for other than integers.
    """
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"Tokens must be integers, not {tokens.dtype}.")
    if tokens.numel() and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise IndexError(f"Tokens must be from 0 to {vocab_size - 1}; the embedding has no other rows.")


def gather_rows(tokens: Tensor, pattern: SparsePattern, values: Tensor) -> Tensor:
    """Rows of the matrix by index [...]: feature-major float32 [..., n_columns]. Raises as `check_tokens`."""
    return sparse_rows(tokens, values, pattern.indices, pattern.indptr, pattern.n_columns)


@operator("sparse_rows")
def sparse_rows(tokens: Tensor, values: Tensor, indices: Tensor, indptr: Tensor, width: int) -> Tensor:
    """See `gather_rows`: [..., width] from `tokens` [...], `values` and `indices` [nonzeros], `indptr` [n_rows + 1]."""
    gpu = _gpu_kernels(values)
    if gpu is not None:
        return activations(gpu.gather_rows(tokens.flatten(), values, indices, indptr, width), tokens.shape)
    check_tokens(tokens, len(indptr) - 1)
    out, rows = torch.zeros(width, tokens.numel(), dtype=torch.float32, device="cpu"), tokens.flatten().numpy()
    use_threads()
    kernels.gather_rows(floats(values), indices.numpy(), indptr.numpy(), rows, out.numpy())
    return activations(out, tokens.shape)


@operator("table_rows")
def table_rows(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows of a dense float32 table [rows, width] by index [...], on a CPU, without a gradient.

    The result is feature-major [..., width]. Raises as `check_tokens`.
    """
    check_tokens(tokens, len(table))
    rows = tokens.flatten()
    out = torch.empty(table.shape[1], len(rows), dtype=torch.float32, device="cpu")
    use_threads()
    gather.gather_table(floats(table.contiguous()), rows.numpy(), torch.get_num_threads(), out.numpy())
    return activations(out, tokens.shape)


@operator("sparse_rows_gradient")
def _rows_gradient(grad: Tensor, tokens: Tensor, indices: Tensor, indptr: Tensor) -> Tensor:
    gpu = _gpu_kernels(grad)
    if gpu is not None:
        return gpu.gather_gradient(tokens.flatten(), indices, indptr, features(grad))
    out = torch.empty(len(indices), dtype=torch.float32, device="cpu")
    by_token = tokens.flatten().argsort()
    token_indptr = first_of_each(tokens.flatten(), len(indptr) - 1)
    use_threads()
    kernels.gather_gradient(
        indices.numpy(),
        indptr.numpy(),
        by_token.numpy(),
        token_indptr.numpy(),
        features(grad.float()).numpy(),
        out.numpy(),
    )
    return out


@sparse_rows.register_fake
def _(tokens: Tensor, values: Tensor, indices: Tensor, indptr: Tensor, width: int) -> Tensor:
    return values.new_empty((width, *tokens.shape), dtype=torch.float32).movedim(0, -1)


@table_rows.register_fake
def _(tokens: Tensor, table: Tensor) -> Tensor:
    return table.new_empty((table.shape[1], *tokens.shape)).movedim(0, -1)


@_rows_gradient.register_fake
def _(grad: Tensor, tokens: Tensor, indices: Tensor, indptr: Tensor) -> Tensor:
    return grad.new_empty(len(indices), dtype=torch.float32)


def _keep_rows_for_backward(ctx, inputs, output) -> None:
    tokens, values, indices, indptr, _ = inputs
    ctx.save_for_backward(tokens, indices, indptr)
    ctx.dtype = values.dtype


def _rows_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, indices, indptr = ctx.saved_tensors
    needs_values = ctx.needs_input_grad[1]
    d_values = _rows_gradient(grad, tokens, indices, indptr).to(ctx.dtype) if needs_values else None
    return None, d_values, None, None, None


sparse_rows.register_autograd(_rows_backward, setup_context=_keep_rows_for_backward)
