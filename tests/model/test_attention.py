"""Attention weights, the sink, and the fused form of both."""

import pytest
import torch
from torch import Tensor

from thinwire.model.attention import _fused_with_sink, attend, attention_pattern


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
