"""Sparse products and columns on GPU kernels against dense twins: in Triton's interpreter, or on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model, tiny_prompts
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton", reason="Triton is not installed: no GPU kernels to test")

from thinwire.compiled.compile import compile_sparse  # noqa: E402
from thinwire.compiled.modules import Sparse  # noqa: E402
from thinwire.engine.gpu import products as triton_products  # noqa: E402
from thinwire.engine.gpu import rows as triton_rows  # noqa: E402
from thinwire.engine.layout import activations, is_feature_major  # noqa: E402
from thinwire.engine.sites import operator as sites  # noqa: E402
from thinwire.engine.sites import pointwise  # noqa: E402
from thinwire.engine.spmm import operators as products  # noqa: E402
from thinwire.engine.spmm.operators import SparsePattern, has_kernels  # noqa: E402
from thinwire.engine.topk import reference, select  # noqa: E402
from thinwire.errors import UserError  # noqa: E402
from thinwire.model import attention  # noqa: E402
from thinwire.model.norms import RMSNorm  # noqa: E402
from thinwire.sites import Site  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
DEVICE = "cuda" if GPU else "cpu"
DTYPES = (torch.float32, torch.bfloat16)
MATRICES = [(1, 1, 1.0), (5, 7, 0.5), (40, 33, 0.1), (33, 65, 0.02), (9, 4, 1.0), (6, 11, 0.0)]
"""Rows, columns, density; the sparsest have empty rows and columns, the last nothing at all."""
COLUMNS = [(1, 2, 1), (5, 70, 2), (37, 33, 9), (96, 50, 24), (257, 9, 256), (1025, 5, 300)]
"""Width, tokens, k."""


@pytest.fixture(autouse=True)
def _on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no GPU, the operators take tensors on the CPU for tensors on one."""
    if not GPU:
        monkeypatch.setattr(products, "_gpu_kernels", lambda x: triton_products)
        monkeypatch.setattr(pointwise, "takes", lambda x: False)
        monkeypatch.setattr(sites, "pays", lambda x: False)
        monkeypatch.setattr(attention, "lies_by_feature", lambda k: False)


@pytest.fixture
def _selecting_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for AbsTopK, which is slow enough there to be left out of whole models."""
    if not GPU:
        monkeypatch.setattr(select, "_gpu_kernels", lambda x: triton_rows if x.dtype in DTYPES else None)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def sparse(rows: int, columns: int, density: float) -> tuple[Tensor, SparsePattern, Tensor]:
    """A matrix, where its nonzeros are, and their values, which are to have gradients."""
    drawn = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    matrix = normal(rows, columns) * (drawn < density)
    places = matrix.nonzero(as_tuple=True)
    return matrix, SparsePattern.of(*places, (rows, columns)), matrix[places].requires_grad_()


def gradients(y: Tensor, towards: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((y * towards.to(y.dtype)).sum(), inputs)


@pytest.mark.parametrize("lead", [(3, 5), (1, 1), (530,)])
@pytest.mark.parametrize(("rows", "columns", "density"), MATRICES)
def test_product_and_its_gradients(rows: int, columns: int, density: float, lead: tuple[int, ...]) -> None:
    matrix, pattern, values = sparse(rows, columns, density)
    x, bias = normal(*lead, columns, seed=2).requires_grad_(), normal(rows, seed=3).requires_grad_()
    towards = normal(*lead, rows, seed=4)
    y = pattern.multiply(x, values, bias)
    assert y.movedim(-1, 0).is_contiguous()
    matrix.requires_grad_()
    twin = F.linear(x, matrix, bias)
    torch.testing.assert_close(y, twin, rtol=1e-4, atol=1e-5)
    ours, expected = gradients(y, towards, x, values, bias), gradients(twin, towards, x, matrix, bias)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-4, atol=1e-5)
    places = pattern.row_of_each(), pattern.indices.long()
    torch.testing.assert_close(ours[1], expected[1][places], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[2], expected[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("of_x", "of_values"), [(a, b) for a in DTYPES for b in DTYPES])
def test_product_in_bfloat16(of_x: torch.dtype, of_values: torch.dtype) -> None:
    """Numbers are read as they are and added up in float32: only what is written is rounded."""
    matrix, pattern, values = sparse(30, 50, 0.2)
    matrix, values = matrix.to(of_values).double(), values.detach().to(of_values)
    x, grad, bias = normal(50, 19, dtype=of_x, seed=2), normal(30, 19, dtype=of_x, seed=3), normal(30, seed=4)
    places = pattern.row_of_each(), pattern.indices.long()
    y = triton_products.multiply(x, values, bias, pattern.indices, pattern.indptr)
    assert y.dtype == of_x
    close = {"rtol": 1e-4, "atol": 1e-4} if of_x == torch.float32 else {"rtol": 2**-7, "atol": 1e-4}  # a bit is cut off
    torch.testing.assert_close(y.double(), matrix @ x.double() + bias[:, None], **close)
    ours = triton_products.weight_gradient(pattern.indices, pattern.indptr, x, grad)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), (grad.double() @ x.double().T)[places], rtol=1e-4, atol=1e-4)


def test_infinite_activations_reach_only_who_reads_them() -> None:
    """Nonzeros that a row does not have, to fill up a group, read nothing."""
    matrix, _, _ = sparse(40, 33, 0.1)
    matrix[:, 0] = 0
    places = matrix.nonzero(as_tuple=True)
    pattern, values = SparsePattern.of(*places, (40, 33)), matrix[places]
    x = normal(33, 5)
    x[0] = torch.inf
    y = triton_products.multiply(x, values, torch.zeros(40, device=DEVICE), pattern.indices, pattern.indptr)
    assert y.isfinite().all()


@pytest.mark.parametrize("lead", [(2, 70), (1, 1), (0, 4)])
@pytest.mark.parametrize(("rows", "columns", "density"), [*MATRICES, (3, 90, 0.9)])
def test_rows_by_index_and_their_gradient(rows: int, columns: int, density: float, lead: tuple[int, ...]) -> None:
    matrix, pattern, values = sparse(rows, columns, density)
    tokens = torch.randint(rows, lead, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    towards = normal(*lead, columns, seed=6)
    matrix.requires_grad_()
    ours, twin = pattern.gather(tokens, values), F.embedding(tokens, matrix)
    assert ours.movedim(-1, 0).is_contiguous()
    assert ours.equal(twin)
    (own,), (expected,) = gradients(ours, towards, values), gradients(twin, towards, matrix)
    torch.testing.assert_close(own, expected[pattern.row_of_each(), pattern.indices.long()], rtol=1e-4, atol=1e-4)


def columns_of(width: int, n: int, dtype: torch.dtype) -> Tensor:
    """Columns that are normal, full of ties, zeros, or mostly zeros, in turn."""
    x = normal(width, n, seed=width)
    x[:, 1::4] = (2 * x[:, 1::4]).round()
    x[:, 2::4] = 0.0
    x[:, 3::4] *= x[:, 3::4] > 1.5
    return x.to(dtype)


@pytest.mark.usefixtures("_selecting_on_triton")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "n", "k"), COLUMNS)
def test_columns_are_rows_of_the_transpose(width: int, n: int, k: int, dtype: torch.dtype) -> None:
    x = columns_of(width, n, dtype)
    kept = select.keep_columns(x, k)
    assert kept.equal(torch.where(reference.keep_mask(x.T, k).T, x, 0))
    gradient = columns_of(width, n, dtype).flip(1)
    twin = select.pass_columns(kept.double(), gradient.double(), k)  # float64 has no kernel
    assert select.pass_columns(kept, gradient, k).double().equal(twin)


@pytest.mark.usefixtures("_selecting_on_triton")
def test_columns_too_long_for_registers_are_turned_into_rows() -> None:
    for dtype, widest in ((torch.float32, 8192), (torch.bfloat16, 4096)):
        assert triton_rows.holds_columns(torch.empty(widest, 1, dtype=dtype))
        assert not triton_rows.holds_columns(torch.empty(widest + 1, 1, dtype=dtype))
    x = columns_of(4097, 3, torch.bfloat16)
    kept = select.keep_columns(x, 99)
    assert kept.equal(torch.where(reference.keep_mask(x.T, 99).T, x, 0))
    assert select.pass_columns(kept, x.flip(1), 99).equal(select.pass_rows(kept.T, x.flip(1).T, 99).T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_feature_major_activations(dtype: torch.dtype) -> None:
    norm = RMSNorm(24, eps=1e-5, device=DEVICE)
    with torch.no_grad():
        norm.weight.copy_(normal(24))
    rows = normal(24, 15, dtype=dtype, seed=1)
    rows[:, 3] = 0
    x = activations(rows, (3, 5)).requires_grad_()
    y, twin = norm(x), F.rms_norm(x.double(), (24,), norm.weight.double(), 1e-5)
    assert is_feature_major(y)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}
    torch.testing.assert_close(y.double(), twin, **close)
    towards = activations(normal(24, 15, seed=2), (3, 5))
    (ours,), (expected,) = gradients(y, towards, x), gradients(twin, towards, x)
    assert is_feature_major(ours)
    torch.testing.assert_close(ours, expected, rtol=10 * close["rtol"], atol=100 * close["atol"])


@pytest.mark.parametrize("changes", [{"positions": "concatenated"}, {"sink": True, "active_residual": True}])
def test_model_on_these_kernels_is_the_dense_one(changes: dict[str, object]) -> None:
    dense = tiny_model(density=1 / 8, n_layers=1, **changes).to(DEVICE)
    tokens = tiny_prompts(dense, rows=2, length=5).to(DEVICE)
    compiled = compile_sparse(dense, below=0.5)
    assert sum(isinstance(module, Sparse) for module in compiled.modules()) == 8
    assert {tensor.device.type for tensor in compiled.state_dict().values()} == {DEVICE}
    torch.testing.assert_close(compiled(tokens), dense(tokens), rtol=1e-4, atol=1e-4)
    resid = normal(2, 5, dense.config.d_model).requires_grad_()
    towards = normal(2, 5, dense.config.vocab_size, seed=1)
    ours, expected = (gradients(model.unembed(model.run(resid), tokens), towards, resid) for model in (compiled, dense))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_activations_stay_feature_major_from_end_to_end() -> None:
    compiled = compile_sparse(tiny_model(density=1 / 8, n_layers=1).to(DEVICE), below=0.5)
    lies: dict[str, bool] = {}

    def tap(site: Site, x: Tensor) -> Tensor:
        lies[str(site)] = is_feature_major(x)
        return x

    compiled(tiny_prompts(compiled, rows=2, length=5).to(DEVICE), tap=tap)
    assert len(lies) == 8
    assert all(lies.values())


def test_devices_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_kernels(torch.device("cpu"))
    assert has_kernels(torch.device("cuda"))
    monkeypatch.undo()
    monkeypatch.setattr(products, "triton_module", lambda name: None)
    assert not has_kernels(torch.device("cuda"))
    on_meta = tiny_model(density=1 / 64).to("meta")
    assert compile_sparse(on_meta) is on_meta
    pattern = SparsePattern.of(torch.tensor([0]), torch.tensor([1]), (2, 2))
    with pytest.raises(UserError, match="No sparse kernels run on meta; install Triton"):
        products._gpu_kernels(pattern.indices.to("meta"))
