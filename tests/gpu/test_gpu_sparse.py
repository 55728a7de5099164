"""Sparse kernels on a CUDA device, `pytest -m gpu`: at full size, in whole models, without host synchronization."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model, tiny_prompts
from torch import Tensor

from thinwire.compiled.compile import BREAK_EVEN, compile_sparse
from thinwire.compiled.modules import Sparse
from thinwire.engine.layout import activations, is_feature_major
from thinwire.engine.spmm import operators
from thinwire.engine.spmm.operators import gather_rows, multiply
from thinwire.engine.spmm.pattern import SparsePattern
from thinwire.engine.topk import reference, select
from thinwire.model import Transformer
from thinwire.model.attention import attend

pytest.importorskip("triton", reason="Triton is not installed: no GPU kernels to test")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]
DTYPES = (torch.float32, torch.bfloat16)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


def sparse(rows: int, columns: int, density: float) -> tuple[Tensor, SparsePattern, Tensor]:
    """A matrix, the pattern of its nonzeros, and their values. The first row is full, the second empty."""
    matrix = normal(rows, columns) * (normal(rows, columns, seed=1).sigmoid() < density)
    matrix[0], matrix[1] = normal(columns, seed=2), 0
    where = matrix.nonzero(as_tuple=True)
    return matrix, SparsePattern.of(*where, (rows, columns)), matrix[where]


@pytest.mark.parametrize("n", [1, 77, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_product_and_gradients_at_full_size(dtype: torch.dtype, n: int) -> None:
    matrix, pattern, values = sparse(8192, 2048, 1 / 64)
    x = activations(normal(2048, n, dtype=dtype, seed=3), (n,)).requires_grad_()
    bias, towards = normal(8192, seed=4), normal(n, 8192, seed=5)
    leaves = x, values.requires_grad_(), bias.requires_grad_()
    precise = [leaf.detach().double().requires_grad_() for leaf in (x, matrix, bias)]
    y, twin = multiply(leaves[0], pattern, *leaves[1:]), F.linear(*precise)
    assert y.dtype == dtype
    rough = {"rtol": 2**-7, "atol": 0.02}
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else rough
    torch.testing.assert_close(y.double(), twin, **close)
    ours = torch.autograd.grad(y, leaves, towards.to(dtype))
    expected = torch.autograd.grad(twin, precise, towards.to(dtype).double())
    torch.testing.assert_close(ours[0].double(), expected[0], **close)
    where = pattern.row_of_each(), pattern.indices.long()
    torch.testing.assert_close(ours[1].double(), expected[1][where], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(ours[2].double(), expected[2], rtol=1e-3, atol=1e-2)


def test_rows_by_index_at_full_size() -> None:
    matrix, pattern, values = sparse(2048, 2048, 1 / 128)
    tokens = (normal(16, 256).abs() * 99).long()  # some are many times as frequent as others
    leaves = values.requires_grad_(), matrix.double().requires_grad_()
    ours, twin = gather_rows(tokens, pattern, leaves[0]), F.embedding(tokens, leaves[1])
    assert ours.double().equal(twin)
    towards = normal(16, 256, 2048, seed=1)
    own = torch.autograd.grad(ours, leaves[0], towards)[0]
    expected = torch.autograd.grad(twin, leaves[1], towards.double())[0]
    where = pattern.row_of_each(), pattern.indices.long()
    torch.testing.assert_close(own.double(), expected[where], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "n", "k"), [(96, 5000, 24), (2048, 4096, 512), (8192, 300, 2048), (9000, 70, 9)])
def test_columns_are_rows_of_the_transpose(width: int, n: int, k: int, dtype: torch.dtype) -> None:
    x = (4 * normal(width, n)).round().to(dtype)
    kept = select.keep_columns(x, k)
    assert kept.equal(reference.keep_rows(x.T, k).T)
    gradient = normal(width, n, dtype=dtype, seed=1)
    assert select.pass_columns(kept, gradient, k).equal(reference.pass_rows(kept.T, gradient.T, k).T)


def test_products_do_not_synchronize_and_repeat() -> None:
    _, pattern, values = sparse(512, 2048, 1 / 64)
    x, bias, tokens = normal(4, 64, 2048).requires_grad_(), normal(512), (normal(4, 64).abs() * 99).long()
    values.requires_grad_()

    def work() -> tuple[Tensor, ...]:
        y, rows = multiply(x, pattern, values, bias), gather_rows(tokens, pattern, values)
        return torch.autograd.grad(y.square().sum() + rows.square().sum(), (x, values))

    first = work()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(first, again, strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_keep_the_contract_of_torch(dtype: torch.dtype) -> None:
    _, pattern, values = sparse(24, 40, 0.2)
    x = normal(2, 3, 40, dtype=dtype).requires_grad_()
    values, bias = values.requires_grad_(), normal(24).requires_grad_()
    torch.library.opcheck(operators.sparse_linear.op, (x, values, bias, pattern.tensors))
    tokens = torch.tensor([[0, 3], [3, 23]], device="cuda")
    torch.library.opcheck(operators.sparse_rows.op, (tokens, values, pattern.indices, pattern.indptr, 40))


@pytest.mark.parametrize("with_sink", [False, True])
def test_attention_takes_feature_major_heads(with_sink: bool) -> None:
    q, k, v = (normal(3, 16, 2, 70, seed=seed).permute(2, 0, 3, 1) for seed in range(3))
    sink = normal(3) if with_sink else None
    expected = attend(*(x.contiguous() for x in (q, k, v)), sink)
    torch.testing.assert_close(attend(q, k, v, sink), expected, rtol=1e-4, atol=1e-5)
    last = torch.tensor([69, 5], device="cuda")
    at_last = attend(q[:, :, :1], k, v, sink, last)
    torch.testing.assert_close(at_last, attend(q[:, :, :1].contiguous(), k.contiguous(), v, sink, last))


def run(model: Transformer, device: str) -> tuple[Tensor, Tensor]:
    """Logits, and a gradient with respect to the residual stream, on the CPU."""
    tokens = tiny_prompts(model).to(device)
    resid = model.embed(tokens).detach().requires_grad_()
    logits = model.unembed(model.run(resid), tokens)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(device)
    return logits.detach().cpu(), torch.autograd.grad((logits * weights).sum(), resid)[0].cpu()


@pytest.mark.parametrize("changes", [{}, {"sink": True, "positions": "concatenated", "active_residual": True}])
def test_compiled_model_is_the_one_on_the_cpu(changes: dict[str, object]) -> None:
    dense = tiny_model(density=1 / 16, **changes)
    expected = run(dense, "cpu")
    on_gpu = compile_sparse(tiny_model(density=1 / 16, **changes).cuda(), below=0.5)
    moved = compile_sparse(dense, below=0.5).cuda()
    for model in (on_gpu, moved):
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
        assert any(isinstance(module, Sparse) for module in model.modules())
        for ours, theirs in zip(run(model, "cuda"), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert is_feature_major(on_gpu.embed(tiny_prompts(dense).cuda()))
    for ours, theirs in zip(run(on_gpu.cpu(), "cpu"), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_break_even_density_depends_on_the_device() -> None:
    dense = tiny_model(density=(BREAK_EVEN["cpu"] + BREAK_EVEN["cuda"]) / 2)
    assert compile_sparse(dense) is not dense
    dense = dense.cuda()
    assert compile_sparse(dense) is dense
