"""Attention over feature-major activations as an operator: layouts, threads, and what PyTorch asks of it."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.engine.test_attention_kernel import CLOSE, SINK, by_feature, check, heads, normal, standing
from thinwire.engine.attention import operator as engine
from thinwire.engine.attention.operator import attend_by_feature, lies_by_feature
from thinwire.model.attention import attend


@pytest.mark.parametrize("sink", [None, SINK])
@pytest.mark.parametrize("length", [2, 16, 127, 130])
def test_model_attends_alike_in_either_layout(length: int, sink: Tensor | None) -> None:
    """What lies by feature takes the kernel and stays so; it is the dense attention."""
    q, k, v = heads(length, 4)
    assert lies_by_feature(k)
    sink = None if sink is None else sink.clone().requires_grad_()
    y = attend(q, k, v, sink)
    assert y.permute(1, 3, 0, 2).is_contiguous()
    check(y, q, k, v, sink)
    torch.testing.assert_close(y, attend(*(x.contiguous() for x in (q, k, v)), sink), **CLOSE)
    last = torch.tensor([length - 1, length // 3])
    at_last = by_feature(q.detach()[:, :, :1].permute(1, 3, 0, 2))
    check(attend(at_last, k, v, sink, last), at_last, k, v, sink, last)


def test_keys_that_lie_otherwise_go_elsewhere() -> None:
    _, k, _ = heads(5, 4)
    assert not lies_by_feature(k.contiguous())
    assert not lies_by_feature(k.double())
    assert not lies_by_feature(k[:, :, :4])
    assert not lies_by_feature(heads(1, 4, batch=1)[1])


def test_operator_keeps_the_contract_of_torch() -> None:
    q, k, v = (x.detach().permute(1, 3, 0, 2).requires_grad_() for x in heads(5, 4))
    queries = standing(2, 5, 5).contiguous()
    for sink in (torch.empty(0), SINK.clone().requires_grad_()):
        torch.library.opcheck(engine.attend.op, (q, k, v, sink, queries, True))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(backend: str) -> None:
    leaves = *heads(9, 4), SINK.clone().requires_grad_()
    queries = standing(2, 9, 9)

    def work(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        return attend_by_feature(2 * q, k, v, sink, queries).square().sum()

    torch._dynamo.reset()
    expected, ours = work(*leaves), torch.compile(work, backend=backend, fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_tensors_without_numbers_keep_their_layout() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        q, k, v = (fakes.from_tensor(x.detach()) for x in heads(8, 4))
        y = attend(q, k, v, SINK)
        assert lies_by_feature(y)
        assert y.shape == q.shape


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_however_many_threads_share_the_heads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = heads(20, 4)
    expected = attend_by_feature(q, k, v, None, standing(2, 20, 20))
    towards = normal(*expected.shape, seed=7)
    gradients = torch.autograd.grad(expected, [q, k, v], towards)
    monkeypatch.setattr(engine.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(engine, "use_threads", lambda: None)
    ours = attend_by_feature(q, k, v, None, standing(2, 20, 20))
    assert ours.equal(expected)
    for one, other in zip(torch.autograd.grad(ours, [q, k, v], towards), gradients, strict=True):
        assert one.equal(other)
