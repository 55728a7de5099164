"""Selection in rows and in whole matrices: the kernels against the reference and against plain Python."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import selection
from torch import Tensor

from tests.engine.checks import check_largest, check_rows
from tests.engine.inputs import case, generator, grid, normal
from thinwire.engine.topk.reference import keep_mask
from thinwire.engine.topk.reference import keep_rows as reference_rows
from thinwire.engine.topk.select import keep_largest_, keep_rows
from thinwire.model import AbsTopK
from thinwire.model.abstopk import abstopk

DTYPES = (torch.float32, torch.bfloat16)
TIED = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5)
EXTREME = (*TIED, math.inf, -math.inf, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, 1.17e-38)
fast = settings(max_examples=80, deadline=None)
numbers = st.one_of(st.sampled_from(TIED), st.sampled_from(EXTREME), st.floats(-(2.0**100), 2.0**100, width=32))


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Matrices [rows, width] in float32 or bfloat16, of ties, extremes and other numbers."""
    rows, width = draw(st.integers(0, 4)), draw(st.integers(1, 33))
    values = draw(st.lists(numbers, min_size=rows * width, max_size=rows * width))
    return torch.tensor(values, dtype=torch.float32).view(rows, width).to(draw(st.sampled_from(DTYPES)))


@given(matrices(), st.data())
@fast
def test_rows_keep_what_plain_python_keeps(x: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.shape[1]))
    kept = keep_rows(x, k)
    assert kept.tolist() == [selection.keep(row, k) for row in x.tolist()]
    for row, result in zip(x, kept, strict=True):
        assert result.count_nonzero() == min(k, int(row.count_nonzero()))
    gradient = torch.arange(1, x.numel() + 1, dtype=torch.float32).view_as(x).to(x.dtype)
    expected = [selection.keep_gradient(row, g, k) for row, g in zip(x.tolist(), gradient.tolist(), strict=True)]
    for function in (abstopk, reference_rows):
        leaf = x.clone().requires_grad_()
        assert torch.autograd.grad(function(leaf, k), leaf, gradient)[0].tolist() == expected


@given(matrices(), st.data())
@fast
def test_whole_matrix_keeps_what_plain_python_keeps(x: Tensor, data: st.DataObject) -> None:
    x = x.float().flatten()
    if not len(x):
        return
    k = data.draw(st.integers(1, len(x)))
    reserved = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=k, unique=True))
    marks = torch.zeros(len(x), dtype=torch.bool)
    marks[reserved] = True
    kept = x.clone()
    keep_largest_(kept, k, marks if reserved else None)
    assert kept.tolist() == selection.keep(x.tolist(), k, reserved)


def test_rows_of_every_size() -> None:
    for dtype in DTYPES:
        for rows, width in ((64, 257), (33, 1024), (5, 63), (1, 7), (130, 16), (3, 1)):
            for k in {1, max(1, width // 4), max(1, width - 1), width}:
                for draw in (normal, grid):
                    with case(dtype, rows, width, k, draw.__name__):
                        check_rows(draw(rows, width, seed=width).to(dtype), k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_shapes_and_layouts(dtype: torch.dtype) -> None:
    """Ties go to the lowest index; any batch dimensions, none of which may have anything, in any memory layout."""
    x = torch.tensor([[1, -2, 2, -2, 2, 3, -1]], dtype=dtype)
    assert keep_rows(x, 3).tolist() == [[0, -2, 2, 0, 0, 3, 0]]
    assert keep_rows(torch.full((1, 9), -0.5, dtype=dtype), 4).tolist() == [[-0.5] * 4 + [0] * 5]
    x = normal(11, 5, 3).to(dtype).permute(2, 1, 0).requires_grad_()
    kept = abstopk(x, 4)
    assert kept.equal(torch.where(keep_mask(x.detach(), 4), x.detach(), 0))
    assert torch.autograd.grad(kept.sum(), x)[0].equal((kept != 0).to(dtype))
    for shape in ((0, 5), (3, 0, 5)):
        empty = torch.empty(shape, dtype=dtype, requires_grad=True)
        assert torch.autograd.grad(abstopk(empty, 2).sum(), empty)[0].shape == shape


def test_gradient_is_the_slope_of_the_function() -> None:
    x = torch.randn(4, 9, dtype=torch.float64, generator=generator(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: abstopk(x, 3), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_custom_op_keeps_the_contract_of_torch(dtype: torch.dtype) -> None:
    x = normal(2, 3, 8, seed=1).to(dtype).requires_grad_()
    torch.library.opcheck(abstopk.op, (x, 3))
    torch.library.opcheck(abstopk.op, (x.detach().transpose(0, 1).requires_grad_(), 3))


def test_compiles_as_one_graph() -> None:
    module, x = AbsTopK(3, 8), normal(5, 8, seed=2).requires_grad_()

    def scaled(x: Tensor) -> Tensor:
        return (2 * module(x)).square().sum()

    torch._dynamo.reset()
    (expected,) = torch.autograd.grad(scaled(x), x)
    (ours,) = torch.autograd.grad(torch.compile(scaled, backend="aot_eager", fullgraph=True)(x), x)
    assert ours.equal(expected)
    assert AbsTopK(8, 8)(x) is x


def test_whole_matrices() -> None:
    """Of many ties, with reserved entries, as kernels and the plain path take them, and in transposed memory."""
    for k in (1, 7, 500, 999, 1000):
        x, reserved = (normal(25, 40, seed=k) * 4).round(), torch.zeros(1000, dtype=torch.bool)
        reserved[torch.randperm(1000, generator=generator(k))[: k // 2]] = True
        with case(k):
            check_largest(x, k, reserved.view(25, 40))
            check_largest(normal(30, 40, seed=k), k)
        ours, plain = x.clone(), x.double()  # float64 has no kernel
        for each in (ours, plain):
            keep_largest_(each, k, reserved.view(25, 40))
        assert ours.double().equal(plain)
        assert ours.flatten().tolist() == selection.keep(x.flatten().tolist(), k, np.flatnonzero(reserved).tolist())
    x = normal(6, 9).T.clone(memory_format=torch.preserve_format)
    assert not x.is_contiguous()
    expected = x.contiguous()
    keep_largest_(x, 10)
    keep_largest_(expected, 10)
    assert x.equal(expected)


def test_kernels_leave_the_number_of_threads_of_torch_alone() -> None:
    program = (
        "import torch; from thinwire.engine.topk.select import keep_rows\n"
        "torch.set_num_threads(1)\n"
        "keep_rows(torch.randn(4, 8), 2)\n"
        "import numba; print(torch.get_num_threads(), numba.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
