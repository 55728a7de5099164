"""Results that are written past the caches: the same as those of few tokens, which are not."""

import pytest
import torch

from tests.engine.test_attention_kernel import by_feature, standing
from tests.engine.test_sites import drawn, given, normal, some, sparse
from thinwire.engine.attention.operator import attend_by_feature
from thinwire.engine.simd.tiles import STREAMED_SIZE
from thinwire.engine.sites.norm_operator import norm_and_keep
from thinwire.engine.sites.operator import map_and_keep
from thinwire.engine.sites.pointwise import Ablation

FEW = 48
"""Tokens of a sequence that run by themselves."""


@pytest.mark.parametrize(("trials", "length"), [(1, 1056), (3, 352), (2, 528), (4, 264), (66, 16)])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_sites(trials: int, length: int, share: float) -> None:
    """Trials that end with a tile or in it, at lines of the cache or between; forward and back, with constant rows."""
    rows = columns = 1024
    held, matrix = drawn(trials, rows, share), some(normal(rows, columns), 0.002)
    matrix[::7] = 0
    (pattern, values), x = sparse(matrix), given((trials, length), columns)
    bias, towards = some(normal(rows, seed=3), 0.4), normal(trials, length, rows, seed=4)
    assert rows * trials * length >= STREAMED_SIZE

    def run(trial: int | None, n: int) -> tuple[torch.Tensor, ...]:
        chosen = slice(None) if trial is None else slice(trial, trial + 1)
        mask = held.mask[chosen].detach().requires_grad_()
        part = x[chosen, :n].detach().requires_grad_()
        y = map_and_keep(part, pattern, values.detach(), bias, "gelu", 256, Ablation(held.mean, mask))
        return y, *torch.autograd.grad(y, (part, mask), towards[chosen, :n])

    y, d_x, d_mask = run(None, length)
    for trial in (0, trials - 1):
        few, d_few, d_own = run(trial, min(FEW, length))
        assert few.equal(y[trial : trial + 1, : few.shape[1]])
        torch.testing.assert_close(d_x[trial : trial + 1, : few.shape[1]], d_few, rtol=1e-5, atol=1e-6)
        if length <= FEW:
            torch.testing.assert_close(d_mask[trial : trial + 1], d_own, rtol=1e-4, atol=1e-4)


def test_reads() -> None:
    x, gain = given((2, 528), 1024).detach(), normal(1024, seed=5)
    y = norm_and_keep(x, gain, 1e-5, 256)
    assert y.numel() >= STREAMED_SIZE
    few = norm_and_keep(x[1:, -FEW:], gain, 1e-5, 256)
    torch.testing.assert_close(y[1:, -FEW:], few, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d_head", [16, 20])
@pytest.mark.parametrize("length", [272, 264])
def test_attention(length: int, d_head: int) -> None:
    """Rows of whole lines of the cache, and others; forward and back, few sequences at a time."""
    heads, batch = 4, 64
    shape = heads, d_head, batch, length
    assert heads * d_head * batch * length >= STREAMED_SIZE
    q, k, v = (some(normal(*shape, seed=i), 0.3, seed=i) for i in range(3))
    v[1], towards = 0, normal(batch, heads, length, d_head, seed=7)
    towards[:, 2] = 0  # a head without a gradient, and one whose keys are all the same
    k[3] = 1

    def run(first: int, end: int) -> tuple[torch.Tensor, ...]:
        leaves = [by_feature(x[:, :, first:end]) for x in (q, k, v)]
        y = attend_by_feature(*leaves, None, standing(end - first, length, length))
        return y, *torch.autograd.grad(y, leaves, towards[first:end])

    whole = run(0, batch)
    for first in (0, batch - 4):
        for found, part in zip(whole, run(first, first + 4), strict=True):
            assert found[first : first + 4].equal(part)
