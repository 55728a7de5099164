"""Sparse products on GPU kernels against the plain twins: in Triton's interpreter, or on a GPU where there is one."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model, tiny_prompts
from torch import Tensor

GPU = torch.cuda.is_available()
pytest.importorskip("triton", reason="Triton is not installed: no GPU kernels to test")

from thinwire.compiled.compile import compile_sparse  # noqa: E402
from thinwire.compiled.modules import Sparse  # noqa: E402
from thinwire.engine.gpu import products  # noqa: E402
from thinwire.engine.layout import activations, is_feature_major  # noqa: E402
from thinwire.engine.sites import operator as sites  # noqa: E402
from thinwire.engine.sites import pointwise  # noqa: E402
from thinwire.engine.spmm import operators, reference  # noqa: E402
from thinwire.engine.spmm.operators import gather_rows, has_kernels, multiply  # noqa: E402
from thinwire.engine.spmm.pattern import SparsePattern  # noqa: E402
from thinwire.errors import UserError  # noqa: E402
from thinwire.model import attention  # noqa: E402
from thinwire.model.norms import RMSNorm  # noqa: E402
from thinwire.sites import Site  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
DEVICE = "cuda" if GPU else "cpu"
DTYPES = (torch.float32, torch.bfloat16)
MATRICES = [(1, 1, 1.0), (40, 33, 0.1), (33, 65, 0.02), (9, 4, 1.0), (3, 90, 0.9), (6, 11, 0.0)]
"""Rows, columns, density: (33, 65) has empty rows and columns, the last has no nonzeros."""


@pytest.fixture(autouse=True)
def _on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no GPU, the operators treat tensors on the CPU like tensors on a GPU."""
    if not GPU:
        monkeypatch.setattr(operators, "_gpu_kernels", lambda x: products)
        monkeypatch.setattr(pointwise, "is_supported", lambda x: False)
        monkeypatch.setattr(sites, "pays", lambda x: False)
        monkeypatch.setattr(attention, "is_supported", lambda k: False)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def sparse(n_rows: int, n_columns: int, density: float) -> tuple[SparsePattern, Tensor]:
    """A random pattern, and values that need a gradient."""
    drawn = torch.rand(n_rows, n_columns, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    pattern = SparsePattern.of(*(drawn < density).nonzero(as_tuple=True), (n_rows, n_columns))
    return pattern, normal(len(pattern.indices)).requires_grad_()


def gradients(y: Tensor, towards: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((y * towards.to(y.dtype)).sum(), inputs)


@pytest.mark.parametrize("lead", [(3, 5), (1, 1), (530,)])  # one block of tokens, one token, two blocks
def test_products_and_their_gradients(lead: tuple[int, ...]) -> None:
    for n_rows, n_columns, density in MATRICES:
        pattern, values = sparse(n_rows, n_columns, density)
        x, bias = normal(*lead, n_columns, seed=2).requires_grad_(), normal(n_rows, seed=3).requires_grad_()
        y, twin = multiply(x, pattern, values, bias), reference.multiply(x, pattern, values, bias)
        assert y.movedim(-1, 0).is_contiguous()
        torch.testing.assert_close(y, twin, rtol=1e-4, atol=1e-5)
        towards = normal(*lead, n_rows, seed=4)
        ours, expected = (gradients(result, towards, x, values, bias) for result in (y, twin))
        torch.testing.assert_close(ours[0], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours[1:], expected[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lead", [(2, 70), (1, 1), (0, 4)])  # many tokens in a row, one, none
def test_rows_by_index_and_their_gradients(lead: tuple[int, ...]) -> None:
    for n_rows, n_columns, density in MATRICES:
        pattern, values = sparse(n_rows, n_columns, density)
        tokens = torch.randint(n_rows, lead, generator=torch.Generator().manual_seed(5)).to(DEVICE)
        ours, twin = gather_rows(tokens, pattern, values), reference.gather_rows(tokens, pattern, values)
        assert ours.movedim(-1, 0).is_contiguous()
        assert ours.equal(twin)
        towards = normal(*lead, n_columns, seed=6)
        own, expected = (gradients(result, towards, values) for result in (ours, twin))
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("of_x", "of_values"), [(a, b) for a in DTYPES for b in DTYPES])
def test_product_in_bfloat16(of_x: torch.dtype, of_values: torch.dtype) -> None:
    """Inputs are read as they are and summed in float32. Only the result is rounded."""
    pattern, values = sparse(30, 50, 0.2)
    values = values.detach().to(of_values)
    x, grad, bias = normal(50, 19, dtype=of_x, seed=2), normal(30, 19, dtype=of_x, seed=3), normal(30, seed=4)
    precise = values.double().requires_grad_()
    twin = reference.multiply(x.double().T, pattern, precise, bias.double()).T
    y = products.multiply(x, values, bias, pattern.indices, pattern.indptr)
    assert y.dtype == of_x
    close = {"rtol": 1e-4, "atol": 1e-4} if of_x == torch.float32 else {"rtol": 2**-7, "atol": 1e-4}  # one bit less
    torch.testing.assert_close(y.double(), twin, **close)
    ours = products.weight_gradient(pattern.indices, pattern.indptr, x, grad)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), *gradients(twin, grad, precise), rtol=1e-4, atol=1e-4)


def test_infinite_activations_reach_only_the_rows_that_read_them() -> None:
    """The nonzeros that pad a group of UNROLL read nothing."""
    drawn = torch.rand(40, 33, generator=torch.Generator().manual_seed(1)).to(DEVICE) < 0.1
    drawn[:, 0] = False
    pattern = SparsePattern.of(*drawn.nonzero(as_tuple=True), (40, 33))
    assert int((pattern.indptr.diff() % products.UNROLL != 0).sum()) > 0
    x, values, bias = normal(33, 5), normal(len(pattern.indices)), normal(40)
    x[0] = torch.inf
    y = products.multiply(x, values, bias, pattern.indices, pattern.indptr)
    assert y.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_feature_major_activations(dtype: torch.dtype) -> None:
    norm = RMSNorm(24, eps=1e-5).to(DEVICE)
    with torch.no_grad():
        norm.weight.copy_(normal(24))
    features = normal(24, 15, dtype=dtype, seed=1)
    features[:, 3] = 0
    x = activations(features, (3, 5)).requires_grad_()
    y, twin = norm(x), F.rms_norm(x.double(), (24,), norm.weight.double(), 1e-5)
    assert is_feature_major(y)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}
    torch.testing.assert_close(y.double(), twin, **close)
    towards = activations(normal(24, 15, seed=2), (3, 5))
    (ours,), (expected,) = gradients(y, towards, x), gradients(twin, towards, x)
    assert is_feature_major(ours)
    torch.testing.assert_close(ours, expected, rtol=10 * close["rtol"], atol=100 * close["atol"])


def test_compiled_model_is_the_dense_one_and_stays_feature_major() -> None:
    changes = {"positions": "concatenated", "sink": True, "active_residual": True}
    dense = tiny_model(density=1 / 8, n_layers=1, **changes).to(DEVICE)
    tokens = tiny_prompts(dense, rows=2, length=5).to(DEVICE)
    compiled = compile_sparse(dense, below=0.5)
    assert sum(isinstance(module, Sparse) for module in compiled.modules()) == 8
    assert {tensor.device.type for tensor in compiled.state_dict().values()} == {DEVICE}
    layouts: dict[str, bool] = {}

    def tap(site: Site, x: Tensor) -> Tensor:
        layouts[str(site)] = is_feature_major(x)
        return x

    torch.testing.assert_close(compiled(tokens, tap=tap), dense(tokens), rtol=1e-4, atol=1e-4)
    assert len(layouts) == 8
    assert all(layouts.values())
    resid = normal(2, 5, dense.config.d_model).requires_grad_()
    towards = normal(2, 5, dense.config.vocab_size, seed=1)
    ours, expected = (gradients(model.unembed(model.run(resid), tokens), towards, resid) for model in (compiled, dense))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_devices_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_kernels(torch.device("cpu"))
    assert has_kernels(torch.device("cuda"))
    monkeypatch.undo()
    monkeypatch.setattr(operators, "triton_module", lambda name: None)
    assert not has_kernels(torch.device("cuda"))
    on_meta = tiny_model(density=1 / 64).to("meta")
    assert compile_sparse(on_meta) is on_meta
    pattern = SparsePattern.of(torch.tensor([0]), torch.tensor([1]), (2, 2))
    with pytest.raises(UserError, match="No sparse kernels run on meta; install Triton"):
        operators._gpu_kernels(pattern.indices.to("meta"))
