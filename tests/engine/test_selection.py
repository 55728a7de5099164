"""AbsTopK and whole-matrix selection: the compiled kernels against two slower twins."""

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

from thinwire.engine.topk.reference import keep_mask
from thinwire.engine.topk.select import keep_largest_, keep_rows, pass_rows
from thinwire.model import AbsTopK
from thinwire.model.abstopk import abstopk

DTYPES = (torch.float32, torch.bfloat16)
TIED = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5)
EXTREME = (*TIED, math.inf, -math.inf, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, 1.17e-38)
fast = settings(max_examples=80, deadline=None)


@st.composite
def matrices(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> Tensor:
    """Matrices [rows, width] in float32 or bfloat16 whose entries come from `numbers`."""
    rows, width = draw(st.integers(0, 4)), draw(st.integers(1, 33))
    values = draw(st.lists(numbers, min_size=rows * width, max_size=rows * width))
    return torch.tensor(values, dtype=torch.float32).view(rows, width).to(draw(st.sampled_from(DTYPES)))


finite = st.floats(-(2.0**100), 2.0**100, width=32)
numbers = st.one_of(st.sampled_from(TIED), st.sampled_from(EXTREME), finite)


def plain(x: Tensor, k: int) -> Tensor:
    return torch.where(keep_mask(x, k), x, 0)


@given(matrices(numbers), st.data())
@fast
def test_kernel_keeps_what_both_twins_keep(x: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.shape[1]))
    kept = keep_rows(x, k)
    assert kept.dtype == x.dtype
    assert kept.tolist() == [selection.keep(row, k) for row in x.tolist()]
    assert kept.tolist() == plain(x, k).tolist()
    for row, result in zip(x, kept, strict=True):
        assert result.count_nonzero() == min(k, int(row.count_nonzero()))


@given(matrices(numbers), st.data())
@fast
def test_gradient_passes_where_the_rule_says(x: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.shape[1]))
    gradient = torch.arange(1, x.numel() + 1, dtype=torch.float32).view_as(x).to(x.dtype)
    x.requires_grad_()
    abstopk(x, k).backward(gradient)
    assert x.grad is not None
    expected = [selection.keep_gradient(row, g, k) for row, g in zip(x.tolist(), gradient.tolist(), strict=True)]
    assert x.grad.tolist() == expected


@given(matrices(finite), st.data())
@fast
def test_gradient_kernel_is_its_plain_twin(x: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.shape[1]))
    gradient = torch.randn(x.shape, dtype=torch.float32, generator=torch.Generator().manual_seed(k)).to(x.dtype)
    kept = keep_rows(x, k)
    ours = pass_rows(kept, gradient, k)
    twin = pass_rows(kept.double(), gradient.double(), k)  # float64 has no kernel
    assert ours.double().equal(twin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "k"), [(64, 257, 64), (33, 1024, 256), (5, 63, 62), (1, 7, 7)])
def test_random_rows_keep_exactly_k(dtype: torch.dtype, rows: int, width: int, k: int) -> None:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    kept = keep_rows(x, k)
    assert (kept != 0).sum(-1).tolist() == [k] * rows
    assert kept.equal(plain(x, k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lowest_index(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, -2, 2, -2, 2, 3, -1]], dtype=dtype)
    assert keep_rows(x, 3).tolist() == [[0, -2, 2, 0, 0, 3, 0]]
    assert keep_rows(torch.full((1, 9), -0.5, dtype=dtype), 4).tolist() == [[-0.5] * 4 + [0] * 5]


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_dimensions_and_transposed_input(dtype: torch.dtype) -> None:
    x = torch.randn(11, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype).permute(2, 1, 0)
    x.requires_grad_()
    kept = abstopk(x, 4)
    assert kept.shape == (3, 5, 11)
    assert kept.equal(plain(x.detach(), 4))
    kept.sum().backward()
    assert x.grad is not None
    assert x.grad.equal((kept != 0).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
def test_empty_batch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, dtype=dtype, requires_grad=True)
    abstopk(x, 2).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape


def test_gradient_is_the_slope_of_the_function() -> None:
    x = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: abstopk(x, 3), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_custom_op_keeps_the_contract_of_torch(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    torch.library.opcheck(abstopk.op, (x, 3))
    torch.library.opcheck(abstopk.op, (x.detach().transpose(0, 1).requires_grad_(), 3))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(backend: str) -> None:
    module = AbsTopK(3, 8)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)

    def scaled(x: Tensor) -> Tensor:
        return (2 * module(x)).square().sum()

    torch._dynamo.reset()
    (expected,) = torch.autograd.grad(scaled(x), x)
    (ours,) = torch.autograd.grad(torch.compile(scaled, backend=backend, fullgraph=True)(x), x)
    assert ours.equal(expected)


def test_module_with_all_channels_is_the_identity() -> None:
    x = torch.randn(2, 8)
    assert AbsTopK(8, 8)(x) is x


@given(matrices(numbers), st.data())
@fast
def test_whole_matrix_keeps_what_the_twin_keeps(x: Tensor, data: st.DataObject) -> None:
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


@pytest.mark.parametrize("k", [1, 7, 500, 999, 1000])
def test_whole_matrix_and_its_plain_path_agree(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(25, 40, generator=generator).mul(4).round()  # many ties
    reserved = torch.zeros(25, 40, dtype=torch.bool)
    reserved.view(-1)[torch.randperm(1000, generator=generator)[: k // 2]] = True
    ours, plain_path = x.clone(), x.double()  # float64 has no kernel
    keep_largest_(ours, k, reserved)
    keep_largest_(plain_path, k, reserved)
    assert ours.double().equal(plain_path)
    assert ours.flatten().tolist() == selection.keep(x.flatten().tolist(), k, np.flatnonzero(reserved).tolist())


def test_whole_matrix_in_transposed_memory() -> None:
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    transposed = x.T.clone(memory_format=torch.preserve_format)
    assert not transposed.is_contiguous()
    keep_largest_(transposed, 10)
    expected = x.T.contiguous()
    keep_largest_(expected, 10)
    assert transposed.equal(expected)


def test_kernels_leave_the_number_of_threads_of_torch_alone() -> None:
    program = (
        "import torch; from thinwire.engine.topk.select import keep_rows\n"
        "torch.set_num_threads(1)\n"
        "keep_rows(torch.randn(4, 8), 2)\n"
        "import numba; print(torch.get_num_threads(), numba.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
