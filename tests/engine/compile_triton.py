"""Compiles the GPU kernels for a Hopper device, which this machine need not have; prints a line per kernel.

The public functions prepare each launch as for a GPU. In place of the launch the kernel is compiled for its arguments.
"""

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from thinwire.engine.gpu import products, rows

DTYPES = (torch.float32, torch.bfloat16)
launch = JITFunction.run


class Hopper:
    """The driver of a device, as far as compiling needs one."""

    def get_current_target(self) -> GPUTarget:
        """Compute capability 9.0, 32 threads in a warp."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The first one."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


def compile_only(kernel, *args, grid, warmup, **options) -> None:
    compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
    print(kernel.__name__, len(compiled.asm["cubin"]), "bytes", *map(shown, args))


def shown(argument: object) -> str:
    """An argument as the lines show it: a tensor by its dtype and shape."""
    if isinstance(argument, Tensor):
        return f"{str(argument.dtype).removeprefix('torch.')}{list(argument.shape)}"
    return f"({' '.join(map(shown, argument))})" if isinstance(argument, tuple) else str(argument)


def compile_rows_and_columns(dtype: torch.dtype) -> None:
    for shape in ((1, 1), (33, 96), (2, rows.WIDEST)):  # a size of 1 becomes a constant of the kernel
        x = torch.zeros(shape, dtype=dtype)
        rows.keep_rows(x, 1)
        rows.pass_rows(x, x, 1)
    widest = 2048 * dtype.itemsize
    for shape in ((1, 1), (96, 33), (widest, 64)):
        x = torch.zeros(shape, dtype=dtype)
        assert rows.holds_columns(x)
        rows.keep_columns(x, 1)
        rows.pass_columns(x, x, 1)


def compile_radix(dtype: torch.dtype) -> None:
    for shape, with_reserved in (((3, 40_000), False), ((1, 5_000_000), True)):  # one block a program, and two
        x = torch.zeros(shape, dtype=dtype)
        rows.keep_largest_(x, 1, torch.zeros(shape, dtype=torch.bool) if with_reserved else None)


def compile_products(dtype: torch.dtype) -> None:
    for n_rows, n_columns, n in ((1, 1, 1), (33, 65, 77), (64, 32, 512)):
        indices = torch.arange(n_columns, dtype=torch.int32).repeat(n_rows)  # every entry is a nonzero
        indptr = torch.arange(n_rows + 1, dtype=torch.int32) * n_columns
        values, bias = torch.zeros(len(indices)), torch.zeros(n_rows)
        x, grad = torch.zeros(n_columns, n, dtype=dtype), torch.zeros(n_rows, n, dtype=dtype)
        tokens = torch.zeros(n, dtype=torch.int64)
        products.multiply(x, values, bias, indices, indptr)
        products.weight_gradient(indices, indptr, x, grad)
        products.gather_rows(tokens, values.to(dtype), indices, indptr, n_columns)
        products.gather_gradient(tokens, indices, indptr, x)


if __name__ == "__main__":
    driver.set_active(Hopper())
    JITFunction.run = compile_only
    for dtype in DTYPES:
        compile_rows_and_columns(dtype)
        compile_radix(dtype)
        compile_products(dtype)
