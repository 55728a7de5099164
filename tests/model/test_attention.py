"""Attention weights, the sink, and the fused form of both."""

import pytest
import torch
from torch import Tensor

from thinwire.engine.layout import activations, features, is_feature_major
from thinwire.model.attention import _fused_with_sink, at_last, attend, attention_pattern


@pytest.mark.parametrize("sink", [None, torch.tensor([-2.0, 0.0, 3.0])])
def test_attention_pattern_is_causal_and_the_sink_has_the_rest(sink: Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 7, 4, generator=generator, dtype=torch.float64)
    pattern = attention_pattern(q, k, None if sink is None else sink.double())
    assert (pattern.triu(1) == 0).all()
    for position in range(7):
        scores = torch.einsum("bhc,bhkc->bhk", q[:, :, position], k[:, :, : position + 1]) / 2
        own = scores.exp().sum(-1)
        rest = 0 if sink is None else sink.double().exp()
        torch.testing.assert_close(pattern[:, :, position].sum(-1), own / (own + rest))
        torch.testing.assert_close(pattern[:, :, position, : position + 1], scores.exp() / (own + rest)[..., None])


@pytest.mark.parametrize("d_head", [4, 8, 16])
def test_fused_attention_with_sink_is_the_explicit_one(d_head: int) -> None:
    generator = torch.Generator().manual_seed(d_head)
    q, k, v = (torch.randn(2, 3, 6, d_head, generator=generator).requires_grad_() for _ in range(3))
    sink = torch.tensor([-1.0, 0.5, 4.0], requires_grad=True)
    explicit = attention_pattern(q, k, sink) @ v
    fused = _fused_with_sink(q, k, v, sink)
    torch.testing.assert_close(fused, explicit)
    assert attend(q, k, v, sink).equal(explicit)
    weights = torch.randn(explicit.shape, generator=generator)
    expected = torch.autograd.grad((explicit * weights).sum(), (q, k, v, sink))
    ours = torch.autograd.grad((fused * weights).sum(), (q, k, v, sink))
    for theirs, mine in zip(expected, ours, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_single_positions_lie_as_all_do() -> None:
    """And so do their gradients, whichever of the two layouts it is."""
    last = torch.tensor([4, 0, 2])
    by_token = torch.randn(3, 5, 8)
    by_feature = activations(features(by_token), (3, 5))
    found = []
    for x in (by_token, by_feature):
        leaf = x.requires_grad_()
        at = at_last(leaf, last)
        (gradient,) = torch.autograd.grad(at.square().sum(), leaf)
        assert is_feature_major(gradient) == is_feature_major(x)
        assert is_feature_major(at) == is_feature_major(x)
        found.append((at, gradient))
    for one, other in zip(*found, strict=True):
        assert one.equal(other)
    assert found[0][0][:, 0].equal(by_token[torch.arange(3), last])
