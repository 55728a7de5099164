"""Results that are written with streaming stores equal those of few tokens, which are not."""

import pytest
import torch

from tests.engine.inputs import case, draw_ablation, feature_major, head_major, last_positions, normal, sparse, thinned
from thinwire.engine.attention.operator import attend_by_feature
from thinwire.engine.simd.tiles import STREAMED_SIZE
from thinwire.engine.sites.norm_operator import norm_and_keep
from thinwire.engine.sites.operator import map_and_keep
from thinwire.engine.sites.pointwise import Ablation

FEW = 48
"""Tokens of a sequence that run by themselves."""


def test_sites() -> None:
    """Trials that end with a tile or in it, at lines of the cache or between; both passes, with constant rows."""
    rows = columns = 1024
    matrix = thinned(normal(rows, columns), 0.002)
    matrix[::7] = 0
    pattern, values = sparse(matrix)
    bias = thinned(normal(rows, seed=3), 0.4)
    for trials, length, share in [(1, 1056, 1.0), (3, 352, 0.5), (2, 528, 1.0), (4, 264, 0.5), (66, 16, 0.5)]:
        ablation, towards = draw_ablation(trials, rows, share), normal(trials, length, rows, seed=4)
        x = feature_major(thinned(normal(trials, length, columns, seed=2), 0.25))
        assert rows * trials * length >= STREAMED_SIZE

        def run(trial: int | None, n: int) -> tuple[torch.Tensor, ...]:
            chosen = slice(None) if trial is None else slice(trial, trial + 1)
            mask = ablation.mask[chosen].detach().requires_grad_()  # noqa: B023
            part = x[chosen, :n].detach().requires_grad_()  # noqa: B023
            own = Ablation(ablation.values, mask)  # noqa: B023
            y = map_and_keep(part, pattern, values.detach(), bias, "gelu", 256, own)
            return y, *torch.autograd.grad(y, (part, mask), towards[chosen, :n])  # noqa: B023

        y, d_x, d_mask = run(None, length)
        for trial in (0, trials - 1):
            few, d_few, d_own = run(trial, min(FEW, length))
            with case(trials, length, trial):
                assert few.equal(y[trial : trial + 1, : few.shape[1]])
                torch.testing.assert_close(d_x[trial : trial + 1, : few.shape[1]], d_few, rtol=1e-5, atol=1e-6)
                if length <= FEW:
                    torch.testing.assert_close(d_mask[trial : trial + 1], d_own, rtol=1e-4, atol=1e-4)


def test_norms() -> None:
    x, gain = feature_major(thinned(normal(2, 528, 1024, seed=2), 0.25)).detach(), normal(1024, seed=5)
    y = norm_and_keep(x, gain, 1e-5, 256)
    assert y.numel() >= STREAMED_SIZE
    few = norm_and_keep(x[1:, -FEW:], gain, 1e-5, 256)
    torch.testing.assert_close(y[1:, -FEW:], few, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("length", "d_head"), [(272, 16), (264, 20)])
def test_attention(length: int, d_head: int) -> None:
    """Rows of whole lines of the cache, and others; both passes, few sequences at a time."""
    heads, batch = 4, 64
    shape = heads, d_head, batch, length
    assert heads * d_head * batch * length >= STREAMED_SIZE
    q, k, v = (thinned(normal(*shape, seed=i), 0.3, seed=i) for i in range(3))
    v[1], towards = 0, normal(batch, heads, length, d_head, seed=7)
    towards[:, 2] = 0  # a head without a gradient, and one whose keys are all equal
    k[3] = 1

    def run(first: int, end: int) -> tuple[torch.Tensor, ...]:
        leaves = [head_major(x[:, :, first:end]) for x in (q, k, v)]
        y = attend_by_feature(*leaves, None, last_positions(end - first, length, length))
        return y, *torch.autograd.grad(y, leaves, towards[first:end])

    whole = run(0, batch)
    for first in (0, batch - 4):
        for found, part in zip(whole, run(first, first + 4), strict=True):
            assert found[first : first + 4].equal(part)
