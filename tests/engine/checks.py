"""Every operator of the engine against its reference, values and gradients: what tests and the guard pages run."""

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from tests.engine.inputs import (
    at_nonzeros,
    draw_ablation,
    feature_major,
    generator,
    grid,
    head_major,
    last_positions,
    near_tie,
    normal,
    sparse,
    thinned,
)
from thinwire.engine.attention.operator import attend_by_feature
from thinwire.engine.attention.reference import attend
from thinwire.engine.sites import pointwise
from thinwire.engine.sites import reference as sites
from thinwire.engine.sites.norm_operator import norm_and_keep
from thinwire.engine.sites.operator import FUNCTIONS, Nonlinearity, map_and_keep
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.spmm import operators as spmm
from thinwire.engine.spmm import reference as spmm_reference
from thinwire.engine.topk import reference as topk
from thinwire.engine.topk import select

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
SUMMED = {"rtol": 1e-4, "atol": 3e-4}
"""For sums over many tokens."""
NONLINEARITIES: tuple[Nonlinearity, ...] = ("identity", "relu", "gelu")


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], **close: float) -> None:
    """Each is close to its twin."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.to(other), other, **(close or CLOSE))


def check_rows(x: Tensor, k: int) -> None:
    """Selection in each row of x [rows, width], and its gradient."""
    kept, grad = select.keep_rows(x, k), normal(*x.shape, seed=k).to(x.dtype)
    assert kept.dtype == x.dtype
    assert kept.equal(torch.where(topk.keep_mask(x, k), x, 0))
    assert select.pass_rows(kept, grad, k).equal(topk.pass_rows(kept, grad, k))


def check_columns(x: Tensor, k: int) -> None:
    """Selection in each column of float32 x [width, n], and its gradient."""
    kept, grad = select.keep_columns(x, k), normal(*x.shape, seed=k)
    assert kept.is_contiguous()
    assert kept.equal(torch.where(topk.keep_mask(x.T, k), x.T, 0).T)
    assert select.pass_columns(kept, grad, k).equal(topk.pass_rows(kept.T, grad.T, k).T)


def check_largest(x: Tensor, k: int, reserved: Tensor | None = None) -> None:
    """Selection in a whole float32 tensor."""
    ours, ranks = x.clone(), x.abs() if reserved is None else x.abs().masked_fill(reserved, torch.inf)
    select.keep_largest_(ours, k, reserved)
    assert ours.equal(torch.where(topk.keep_mask(ranks.flatten(), k).view_as(x), x, 0))


def check_product(matrix: Tensor, lead: tuple[int, ...], by_feature: bool = True) -> None:
    """The product of a sparse matrix and activations [*lead, columns]."""
    (pattern, values), x = sparse(matrix), normal(*lead, matrix.shape[1], seed=2)
    x = feature_major(x) if by_feature else x.requires_grad_()
    bias, towards = normal(len(matrix), seed=3).requires_grad_(), normal(*lead, len(matrix), seed=4)
    leaves = x, values, bias
    precise = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = spmm.multiply(x, pattern, values, bias)
    twin = spmm_reference.multiply(precise[0], pattern, *precise[1:])
    assert ours.shape == twin.shape
    assert ours.movedim(-1, 0).is_contiguous()
    assert_close([ours], [twin])
    found, expected = torch.autograd.grad(ours, leaves, towards), torch.autograd.grad(twin, precise, towards.double())
    assert found[0].movedim(-1, 0).is_contiguous()
    assert_close(found[:1], expected[:1])
    assert_close(found[1:], expected[1:], **SUMMED)


def check_gather(matrix: Tensor, lead: tuple[int, ...]) -> None:
    """Rows of a sparse matrix, and of a dense table, by index [*lead]."""
    (pattern, values), tokens = sparse(matrix), torch.randint(len(matrix), lead, generator=generator(5))
    ours, twin = spmm.gather_rows(tokens, pattern, values), spmm_reference.gather_rows(tokens, pattern, values)
    assert ours.movedim(-1, 0).is_contiguous()
    assert ours.equal(twin)
    towards = normal(*twin.shape, seed=6)
    assert_close(torch.autograd.grad(ours, values, towards), torch.autograd.grad(twin, values, towards), **SUMMED)
    rows = spmm.table_rows(tokens, matrix)
    assert rows.movedim(-1, 0).is_contiguous()
    assert rows.equal(matrix[tokens])


def check_attention(
    leaves: Sequence[Tensor], sink: Tensor | None, queries: Tensor, unread: float = 0.6, **close: float
) -> Tensor:
    """Attention of q, k and v, as `attend_by_feature` takes them; returns the result.

    A part `unread` of the result, and every fourth query, has no gradient.
    """
    leaves = [*leaves] if sink is None else [*leaves, sink.clone().requires_grad_()]
    precise = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = attend_by_feature(*leaves[:3], None if sink is None else leaves[3], queries)
    twin = attend(*precise[:3], None if sink is None else precise[3], queries)
    assert ours.permute(1, 3, 0, 2).is_contiguous()
    assert_close([ours], [twin], **close)
    towards = thinned(normal(*twin.shape, seed=7), unread, 8)
    towards[:, :, 1::4] = 0
    found, expected = torch.autograd.grad(ours, leaves, towards), torch.autograd.grad(twin, precise, towards.double())
    assert_close(found, expected, **(close or SUMMED))
    with torch.no_grad():  # where heads whose values are zero are skipped
        again = attend_by_feature(*leaves[:3], None if sink is None else leaves[3], queries)
        assert_close([again], [ours.detach()], rtol=1e-5, atol=1e-6)
    return ours


def drawn_heads(length: int, d_head: int, batch: int = 2, n_queries: int | None = None, seed: int = 0) -> list[Tensor]:
    """Sparse q, k and v of three heads; some queries, keys and values of heads are zero, or the same everywhere."""
    n_queries = length if n_queries is None else n_queries
    shapes = [(3, d_head, batch, n) for n in (n_queries, length, length)]
    q, k, v = (thinned(2 * normal(*shape, seed=seed + i), 0.5, seed + 9 + i) for i, shape in enumerate(shapes))
    q[..., ::5] = 0
    k[-1, :, -1] = 0
    k[1, :, 0] = k[1, :, 0, :1].clone()
    v[0, :, 0] = 0
    v[:, 0, 0] = v[:, 0, 0, :1].clone()
    return [head_major(x) for x in (q, k, v)]


def check_heads(length: int, d_head: int, sink: Tensor | None, n_queries: int | None = None) -> None:
    """Attention of drawn heads, with queries at the last positions."""
    n_queries = length if n_queries is None else n_queries
    leaves = drawn_heads(length, d_head, n_queries=n_queries)
    check_attention(leaves, sink, last_positions(2, length, n_queries))


def check_map(
    matrix: Tensor, bias: Tensor, x: Tensor, nonlinearity: Nonlinearity, k: int, ablation: Ablation | None = None
) -> tuple[Tensor, Tensor]:
    """A site behind a sparse map; returns the result and the gradient of x."""
    (pattern, values), matrix, bias = sparse(matrix), matrix.clone().requires_grad_(), bias.clone().requires_grad_()
    masks = [] if ablation is None else [ablation.mask]
    ours = map_and_keep(x, pattern, values, bias, nonlinearity, k, ablation)
    twin = sites.map_and_keep(x, matrix, bias, nonlinearity, k, ablation)
    assert ours.movedim(-1, 0).is_contiguous()
    assert_close([ours], [twin])
    if nonlinearity != "gelu":  # sums on the grid are exact, ties too
        assert ((ours != 0) == (twin != 0)).all()
    towards = grid(*twin.shape, seed=4)
    towards[..., ::3] = 0  # rows without a gradient
    found = torch.autograd.grad(ours, (x, values, bias, *masks), towards)
    expected = list(torch.autograd.grad(twin, (x, matrix, bias, *masks), towards))
    expected[1] = at_nonzeros(expected[1], pattern)
    assert_close(found[:1], expected[:1])
    assert_close(found[1:], expected[1:], **SUMMED)
    for i, leaf in enumerate((x, *masks)):  # each gradient alone
        parts = [leaf if part is leaf else part.detach() for part in (x, *masks)]
        nodes = None if ablation is None else Ablation(ablation.values, parts[1])
        alone = map_and_keep(parts[0], pattern, values.detach(), bias.detach(), nonlinearity, k, nodes)
        assert_close(torch.autograd.grad(alone, leaf, towards), [expected[0 if i == 0 else 3]], **SUMMED)
    with torch.no_grad():
        assert map_and_keep(x, pattern, values, bias, nonlinearity, k, ablation).equal(ours)
    return ours.detach(), found[0]


def check_site(
    shape: tuple[int, int, int, float],
    lead: tuple[int, ...],
    nonlinearity: Nonlinearity,
    trials: int = 0,
    first_seed: int = 0,
) -> None:
    """A drawn site of (rows, columns, k, density) for tokens [*lead]; some rows are constant, some tokens zero.

    Masks are of zeros and ones, of ones alone, or between, by the seed. Inputs are on the grid, where ties are exact;
    GELU, which is not, takes any numbers that have no near tie.
    """
    rows, columns, k, density = shape
    share = (0.5, None, 1.0, 0.0)[first_seed % 4]
    for seed in count(first_seed):
        draw = normal if nonlinearity == "gelu" else grid
        matrix, bias = thinned(draw(rows, columns, seed=seed), density), thinned(draw(rows, seed=seed + 3), 0.4)
        matrix[::7] = 0
        x = thinned(draw(*lead, columns, seed=seed + 2), 0.25)
        x.view(-1, columns)[::5] = 0
        result = FUNCTIONS[nonlinearity](torch.nn.functional.linear(x, matrix, bias))
        if nonlinearity != "gelu" or k == rows or not near_tie(result, k):
            break
    ablation = draw_ablation(trials, rows, share, seed) if trials else None
    check_map(matrix, bias, feature_major(x), nonlinearity, k, ablation)


def check_norm(width: int, k: int, lead: tuple[int, ...], trials: int = 0, seed: int = 0, share: float = 1.0) -> None:
    """A site behind a norm. Gains are powers of two, so that what ties before the norm ties behind it."""
    ablation = draw_ablation(trials, width, (None, 0.5)[seed % 2], seed) if trials else None
    x, gain = feature_major(thinned(grid(*lead, width, seed=seed), share, seed + 1)), 2 ** grid(width, seed=2).round()
    leaves = [x] if ablation is None else [x, ablation.mask]
    ours, twin = norm_and_keep(x, gain, 1e-5, k, ablation), sites.norm_and_keep(x, gain, 1e-5, k, ablation)
    assert ours.movedim(-1, 0).is_contiguous()
    assert_close([ours], [twin], rtol=1e-5, atol=1e-5)
    towards = normal(*twin.shape, seed=9)
    expected = torch.autograd.grad(twin, leaves, towards)
    assert_close(torch.autograd.grad(ours, leaves, towards), expected, **SUMMED)
    for leaf, gradient in zip(leaves, expected, strict=True):  # each gradient alone
        parts = [part if part is leaf else part.detach() for part in leaves]
        nodes = None if ablation is None else Ablation(ablation.values, parts[1])
        alone = norm_and_keep(parts[0], gain, 1e-5, k, nodes)
        assert_close(torch.autograd.grad(alone, leaf, towards), [gradient], **SUMMED)
    with torch.no_grad():
        assert norm_and_keep(x, gain, 1e-5, k, ablation).equal(ours)


def check_pointwise(lead: tuple[int, ...], width: int, trials: int, share: float | None, epsilon: float) -> None:
    """RMSNorm, and ablation, as operators of their own."""
    x, gain = feature_major(normal(*lead, width)), normal(width, seed=1).requires_grad_()
    with torch.no_grad():
        x[0, 0] *= 1e-4
    precise = [leaf.detach().double().requires_grad_() for leaf in (x, gain)]
    ours, twin = pointwise.rms_norm(x, gain, epsilon)[0], sites.rms_norm(*precise, epsilon)
    towards = normal(*twin.shape, seed=9)
    assert_close([ours], [twin], rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(ours, (x, gain), towards)
    assert found[0].movedim(-1, 0).is_contiguous()
    assert_close(found, torch.autograd.grad(twin, precise, towards.double()), rtol=1e-4, atol=1e-3)  # tiny tokens
    ablation = draw_ablation(trials, width, share)
    ours, twin = ablation.apply(x), sites.ablate(x, ablation)
    assert ours.movedim(-1, 0).is_contiguous()
    assert_close([ours], [twin], rtol=1e-5, atol=1e-6)
    leaves = x, ablation.mask
    assert_close(torch.autograd.grad(ours, leaves, towards), torch.autograd.grad(twin, leaves, towards), **SUMMED)
