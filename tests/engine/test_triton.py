"""The GPU kernels against the plain twins, bit for bit: in Triton's interpreter, or on the GPU where there is one."""

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

from thinwire.engine.gpu import radix as triton_digits  # noqa: E402
from thinwire.engine.gpu import rows as triton_rows  # noqa: E402
from thinwire.engine.topk import reference, select  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
DEVICE = "cuda" if GPU else "cpu"
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = [(5, 1, 1), (33, 37, 1), (33, 37, 9), (17, 37, 36), (5, 37, 37), (17, 64, 16), (4, 257, 64), (2, 1025, 300)]
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-45, 1e-40, 1.17e-38, 3.3e38, -3.3e38, math.inf, -math.inf)


def rows_of(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Rows [rows, width] that are normal, full of ties, special values, zeros, or mostly zeros, in turn."""
    generator = torch.Generator().manual_seed(1000 * seed + rows + width)
    x = torch.randn(rows, width, generator=generator)
    x[1::5] = (2 * x[1::5]).round()
    x[2::5] = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), x[2::5].shape, generator=generator)]
    x[3::5] = 0.0
    x[4::5] *= torch.rand(x[4::5].shape, generator=generator) < 0.1
    return x.to(dtype)


def plain(x: Tensor, k: int) -> Tensor:
    return torch.where(reference.keep_mask(x, k), x, 0)


def bits(x: Tensor) -> Tensor:
    """What two tensors share only when they are the same to the last bit, signs of zeros included."""
    return x.cpu().view(select.INTEGERS[x.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "k"), SHAPES)
def test_rows_that_fit_in_registers(dtype: torch.dtype, rows: int, width: int, k: int) -> None:
    x = rows_of(rows, width, dtype)
    kept = triton_rows.keep_rows(x.to(DEVICE), k)
    assert kept.shape == x.shape
    assert bits(kept).equal(bits(plain(x, k)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "k"), [(5, 37, 9), (3, 200, 199), (2, 70, 1), (2, 70, 70)])
def test_rows_counted_digit_by_digit(dtype: torch.dtype, rows: int, width: int, k: int) -> None:
    x = rows_of(rows, width, dtype)
    kept = triton_rows.keep_rows(x.to(DEVICE), k, widest=0, block=64)
    assert bits(kept).equal(bits(plain(x, k)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_and_empty_rows(dtype: torch.dtype) -> None:
    x = rows_of(40, 6, dtype).T
    assert bits(triton_rows.keep_rows(x.to(DEVICE), 7)).equal(bits(plain(x, 7)))
    for widest in (0, 64):
        assert triton_rows.keep_rows(x[:0].to(DEVICE), 7, widest=widest).shape == (0, 40)
    assert triton_rows.pass_rows(x[:0].to(DEVICE), x[:0].to(DEVICE), 7).shape == (0, 40)


def test_largest_float_and_nan_do_not_derail_the_search() -> None:
    x = torch.tensor([[1.0, -math.nan, 2.0, math.inf, 3.4028235e38, math.nan, -3.0]])
    for widest in (0, 64):
        kept = triton_rows.keep_rows(x.to(DEVICE), 4, widest=widest, block=32).cpu()
        assert kept.isnan().tolist() == [[False, True, False, False, False, True, False]]
        assert kept.nan_to_num(7.0, posinf=9.0).tolist() == [[0.0, 7.0, 0.0, 9.0, x[0, 4].item(), 7.0, 0.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "k"), [(33, 37, 9), (7, 64, 2), (5, 130, 129), (5, 1025, 300)])
def test_gradient_passes_as_in_the_plain_twin(dtype: torch.dtype, rows: int, width: int, k: int) -> None:
    kept = plain(rows_of(rows, width, dtype), k)
    gradient = rows_of(rows, width, dtype, seed=1)[torch.randperm(rows)]
    ours = triton_rows.pass_rows(kept.to(DEVICE), gradient.to(DEVICE), k)
    twin = select.pass_rows(kept.double(), gradient.double(), k)  # float64 has no kernel
    assert ours.cpu().double().equal(twin)
    few = (kept != 0).sum(-1) < k
    assert few.any()
    assert bits(ours[few.to(DEVICE)]).equal(bits(gradient[few]))


def matrix_of(n_values: int, seed: int) -> tuple[Tensor, Tensor]:
    """A matrix [23, 41], of the magnitudes 1 … n_values if given, and a mask of 60 reserved entries."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(23, 41, generator=generator)
    if n_values:
        matrix = matrix.sign() * torch.randint(1, n_values + 1, matrix.shape, generator=generator)
    reserved = torch.zeros(23 * 41, dtype=torch.bool)
    reserved[torch.randperm(23 * 41, generator=generator)[:60]] = True
    return matrix, reserved.view(23, 41)


@pytest.mark.parametrize(
    ("k", "with_reserved", "n_values", "max_parts"),
    [
        (1, False, 0, 1024),
        (61, True, 6, 1024),
        (300, True, 0, 2),
        (300, True, 1, 2),
        (300, False, 1, 1024),
        (700, True, 1, 4),
        (942, False, 6, 4),
    ],
)
def test_matrix_keeps_what_the_plain_twin_keeps(
    k: int, with_reserved: bool, n_values: int, max_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 256 make four programs, or two that read two blocks each; ties run through all of them."""
    monkeypatch.setattr(triton_digits, "MAX_PARTS", max_parts)
    matrix, mask = matrix_of(n_values, seed=k)
    reserved = mask if with_reserved else None
    ours, twin = matrix.clone().to(DEVICE), matrix.double()  # float64 has no kernel
    triton_rows.keep_largest_(ours, k, None if reserved is None else reserved.to(DEVICE), widest=0, block=256)
    select.keep_largest_(twin, k, reserved)
    assert ours.cpu().double().equal(twin)
    if not n_values:
        assert int(ours.count_nonzero()) == k
    if reserved is not None:
        assert ours.cpu()[reserved].equal(matrix[reserved])


def test_matrix_with_a_transposed_mask_and_in_bfloat16() -> None:
    matrix, mask = matrix_of(6, seed=0)
    for dtype in DTYPES:
        ours, twin = matrix.to(dtype).to(DEVICE), matrix.to(dtype).double()
        reserved = mask.T.contiguous().T
        triton_rows.keep_largest_(ours, 200, reserved.to(DEVICE), block=512)
        select.keep_largest_(twin, 200, reserved)
        assert ours.cpu().double().equal(twin)


def test_vector_is_selected_in_one_launch_in_place() -> None:
    vector = rows_of(2, 300, torch.float32)[1]
    ours = vector.clone().to(DEVICE)
    triton_rows.keep_largest_(ours, 100)
    assert bits(ours).equal(bits(plain(vector, 100)))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton compiles on Linux")
def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """The interpreter lets through what the compiler refuses."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("compile_triton.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 44


def test_selection_on_a_cpu_asks_for_no_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from thinwire.engine.topk.select import keep_rows\n"
        "print(keep_rows(torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64), 2).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[0.0, 3.0, 2.0]]"
