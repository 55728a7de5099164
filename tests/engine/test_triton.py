"""GPU selection against the plain twins, bit for bit: in Triton's interpreter, or on a GPU where there is one."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton", reason="Triton is not installed: no GPU kernels to test")

from thinwire.engine.gpu import radix, rows  # noqa: E402
from thinwire.engine.layout import INTEGERS  # noqa: E402
from thinwire.engine.topk import reference, select  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
DEVICE = "cuda" if GPU else "cpu"
DTYPES = (torch.float32, torch.bfloat16)
LARGE = pytest.param(5, 1025, 300, marks=pytest.mark.slow)
SHAPES = [(5, 1, 1), (33, 37, 9), (17, 37, 36), (5, 37, 37), (7, 64, 2), (5, 200, 199), LARGE]
"""Rows, width, k: widths on both sides of powers of two, k from one to the width, several programs."""
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-45, 1e-40, 1.17e-38, 3.3e38, -3.3e38, math.inf, -math.inf)


def rows_of(n_rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Rows [n_rows, width] that are normal, full of ties, special values, zeros, or mostly zeros, in turn."""
    generator = torch.Generator().manual_seed(1000 * seed + n_rows + width)
    x = torch.randn(n_rows, width, generator=generator)
    x[1::5] = (2 * x[1::5]).round()
    x[2::5] = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), x[2::5].shape, generator=generator)]
    x[3::5] = 0.0
    x[4::5] *= torch.rand(x[4::5].shape, generator=generator) < 0.1
    return x.to(dtype)


def bits(x: Tensor) -> Tensor:
    """Two tensors share these only if they are equal to the last bit, signs of zeros included."""
    return x.cpu().view(INTEGERS[x.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_rows", "width", "k"), SHAPES)
def test_selection_and_gradient_are_those_of_the_plain_twins(
    n_rows: int, width: int, k: int, dtype: torch.dtype
) -> None:
    """Rows in registers, rows in blocks of 64 entries, and columns in registers."""
    x, grad = rows_of(n_rows, width, dtype), rows_of(n_rows, width, dtype, seed=1).flip(0)
    expected = reference.keep_rows(x, k)
    assert bits(rows.keep_rows(x.to(DEVICE), k)).equal(bits(expected))
    assert bits(rows.keep_rows(x.to(DEVICE), k, widest=0, block=64)).equal(bits(expected))
    columns = x.T.contiguous().to(DEVICE)
    assert bits(rows.keep_columns(columns, k)).equal(bits(expected).T)

    passed = reference.pass_rows(expected, grad, k)
    assert ((expected != 0).sum(-1) < k).any()  # such a row passes everything
    kept, grad = expected.to(DEVICE), grad.to(DEVICE)
    assert bits(rows.pass_rows(kept, grad, k)).equal(bits(passed))
    by_column = rows.pass_columns(kept.T.contiguous(), grad.T.contiguous(), k)
    assert bits(by_column).equal(bits(passed).T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_and_empty_rows(dtype: torch.dtype) -> None:
    x = rows_of(40, 6, dtype).T
    assert bits(rows.keep_rows(x.to(DEVICE), 7)).equal(bits(reference.keep_rows(x, 7)))
    for widest in (0, 64):
        assert rows.keep_rows(x[:0].to(DEVICE), 7, widest=widest).shape == (0, 40)
    assert rows.pass_rows(x[:0].to(DEVICE), x[:0].to(DEVICE), 7).shape == (0, 40)


def test_largest_float_and_nan_do_not_derail_the_search() -> None:
    x = torch.tensor([[1.0, -math.nan, 2.0, math.inf, 3.4028235e38, math.nan, -3.0]])
    for widest in (0, 64):
        kept = rows.keep_rows(x.to(DEVICE), 4, widest=widest, block=32).cpu()
        assert kept.isnan().tolist() == [[False, True, False, False, False, True, False]]
        assert kept.nan_to_num(7.0, posinf=9.0).tolist() == [[0.0, 7.0, 0.0, 9.0, x[0, 4].item(), 7.0, 0.0]]


def test_columns_too_long_for_registers_become_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    if not GPU:
        monkeypatch.setattr(select, "_gpu_kernels", lambda x: rows)
    for dtype, widest in ((torch.float32, 8192), (torch.bfloat16, 4096)):
        assert rows.holds_columns(torch.empty(widest, 1, dtype=dtype))
        assert not rows.holds_columns(torch.empty(widest + 1, 1, dtype=dtype))
    x = rows_of(3, 4097, torch.bfloat16)
    expected = reference.keep_rows(x, 99)
    columns, grad = x.T.contiguous().to(DEVICE), x.T.flip(1).contiguous().to(DEVICE)
    kept = select.keep_columns(columns, 99)
    assert bits(kept).equal(bits(expected).T)
    passed = select.pass_columns(kept, grad, 99)
    assert bits(passed).equal(bits(reference.pass_rows(expected, x.flip(0), 99)).T)


def matrix_of(n_values: int, seed: int) -> tuple[Tensor, Tensor]:
    """A matrix [23, 41], of the magnitudes 1 … n_values if given, and a mask of 60 reserved entries."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(23, 41, generator=generator)
    if n_values:
        matrix = matrix.sign() * torch.randint(1, n_values + 1, matrix.shape, generator=generator)
    reserved = torch.zeros(23 * 41, dtype=torch.bool)
    reserved[torch.randperm(23 * 41, generator=generator)[:60]] = True
    return matrix, reserved.view(41, 23).T


@pytest.mark.parametrize(
    ("k", "with_reserved", "n_values", "max_parts"),
    [(1, False, 0, 1024), (61, True, 6, 2), (300, False, 1, 1024), (700, True, 1, 4), (942, False, 6, 2)],
)
def test_matrix_keeps_what_the_plain_twin_keeps(
    k: int, with_reserved: bool, n_values: int, max_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 256 make four programs, or two that read two blocks each; ties run through all of them.

    The mask of reserved entries is not contiguous.
    """
    monkeypatch.setattr(radix, "MAX_PARTS", max_parts)
    for dtype in DTYPES:
        matrix, mask = matrix_of(n_values, seed=k)
        matrix, reserved = matrix.to(dtype), mask if with_reserved else None
        rank = matrix.abs().masked_fill(mask, math.inf) if with_reserved else matrix
        expected = torch.where(reference.keep_mask(rank.flatten(), k).view_as(matrix), matrix, 0)
        assert int(expected.count_nonzero()) == k
        ours = matrix.clone().to(DEVICE)
        rows.keep_largest_(ours, k, None if reserved is None else reserved.to(DEVICE), widest=0, block=256)
        assert bits(ours).equal(bits(expected))


def test_vector_is_selected_in_one_launch_in_place() -> None:
    vector = rows_of(2, 300, torch.float32)[1]
    ours = vector.clone().to(DEVICE)
    rows.keep_largest_(ours, 100)
    assert bits(ours).equal(bits(reference.keep_rows(vector, 100)))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton compiles on Linux")
def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """The interpreter accepts programs that the compiler rejects."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("compile_triton.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 68


def test_selection_on_a_cpu_does_not_import_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from thinwire.engine.topk.select import keep_rows\n"
        "print(keep_rows(torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64), 2).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[0.0, 3.0, 2.0]]"
