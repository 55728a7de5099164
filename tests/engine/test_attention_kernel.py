"""Attention over feature-major activations: the kernel against the pattern."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import data, integers, sampled_from
from torch import Tensor

from thinwire.engine.attention.operator import attend_by_feature
from thinwire.model.attention import attention_pattern

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
HEADS = 3
SINK = torch.tensor([-2.0, 0.5, 3.0])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some(x: Tensor, share: float, seed: int) -> Tensor:
    """A share of the numbers, zeros in place of the others."""
    return x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share)


def by_feature(rows: Tensor) -> Tensor:
    """[head, d_head, batch, pos] as [batch, head, pos, d_head], a leaf that lies as it did."""
    return rows.contiguous().permute(2, 0, 3, 1).requires_grad_()


def heads(length: int, d_head: int, batch: int = 2, share: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse q, k and v; every fifth query has no channel at all, the last head of the last sequence no key."""
    q, k, v = (some(2 * normal(HEADS, d_head, batch, length, seed=i), share, 9 + i) for i in range(3))
    q[..., ::5] = 0
    k[-1, :, -1] = 0
    v[0, :, 0] = 0
    return by_feature(q), by_feature(k), by_feature(v)


def standing(batch: int, length: int, queries: int) -> Tensor:
    """Queries at the last positions [batch, n_queries]."""
    return torch.arange(length - queries, length).expand(batch, -1)


def check(
    ours: Tensor, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, last: Tensor | None = None, **close: float
) -> None:
    """Values and gradients of an output against the pattern in float64."""
    close = close or CLOSE
    leaves = [q, k, v] if sink is None else [q, k, v, sink]
    precise = [leaf.detach().double().requires_grad_() for leaf in leaves]
    twin = attention_pattern(precise[0], precise[1], None if sink is None else precise[3], last) @ precise[2]
    torch.testing.assert_close(ours.double(), twin, **close)
    towards = some(normal(*twin.shape, seed=7), 0.6, 8)
    towards[:, :, 1::4] = 0  # queries that nothing reads
    found = torch.autograd.grad(ours, leaves, towards)
    expected = torch.autograd.grad(twin, precise, towards.double())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, **close)


@pytest.mark.parametrize("sink", [None, SINK])
@pytest.mark.parametrize("d_head", [1, 4, 6, 16, 17, 33])
@pytest.mark.parametrize("length", [1, 3, 16, 130])
def test_kernel_is_the_pattern_times_values(length: int, d_head: int, sink: Tensor | None) -> None:
    q, k, v = heads(length, d_head)
    sink = None if sink is None else sink.clone().requires_grad_()
    queries = standing(2, length, length)
    y = attend_by_feature(q, k, v, sink, queries)
    assert y.permute(1, 3, 0, 2).is_contiguous()
    check(y, q, k, v, sink)
    with torch.no_grad():  # where heads that move nothing are left out
        torch.testing.assert_close(attend_by_feature(q, k, v, sink, queries), y.detach(), **CLOSE)


@pytest.mark.parametrize("sink", [None, SINK])
@pytest.mark.parametrize("queries", [1, 2, 7])
def test_queries_at_the_end_of_earlier_keys(queries: int, sink: Tensor | None) -> None:
    """As with a cache: new positions look back at all that have run."""
    _, k, v = heads(21, 4)
    q, _, _ = heads(queries, 4)
    sink = None if sink is None else sink.clone().requires_grad_()
    check(attend_by_feature(q, k, v, sink, standing(2, 21, queries)), q, k, v, sink)


@pytest.mark.parametrize("sink", [None, SINK])
@pytest.mark.parametrize("length", [1, 16, 130])
def test_one_query_a_sequence(length: int, sink: Tensor | None) -> None:
    _, k, v = heads(length, 6, batch=4)
    last = torch.tensor([0, length - 1, length // 2, length // 3])
    q = by_feature(some(normal(HEADS, 6, 4, 1, seed=5), 0.5, 6))
    sink = None if sink is None else sink.clone().requires_grad_()
    check(attend_by_feature(q, k, v, sink, last[:, None]), q, k, v, sink, last)


def test_nan_in_a_query_goes_on_to_its_output_alone() -> None:
    q, k, v = (x.detach() for x in heads(40, 4))
    q[1, 2, 7, 0] = torch.nan
    lost = attend_by_feature(q, k, v, None, standing(2, 40, 40)).isnan()
    assert lost[1, 2, 7].all()
    assert lost.sum() == 4


@settings(max_examples=120, deadline=None)
@given(data())
def test_any_heads_and_queries(draw) -> None:
    """Queries in any order, some at one place; channels that are zero, or the same everywhere; lengths about a loop."""

    def pick(*choices: float) -> Any:
        return draw.draw(sampled_from(choices))

    n_heads, d_head, batch = pick(1, 3), pick(1, 2, 3, 8, 9, 20), pick(1, 2)
    length, n_queries = pick(1, 2, 15, 16, 17, 33, 65), pick(1, 3, 8, 17, 33, 64, 65, 100)
    generator = torch.Generator().manual_seed(draw.draw(integers(0, 2**32)))
    shapes = (n_queries, length, length)
    leaves = []
    for n in shapes:
        x = 2 * torch.randn(n_heads, d_head, batch, n, generator=generator)
        x *= torch.rand(x.shape, generator=generator) < pick(0.2, 1.0)
        if pick(True, False):
            x[0] = x[0, :, :, :1].clone()
        if pick(True, False):
            x[-1, : pick(1, d_head)] = 0
        leaves.append(by_feature(x))
    sink = torch.randn(n_heads, generator=generator).requires_grad_() if pick(True, False) else None
    queries = torch.randint(length, (batch, n_queries), generator=generator)
    leaves += [] if sink is None else [sink]
    towards = some(normal(batch, n_heads, n_queries, d_head, seed=7), pick(0.3, 1.0), 8)
    precise = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = attend_by_feature(*leaves[:3], sink, queries)
    twin = torch.cat(
        [
            attention_pattern(
                precise[0][:, :, t : t + 1], precise[1], None if sink is None else precise[3], queries[:, t]
            )
            for t in range(n_queries)
        ],
        2,
    )
    twin = twin @ precise[2]
    torch.testing.assert_close(ours.double(), twin, **CLOSE)
    found = torch.autograd.grad(ours, leaves, towards)
    for mine, theirs in zip(found, torch.autograd.grad(twin, precise, towards.double()), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=3e-4)  # sums over up to 100 queries


def test_queries_in_any_order() -> None:
    """Those without a channel take a running mean, which must start again where positions go back."""
    _, k, v = heads(30, 4)
    q = by_feature(torch.zeros(HEADS, 4, 2, 6))
    queries = torch.tensor([[3, 10, 29, 2, 2, 11], [29, 0, 5, 4, 28, 1]])
    y = attend_by_feature(q, k, v, None, queries)
    for b in range(2):
        for t in range(6):
            mean = v[b, :, : queries[b, t] + 1].mean(1)
            torch.testing.assert_close(y[b, :, t], mean, **CLOSE)
    q = by_feature(some(normal(HEADS, 4, 2, 6, seed=3), 0.3, 4))
    y = attend_by_feature(q, k, v, SINK, queries)
    for t in range(6):
        one = attention_pattern(q[:, :, t : t + 1], k, SINK, queries[:, t]) @ v
        torch.testing.assert_close(y[:, :, t : t + 1], one, **CLOSE)


@pytest.mark.parametrize("sink", [None, SINK])
@pytest.mark.parametrize("length", [1, 5, 20, 130])
@pytest.mark.parametrize("n_alike", [1, 3])
def test_heads_whose_keys_are_all_the_same(n_alike: int, length: int, sink: Tensor | None) -> None:
    """What masks hold at a mean: a query weighs all positions alike, and only a sink makes a difference."""
    q, k, v = (normal(HEADS, 6, 2, length, seed=i) for i in range(3))
    k[:n_alike] = k[:n_alike, :, :, :1].clone()
    v[0] = v[0, :, :, :1].clone()  # nothing moves, and in the next head four channels of six do
    v[1, 2:4] = v[1, 2:4, :, :1].clone()
    q[1, 3:] = 0
    leaves = [by_feature(x) for x in (q, k, v)]
    sink = None if sink is None else sink.clone().requires_grad_()
    check(attend_by_feature(*leaves, sink, standing(2, length, length)), *leaves, sink)
    last = torch.tensor([length - 1, length // 2])
    asked = [by_feature(q[..., :1].clone()), *leaves[1:]]
    check(attend_by_feature(*asked, sink, last[:, None]), *asked, sink, last)


@pytest.mark.parametrize("sink", [None, SINK, torch.tensor([-90.0, 0.0, 120.0])])
@pytest.mark.parametrize("places", [[70], [5, 140], [63, 64, 65], [199]])
def test_scores_that_rise_from_tile_to_tile(places: list[int], sink: Tensor | None) -> None:
    """A position may outweigh all before it, so far that exponentials of what they were compared with overflow."""
    q, k, v = (normal(HEADS, 4, 2, 200, seed=i) for i in range(3))
    q[:, 0] = 2 + q[:, 0].abs()
    for n, place in enumerate(places):
        k[:, 0, :, place] = 150 * (n + 1)
    sink = None if sink is None else sink.clone().requires_grad_()
    leaves = [by_feature(x) for x in (q, k, v)]
    y = attend_by_feature(*leaves, sink, standing(2, 200, 200))
    check(y, *leaves, sink, rtol=1e-3, atol=1e-2)
    first = places[0]
    assert y[:, :2, :first].isfinite().all()
    if sink is None:  # from there on a query looks at the largest before it
        largest = leaves[2][:, :, [max(p for p in places if p <= t) for t in range(first, 200)]]
        torch.testing.assert_close(y[:, :, first:], largest)


@pytest.mark.parametrize("first", [-100.0, -3e9, -3e38, -torch.inf])
def test_a_first_position_far_below_all_others(first: float) -> None:
    """What is subtracted is its score; scores above that are compared with each other all the same."""
    q, k, v = (normal(HEADS, 4, 2, 200, seed=i) for i in range(3))
    q[:, 0], k[:, 0] = 2, 50 + k[:, 0].abs()
    expected = attention_pattern(*(x[..., 1:].permute(2, 0, 3, 1).double() for x in (q, k)), None)
    k[:, 0, :, 0] = first
    y = attend_by_feature(*(by_feature(x) for x in (q, k, v)), None, standing(2, 200, 200))
    torch.testing.assert_close(y[:, :, 1:].double(), expected @ v[..., 1:].permute(2, 0, 3, 1).double(), **CLOSE)


@pytest.mark.parametrize("score", [30.0, 1e4, 1e7])
def test_weights_of_a_saturated_softmax_are_one_on_the_way_back(score: float) -> None:
    q, k, v = (torch.zeros(HEADS, 4, 2, 70) for _ in range(3))
    q[:, 0], k[:, 0, :, 3] = 2, score
    q[0] = 0  # and of one that is not
    leaves = [by_feature(x) for x in (q, k, v)]
    y = attend_by_feature(*leaves, None, standing(2, 70, 70))
    (d_v,) = torch.autograd.grad(y, leaves[2], torch.ones_like(y))
    torch.testing.assert_close(d_v[:, 1:, 3], torch.full((2, 2, 4), 67.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(d_v[:, :1].sum(2), torch.full((2, 1, 4), 70.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
@pytest.mark.parametrize("sink", [None, torch.tensor([-90.0, 0.0, 120.0])])
def test_scores_small_and_large(scale: float, sink: Tensor | None) -> None:
    """Exponentials neither overflow nor lose what matters; large scores lose digits in float32 themselves."""
    q, k, v = heads(43, 4)
    q, k = (by_feature(scale**0.5 * x.detach().permute(1, 3, 0, 2)) for x in (q, k))
    sink = None if sink is None else sink.clone().requires_grad_()
    y = attend_by_feature(q, k, v, sink, standing(2, 43, 43))
    pattern = attention_pattern(q.double(), k.double(), None if sink is None else sink.double())
    torch.testing.assert_close(y.double(), pattern @ v.double(), rtol=1e-3, atol=1e-4 * max(1, scale / 100))
    towards = normal(*y.shape, seed=7)
    leaves = [q, k, v] if sink is None else [q, k, v, sink]
    for mine, theirs in zip(
        torch.autograd.grad(y, leaves, towards),
        torch.autograd.grad(pattern @ v.double(), leaves, towards.double()),
        strict=True,
    ):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3 * max(1, scale / 10))


@pytest.mark.parametrize("sink", [None, SINK])
@pytest.mark.parametrize("alike", [False, True])
def test_heads_and_channels_without_a_gradient(sink: Tensor | None, alike: bool) -> None:
    """A head, and a channel of another, that nothing reads; channels of queries that vary among some that do not."""
    q, k, v = (x.detach().clone() for x in heads(40, 6))
    q[0, 1, :, 0::2], k[:, 1:] = 0.7, k[:, 1:, :1] if alike else k[:, 1:]
    leaves = [x.requires_grad_() for x in (*map(_as_it_lies, (q, k, v)), *([] if sink is None else [sink.clone()]))]
    towards = normal(*q.shape, seed=7)
    towards[:, 0], towards[0, 1, :, 2] = 0, 0
    precise = [x.detach().double().requires_grad_() for x in leaves]
    twin = attention_pattern(precise[0], precise[1], None if sink is None else precise[3]) @ precise[2]
    expected = torch.autograd.grad(twin, precise, towards.double())
    torch.use_deterministic_algorithms(True)  # new memory is then NaN
    try:
        ours = attend_by_feature(*leaves[:3], None if sink is None else leaves[3], standing(2, 40, 40))
        found = torch.autograd.grad(ours, leaves, towards)
        with torch.no_grad():
            again = attend_by_feature(*leaves[:3], None if sink is None else leaves[3], standing(2, 40, 40))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(again, ours)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, **CLOSE)


def _as_it_lies(x: Tensor) -> Tensor:
    return x.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1)
