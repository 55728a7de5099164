"""Attention over feature-major activations as an operator: layouts, threads, and what PyTorch asks of it."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.engine.checks import CLOSE, drawn_heads
from tests.engine.inputs import SINK, case, head_major, last_positions, normal
from thinwire.engine.attention import operator as engine
from thinwire.engine.attention.operator import attend_by_feature, is_supported
from thinwire.model.attention import attend


def test_model_attends_alike_in_either_layout() -> None:
    """Feature-major keys take the kernel; the result is that of dense attention."""
    for sink in (None, SINK):
        for length in (2, 16, 127, 130):
            q, k, v = drawn_heads(length, 4)
            assert is_supported(k)
            one = head_major(q.detach()[:, :, :1].permute(1, 3, 0, 2))
            for query, last in ((q, None), (one, torch.tensor([length - 1, length // 3]))):
                y = attend(query, k, v, sink, last)
                assert y.permute(1, 3, 0, 2).is_contiguous()
                dense = attend(*(x.contiguous() for x in (query, k, v)), sink, last)
                with case(sink, length, last):
                    torch.testing.assert_close(y, dense, **CLOSE)


def test_keys_that_are_not_supported() -> None:
    _, k, _ = drawn_heads(5, 4)
    assert not is_supported(k.contiguous())
    assert not is_supported(k.double())
    assert not is_supported(k[:, :, :4])
    assert not is_supported(drawn_heads(1, 4, batch=1)[1])


def test_operator_keeps_the_contract_of_torch() -> None:
    q, k, v = (x.detach().permute(1, 3, 0, 2).requires_grad_() for x in drawn_heads(5, 4))
    queries = last_positions(2, 5, 5).contiguous()
    for sink in (torch.empty(0), SINK.clone().requires_grad_()):
        torch.library.opcheck(engine.attend.op, (q, k, v, sink, queries, True))


def test_compiles_as_one_graph() -> None:
    leaves = *drawn_heads(9, 4), SINK.clone().requires_grad_()

    def work(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        return attend_by_feature(2 * q, k, v, sink, last_positions(2, 9, 9)).square().sum()

    torch._dynamo.reset()
    expected, ours = work(*leaves), torch.compile(work, backend="aot_eager", fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_tensors_without_data_keep_their_layout() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        q, k, v = (fakes.from_tensor(x.detach()) for x in drawn_heads(8, 4))
        y = attend(q, k, v, SINK)
        assert is_supported(y)
        assert y.shape == q.shape


def test_any_number_of_threads_shares_the_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, queries = drawn_heads(20, 4), last_positions(2, 20, 20)
    q, k, v = leaves
    expected = attend_by_feature(q, k, v, None, queries)
    towards = normal(*expected.shape, seed=7)
    gradients = torch.autograd.grad(expected, leaves, towards)
    monkeypatch.setattr(engine, "use_threads", lambda: None)
    for threads in (1, 2, 3, 8, 64):
        monkeypatch.setattr(engine.torch, "get_num_threads", lambda n=threads: n)
        ours = attend_by_feature(q, k, v, None, queries)
        assert ours.equal(expected)
        for one, other in zip(torch.autograd.grad(ours, leaves, towards), gradients, strict=True):
            assert one.equal(other)
