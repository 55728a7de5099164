"""Tests that need a CUDA device, `pytest -m gpu`: compiled kernels, no host synchronization, training as on a CPU."""

import os
import signal
from pathlib import Path

import pytest
import torch
from tiny import synthetic_batch, tiny_model, tiny_prompts, tiny_run
from torch import Tensor

from thinwire.data import Tokens
from thinwire.engine.layout import INTEGERS
from thinwire.engine.topk import reference, select
from thinwire.model import AbsTopK, next_token_loss
from thinwire.model.abstopk import abstopk
from thinwire.model.attention import attend, attention_pattern
from thinwire.train import Monitoring, train
from thinwire.train.step import new_state, train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]
DTYPES = (torch.float32, torch.bfloat16)
WIDE = [(4096, 1024, 256), (100_000, 96, 24), (300, 8192, 2048), (9, 32_768, 5000), (5, 40_000, 9999), (3, 10**6, 77)]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, values: int = 0) -> Tensor:
    """Normal values on the device; with `values`, rounded to about 2 · values different ones."""
    x = torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")
    return ((x * values / 3).round() if values else x).to(dtype)


def same_bits(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x.view(INTEGERS[x.dtype]), y.view(INTEGERS[y.dtype]))


def test_cuda_tensors_go_to_triton() -> None:
    pytest.importorskip("triton")
    assert select._gpu_kernels(torch.empty(1, device="cuda")) is not None
    assert select._gpu_kernels(torch.empty(1, device="cuda", dtype=torch.float64)) is None


@pytest.mark.parametrize("values", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width", "k"), WIDE)
def test_rows_and_gradients_at_full_size(rows: int, width: int, k: int, dtype: torch.dtype, values: int) -> None:
    x = normal(rows, width, dtype=dtype, values=values)
    kept = select.keep_rows(x, k)
    assert same_bits(kept, reference.keep_rows(x, k))
    gradient = normal(rows, width, dtype=dtype, seed=1)
    assert same_bits(select.pass_rows(kept, gradient, k), reference.pass_rows(kept, gradient, k))


@pytest.mark.parametrize("values", [0, 5, 1])
@pytest.mark.parametrize(("shape", "k", "n_reserved"), [((8192, 2048), 262_144, 4096), ((2048, 2049), 1, 0)])
def test_whole_matrix_at_full_size(shape: tuple[int, int], k: int, n_reserved: int, values: int) -> None:
    matrix = normal(*shape, values=values)
    reserved = torch.zeros(matrix.numel(), dtype=torch.bool, device="cuda")
    reserved[torch.randperm(matrix.numel(), device="cuda")[:n_reserved]] = True
    for marks in (None, reserved.view(shape)):
        ours, rank = matrix.clone(), matrix if marks is None else matrix.abs().masked_fill(marks, torch.inf)
        select.keep_largest_(ours, k, marks)
        kept = reference.keep_mask(rank.flatten(), k).view(shape)
        assert same_bits(ours, torch.where(kept, matrix, 0))


def test_largest_matrix() -> None:
    """At the width of GPT-3. It is too large to sort, so the kept entries are counted."""
    matrix = normal(49_152, 12_288)
    before = matrix.abs()
    select.keep_largest_(matrix, 600_000)
    kept = matrix != 0
    assert int(kept.sum()) == 600_000
    assert before[kept].min() >= before.masked_fill_(kept, 0).max()


def test_selection_does_not_synchronize() -> None:
    rows, matrix = normal(64, 2048), normal(512, 2048)
    reserved = select.keep_rows(matrix, 4) != 0

    def work() -> None:
        select.pass_rows(select.keep_rows(rows, 512), rows, 512)
        select.keep_largest_(matrix, 9000, reserved)
        select.keep_largest_(rows[0], 100)

    work()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cuda_graph_captures_forward_backward_and_projection() -> None:
    rows, matrix = normal(64, 2048).requires_grad_(), normal(512, 2048)

    def work() -> tuple[Tensor, Tensor, Tensor]:
        kept = abstopk(rows, 512)
        (gradient,) = torch.autograd.grad(kept.square().sum(), rows)
        projected = matrix.clone()
        select.keep_largest_(projected, 9000)
        return kept, gradient, projected

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    with torch.no_grad():
        rows.copy_(normal(64, 2048, seed=7))
        matrix.copy_(normal(512, 2048, seed=8))
    graph.replay()
    for ours, expected in zip(captured, work(), strict=True):
        assert ours.equal(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_custom_op_keeps_the_contract_of_torch(dtype: torch.dtype) -> None:
    x = normal(2, 3, 64, dtype=dtype).requires_grad_()
    torch.library.opcheck(abstopk.op, (x, 16))


@pytest.mark.filterwarnings("ignore")  # the compiler's advice
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiles_as_one_graph(mode: str) -> None:
    module = AbsTopK(64, 256)

    def scaled(x: Tensor) -> Tensor:
        return (2 * module(x)).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(scaled, mode=mode, fullgraph=True)
    for seed in range(4):
        x = normal(32, 256, seed=seed).requires_grad_()
        (expected,) = torch.autograd.grad(scaled(x), x)
        (ours,) = torch.autograd.grad(compiled(x), x)
        assert ours.equal(expected)


@pytest.mark.filterwarnings("ignore")
def test_whole_model_compiles_as_one_graph() -> None:
    model = tiny_model(n_layers=1).cuda()
    tokens = tiny_prompts(model).cuda()
    torch._dynamo.reset()
    losses = [next_token_loss(run(tokens), tokens) for run in (model, torch.compile(model, fullgraph=True))]
    expected, ours = (torch.autograd.grad(loss, model.embedding.weight)[0] for loss in losses)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d_head", [4, 16, 64])
def test_fused_attention_with_a_sink_is_the_explicit_one(d_head: int, dtype: torch.dtype) -> None:
    q, k, v, weights = (normal(2, 3, 70, d_head, dtype=dtype, seed=seed) for seed in range(4))
    sink = torch.tensor([-1.0, 0.5, 4.0], device="cuda")
    inputs = [x.requires_grad_() for x in (q, k, v, sink)]
    precise = [x.detach().double().requires_grad_() for x in inputs]
    explicit = attention_pattern(precise[0], precise[1], precise[3]) @ precise[2]
    fused = attend(q, k, v, sink)
    close = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(fused.double(), explicit, **close)
    expected = torch.autograd.grad((explicit * weights.double()).sum(), precise)
    ours = torch.autograd.grad((fused * weights).sum(), inputs)
    for theirs, mine in zip(expected[:3], ours[:3], strict=True):
        torch.testing.assert_close(mine.double(), theirs, **close)
    torch.testing.assert_close(ours[3].double(), expected[3], rtol=0.05, atol=10 * close["atol"])


def test_30_steps_as_on_the_cpu() -> None:
    config = tiny_run(steps=30, floor=1, model=tiny_model(sink=True, positions="concatenated").config)
    losses = {}
    for device in ("cpu", "cuda"):
        state = new_state(config)
        state.to(torch.device(device))
        batches = [synthetic_batch(step, config).to(device) for step in range(config.steps)]
        losses[device] = [train_step(state, batch, config).loss for batch in batches]
    assert losses["cuda"][-1] < losses["cuda"][0] - 0.3
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_interrupted_run_resumes_bit_for_bit(precision: str, tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = tiny_run(precision=precision)
    train(config, tiny_tokens, tmp_path / "whole", device="cuda")

    def interrupt(done: int, total: int, status: str) -> None:
        if done == 13:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_tokens, tmp_path / "resumed", monitoring=Monitoring(interrupt), device="cuda")
    train(config, tiny_tokens, tmp_path / "resumed", device="cuda")
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name
