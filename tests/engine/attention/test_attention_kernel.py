"""Attention over feature-major activations: the kernels against the reference in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import data, integers, sampled_from
from torch import Tensor

from tests.engine.checks import CLOSE, SUMMED, check_attention, check_heads, drawn_heads
from tests.engine.inputs import SINK, case, generator, head_major, last_positions, nan_memory, normal, thinned
from thinwire.engine.attention.operator import attend_by_feature
from thinwire.engine.attention.reference import attend

FAR_SINK = torch.tensor([-90.0, 0.0, 120.0])


def test_heads_of_every_size() -> None:
    """Channels around the words of an index, positions around tiles, queries at all or the last positions."""
    for sink in (None, SINK):
        for d_head in (1, 4, 6, 16, 17, 33):
            for length, n_queries in ((1, 1), (3, 3), (16, 16), (130, 130), (21, 1), (21, 2), (65, 7)):
                with case(sink, d_head, length, n_queries):
                    check_heads(length, d_head, sink, n_queries)


def test_one_query_a_sequence_anywhere() -> None:
    for sink in (None, SINK):
        for length in (1, 16, 130):
            queries = torch.tensor([0, length - 1, length // 2, length // 3])[:, None]
            with case(sink, length):
                check_attention(drawn_heads(length, 6, batch=4, n_queries=1), sink, queries)


def test_nan_in_a_query_goes_to_its_output_alone() -> None:
    q, k, v = (x.detach() for x in drawn_heads(40, 4))
    q[1, 2, 7, 0] = torch.nan
    lost = attend_by_feature(q, k, v, None, last_positions(2, 40, 40)).isnan()
    assert lost[1, 2, 7].all()
    assert lost.sum() == 4


@settings(max_examples=60, deadline=None)
@given(data())
def test_any_heads_and_queries(draw) -> None:
    """Queries in any order, some at one position; channels that are zero, or the same everywhere."""

    def pick(*choices: float) -> Any:
        return draw.draw(sampled_from(choices))

    n_heads, d_head, batch = pick(1, 3), pick(1, 2, 3, 8, 9, 20), pick(1, 2)
    length, n_queries = pick(1, 2, 15, 16, 17, 33, 65), pick(1, 3, 8, 17, 33, 64, 65, 100)
    random = generator(draw.draw(integers(0, 2**32)))
    leaves = []
    for n in (n_queries, length, length):
        x = 2 * torch.randn(n_heads, d_head, batch, n, generator=random)
        x *= torch.rand(x.shape, generator=random) < pick(0.2, 1.0)
        if pick(True, False):
            x[0] = x[0, :, :, :1].clone()
        if pick(True, False):
            x[-1, : pick(1, d_head)] = 0
        leaves.append(head_major(x))
    sink = torch.randn(n_heads, generator=random) if pick(True, False) else None
    queries = torch.randint(length, (batch, n_queries), generator=random)
    check_attention(leaves, sink, queries, pick(0.3, 1.0))


def test_queries_in_any_order() -> None:
    """Those without a channel take a running mean, which must start again where positions go back."""
    queries = torch.tensor([[3, 10, 29, 2, 2, 11], [29, 0, 5, 4, 28, 1]])
    _, k, v = drawn_heads(30, 4)
    for q in (torch.zeros(3, 4, 2, 6), thinned(normal(3, 4, 2, 6, seed=3), 0.3, 4)):
        for sink in (None, SINK):
            check_attention([head_major(q), k, v], sink, queries)


def test_heads_whose_keys_are_all_equal() -> None:
    """As masks ablate them to a mean: a query weighs all positions alike, and only a sink makes a difference."""
    for sink in (None, SINK):
        for length in (1, 5, 20, 130):
            for n_uniform in (1, 3):
                q, k, v = (normal(3, 6, 2, length, seed=i) for i in range(3))
                k[:n_uniform] = k[:n_uniform, :, :, :1].clone()
                v[0] = v[0, :, :, :1].clone()  # nothing moves, and in the next head four channels of six do
                v[1, 2:4] = v[1, 2:4, :, :1].clone()
                q[1, 3:] = 0
                leaves, last = [head_major(x) for x in (q, k, v)], torch.tensor([[length - 1], [length // 2]])
                with case(sink, length, n_uniform):
                    check_attention(leaves, sink, last_positions(2, length, length))
                    check_attention([head_major(q[..., :1].clone()), *leaves[1:]], sink, last)


def test_scores_that_rise_from_tile_to_tile() -> None:
    """A position may outweigh all before it, so far that exponentials of what they were compared with overflow."""
    for sink in (None, SINK, FAR_SINK):
        for positions in ([70], [5, 140], [63, 64, 65], [199]):
            q, k, v = (normal(3, 4, 2, 200, seed=i) for i in range(3))
            q[:, 0] = 2 + q[:, 0].abs()
            for n, position in enumerate(positions):
                k[:, 0, :, position] = 150 * (n + 1)
            leaves, first = [head_major(x) for x in (q, k, v)], positions[0]
            with case(sink, positions):
                y = check_attention(leaves, sink, last_positions(2, 200, 200), rtol=1e-3, atol=1e-2)
                assert y[:, :2, :first].isfinite().all()
                if sink is None:  # from there on a query attends to the largest before it
                    largest = [max(p for p in positions if p <= t) for t in range(first, 200)]
                    torch.testing.assert_close(y[:, :, first:], leaves[2][:, :, largest])


@pytest.mark.parametrize("first", [-100.0, -3e9, -3e38, -torch.inf])
def test_a_first_position_far_below_all_others(first: float) -> None:
    """What is subtracted is its score; scores above that are compared with each other all the same."""
    q, k, v = (normal(3, 4, 2, 200, seed=i) for i in range(3))
    q[:, 0], k[:, 0] = 2, 50 + k[:, 0].abs()
    behind = [head_major(x[..., 1:]).detach().double() for x in (q, k, v)]
    expected = attend(behind[0], behind[1], behind[2], None, last_positions(2, 199, 199))
    k[:, 0, :, 0] = first
    y = attend_by_feature(*(head_major(x) for x in (q, k, v)), None, last_positions(2, 200, 200))
    torch.testing.assert_close(y[:, :, 1:].double(), expected, **CLOSE)


def test_weights_of_a_saturated_softmax_are_one_in_the_backward_pass() -> None:
    for score in (30.0, 1e4, 1e7):
        q, k, v = (torch.zeros(3, 4, 2, 70) for _ in range(3))
        q[:, 0], k[:, 0, :, 3] = 2, score
        q[0] = 0  # a softmax that is not saturated
        leaves = [head_major(x) for x in (q, k, v)]
        y = attend_by_feature(*leaves, None, last_positions(2, 70, 70))
        (d_v,) = torch.autograd.grad(y, leaves[2], torch.ones_like(y))
        torch.testing.assert_close(d_v[:, 1:, 3], torch.full((2, 2, 4), 67.0), rtol=1e-6, atol=0)
        torch.testing.assert_close(d_v[:, :1].sum(2), torch.full((2, 1, 4), 70.0), rtol=1e-6, atol=0)


def test_scores_small_and_large() -> None:
    """Exponentials neither overflow nor lose what matters; large scores lose digits in float32 themselves."""
    for scale in (1e-3, 30.0, 1e4):
        for sink in (None, FAR_SINK):
            q, k, v = drawn_heads(43, 4)
            q, k = (head_major(scale**0.5 * x.permute(1, 3, 0, 2)) for x in (q, k))
            leaves = [q, k, v] if sink is None else [q, k, v, sink.clone().requires_grad_()]
            precise = [leaf.detach().double().requires_grad_() for leaf in leaves]
            queries = last_positions(2, 43, 43)
            y = attend_by_feature(q, k, v, None if sink is None else leaves[3], queries)
            twin = attend(precise[0], precise[1], precise[2], None if sink is None else precise[3], queries)
            with case(scale, sink):
                torch.testing.assert_close(y.double(), twin, rtol=1e-3, atol=1e-4 * max(1, scale / 100))
                towards = normal(*y.shape, seed=7)
                expected = torch.autograd.grad(twin, precise, towards.double())
                for ours, theirs in zip(torch.autograd.grad(y, leaves, towards), expected, strict=True):
                    assert ours.isfinite().all()
                    torch.testing.assert_close(ours.double(), theirs, rtol=1e-2, atol=1e-3 * max(1, scale / 10))


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("sink", [None, SINK])
def test_heads_and_channels_without_a_gradient(sink: Tensor | None, uniform: bool) -> None:
    """A head, and a channel of another, that nothing reads; queries of which some channels do not vary."""
    q, k, v = (x.detach().clone() for x in drawn_heads(40, 6))
    q[0, 1, :, 0::2], k[:, 1:] = 0.7, k[:, 1:, :1] if uniform else k[:, 1:]
    leaves = [head_major(x.permute(1, 3, 0, 2)) for x in (q, k, v)]
    leaves += [] if sink is None else [sink.clone().requires_grad_()]
    precise = [leaf.detach().double().requires_grad_() for leaf in leaves]
    towards, queries = normal(*q.shape, seed=7), last_positions(2, 40, 40)
    towards[:, 0], towards[0, 1, :, 2] = 0, 0
    twin = attend(precise[0], precise[1], precise[2], None if sink is None else precise[3], queries)
    with nan_memory():
        ours = attend_by_feature(*leaves[:3], None if sink is None else leaves[3], queries)
        found = torch.autograd.grad(ours, leaves, towards)
    for one, other in zip(found, torch.autograd.grad(twin, precise, towards.double()), strict=True):
        torch.testing.assert_close(one.double(), other, **SUMMED)
