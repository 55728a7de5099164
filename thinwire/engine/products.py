"""Sparse matrices as operators: products with activations, and rows by index. Gradients reach the nonzeros alone.

`SparsePattern` says where the nonzeros are; their values are a tensor of their own, so that values can be trained, or
replaced for one call, without anything being sorted again.
"""

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from thinwire.engine import product_kernels, table_kernels
from thinwire.engine.gpu import triton_module
from thinwire.engine.jit import use_threads
from thinwire.engine.layout import activations, features, floats
from thinwire.engine.operator import operator
from thinwire.errors import UserError


@dataclass(frozen=True)
class SparsePattern:
    """Places of the nonzeros of a matrix [n_rows, n_columns], row by row and column by column."""

    n_rows: int
    n_columns: int
    columns: Tensor
    """Column of each nonzero, row by row. int32 [nonzeros]"""
    starts: Tensor
    """Where each row begins, and the number of nonzeros. int32 [n_rows + 1]"""
    rows: Tensor
    """Row of each nonzero, column by column. int32 [nonzeros]"""
    column_starts: Tensor
    """Where each column begins in that order. int32 [n_columns + 1]"""
    order: Tensor
    """Nonzeros column by column, as places in the order row by row. int64 [nonzeros]"""

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> "SparsePattern":
        """The pattern of nonzeros at int64 rows and columns [nonzeros], sorted by row, then column."""
        order = columns.argsort(stable=True)
        return cls(
            *shape,
            columns=columns.to(torch.int32),
            starts=_starts(rows, shape[0]),
            rows=rows[order].to(torch.int32),
            column_starts=_starts(columns, shape[1]),
            order=order,
        )

    def row_of_each(self) -> Tensor:
        """Row of each nonzero, row by row. int64 [nonzeros]"""
        counts = self.starts.diff().long()
        return torch.arange(self.n_rows, device=counts.device).repeat_interleave(counts)

    def multiply(self, x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """x [..., n_columns] times the transposed matrix, plus bias [n_rows]: feature-major [..., n_rows].

        The result is float32; bfloat16 from bfloat16 on a GPU. Raises ValueError where x has another width.
        """
        self.check(x)
        return sparse_linear(x, values, bias, self.columns, self.starts, self.rows, self.column_starts, self.order)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x is [..., n_columns]: kernels would read beyond it."""
        if x.shape[-1] != self.n_columns:
            raise ValueError(f"The map takes {self.n_columns} channels, not {x.shape[-1]}.")

    def gather(self, tokens: Tensor, values: Tensor) -> Tensor:
        """Rows of the matrix by index [...]: feature-major float32 [..., n_columns]."""
        return sparse_rows(tokens, values, self.columns, self.starts, self.n_columns)


def has_kernels(device: torch.device) -> bool:
    """Whether the operators of this module run there: on a CPU, and on CUDA where Triton is installed."""
    return device.type == "cpu" or (device.type == "cuda" and triton_module("triton_products") is not None)


def _gpu_kernels(x: Tensor) -> ModuleType | None:
    """The Triton kernels for a tensor on a CUDA device, None for one on a CPU."""
    if not has_kernels(x.device):
        raise UserError(f"No sparse kernels run on {x.device}; install Triton for CUDA, or move the model to the CPU.")
    return None if x.device.type == "cpu" else triton_module("triton_products")


def _starts(keys: Tensor, n: int) -> Tensor:
    """Where each of n keys begins once they are sorted, and their number: int32 [n + 1]."""
    starts = torch.zeros(n + 1, dtype=torch.int32, device=keys.device)
    starts[1:] = torch.bincount(keys, minlength=n).cumsum(0)
    return starts


@operator("sparse_linear")
def sparse_linear(
    x: Tensor,
    values: Tensor,
    bias: Tensor,
    columns: Tensor,
    starts: Tensor,
    rows: Tensor,
    column_starts: Tensor,
    order: Tensor,
) -> Tensor:
    """See `SparsePattern.multiply`; the gradient of the input takes the nonzeros column by column."""
    return _product(x, values, bias, columns, starts)


@operator("sparse_linear_input_gradient")
def input_gradient(grad: Tensor, values: Tensor, rows: Tensor, column_starts: Tensor, order: Tensor) -> Tensor:
    """Gradient of what a map was given, from that of its result. On a CPU, channels without a gradient cost nothing."""
    nothing = values.new_zeros(len(column_starts) - 1)
    return _product(grad, values.detach()[order], nothing, rows, column_starts, skip_zeros=True)


@operator("sparse_linear_weight_gradient")
def weight_gradient(grad: Tensor, x: Tensor, columns: Tensor, starts: Tensor) -> Tensor:
    """Gradient of a map's values from that of its result, and what it was given."""
    gpu = _gpu_kernels(x)
    if gpu is not None:
        return gpu.weight_gradient(columns, starts, features(x), features(grad))
    out = torch.empty(len(columns))
    use_threads()
    product_kernels.weight_gradient(
        columns.numpy(), starts.numpy(), features(x.float()).numpy(), features(grad.float()).numpy(), out.numpy()
    )
    return out


def _product(
    x: Tensor, values: Tensor, bias: Tensor, columns: Tensor, starts: Tensor, skip_zeros: bool = False
) -> Tensor:
    """`skip_zeros` looks for channels of x that are zero everywhere, and leaves them out, on a CPU."""
    gpu = _gpu_kernels(x)
    if gpu is not None:
        return activations(gpu.multiply(features(x), values, bias, columns, starts), x.shape[:-1])
    given = features(x.float())
    out = torch.empty(len(starts) - 1, given.shape[1])
    matrix = floats(values), columns.numpy(), starts.numpy()
    use_threads()
    if skip_zeros:
        matrix = product_kernels.without_zero_rows(*matrix, given.numpy())
    product_kernels.multiply(*matrix, floats(bias), given.numpy(), out.numpy())
    return activations(out, x.shape[:-1])


def _result_dtype(x: Tensor) -> torch.dtype:
    return torch.bfloat16 if x.device.type == "cuda" and x.dtype == torch.bfloat16 else torch.float32


@sparse_linear.register_fake
def _(x, values, bias, columns, starts, rows, column_starts, order) -> Tensor:
    return x.new_empty((len(starts) - 1, *x.shape[:-1]), dtype=_result_dtype(x)).movedim(0, -1)


@input_gradient.register_fake
def _(grad, values, rows, column_starts, order) -> Tensor:
    return grad.new_empty((len(column_starts) - 1, *grad.shape[:-1]), dtype=_result_dtype(grad)).movedim(0, -1)


@weight_gradient.register_fake
def _(grad, x, columns, starts) -> Tensor:
    return grad.new_empty(len(columns), dtype=torch.float32)


def _keep_for_backward(ctx, inputs, output) -> None:
    x, values, _, columns, starts, rows, column_starts, order = inputs
    # activations are kept only where the values have a gradient
    ctx.save_for_backward(x if values.requires_grad else None, values, columns, starts, rows, column_starts, order)
    ctx.dtype = x.dtype


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, values, columns, starts, rows, column_starts, order = ctx.saved_tensors
    wanted_x, wanted_values, wanted_bias = ctx.needs_input_grad[:3]
    d_x = input_gradient(grad, values, rows, column_starts, order).to(ctx.dtype) if wanted_x else None
    d_values = weight_gradient(grad, x, columns, starts).to(values.dtype) if wanted_values else None
    d_bias = grad.flatten(0, -2).sum(0, dtype=torch.float32) if wanted_bias else None
    return d_x, d_values, d_bias, None, None, None, None, None


sparse_linear.register_autograd(_backward, setup_context=_keep_for_backward)


def check_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Raise IndexError for tokens that the embedding does not have, TypeError for others: kernels look at no bounds."""
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens are whole numbers, not {tokens.dtype}")
    if tokens.numel() and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise IndexError("there are tokens that the embedding does not have")


@operator("sparse_rows")
def sparse_rows(tokens: Tensor, values: Tensor, columns: Tensor, starts: Tensor, width: int) -> Tensor:
    """See `SparsePattern.gather`."""
    gpu = _gpu_kernels(values)
    if gpu is not None:
        return activations(gpu.gather_rows(tokens.flatten(), values, columns, starts, width), tokens.shape)
    check_tokens(tokens, len(starts) - 1)
    out, wanted = torch.zeros(width, tokens.numel()), tokens.flatten().numpy()
    use_threads()
    product_kernels.gather_rows(floats(values), columns.numpy(), starts.numpy(), wanted, out.numpy())
    return activations(out, tokens.shape)


@operator("table_rows")
def table_rows(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows of a dense float32 table by index [...], on a CPU, without a gradient: feature-major [..., width].

    Raises IndexError for rows that it does not have.
    """
    check_tokens(tokens, len(table))
    wanted = tokens.flatten()
    out = torch.empty(table.shape[1], len(wanted))
    use_threads()
    table_kernels.gather_table(floats(table.contiguous()), wanted.numpy(), torch.get_num_threads(), out.numpy())
    return activations(out, tokens.shape)


@operator("sparse_rows_gradient")
def _rows_gradient(grad: Tensor, tokens: Tensor, columns: Tensor, starts: Tensor) -> Tensor:
    gpu = _gpu_kernels(grad)
    if gpu is not None:
        return gpu.gather_gradient(tokens.flatten(), columns, starts, features(grad))
    out = torch.empty(len(columns))
    by_token = tokens.flatten().argsort()
    counts = _starts(tokens.flatten(), len(starts) - 1)
    use_threads()
    product_kernels.gather_gradient(
        columns.numpy(), starts.numpy(), by_token.numpy(), counts.numpy(), features(grad.float()).numpy(), out.numpy()
    )
    return out


@sparse_rows.register_fake
def _(tokens, values, columns, starts, width) -> Tensor:
    return values.new_empty((width, *tokens.shape), dtype=torch.float32).movedim(0, -1)


@table_rows.register_fake
def _(tokens, table) -> Tensor:
    return table.new_empty((table.shape[1], *tokens.shape)).movedim(0, -1)


@_rows_gradient.register_fake
def _(grad, tokens, columns, starts) -> Tensor:
    return grad.new_empty(len(columns), dtype=torch.float32)


def _keep_rows_for_backward(ctx, inputs, output) -> None:
    tokens, values, columns, starts, _ = inputs
    ctx.save_for_backward(tokens, columns, starts)
    ctx.dtype = values.dtype


def _rows_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, columns, starts = ctx.saved_tensors
    wanted = ctx.needs_input_grad[1]
    return None, _rows_gradient(grad, tokens, columns, starts).to(ctx.dtype) if wanted else None, None, None, None


sparse_rows.register_autograd(_rows_backward, setup_context=_keep_rows_for_backward)
