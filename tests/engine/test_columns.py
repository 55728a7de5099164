"""AbsTopK of feature-major activations: columns are rows of the transpose, to the bit, whatever stands beside them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import selection
from torch import Tensor

from thinwire.engine.layout import activations, is_feature_major
from thinwire.engine.simd.tiles import TOKENS as LANES
from thinwire.engine.simd.tiles import empty_tile
from thinwire.engine.topk import columns as column_kernels
from thinwire.engine.topk.reference import keep_mask
from thinwire.engine.topk.select import keep_columns, keep_rows, pass_columns, pass_rows
from thinwire.engine.topk.threshold import FEW, SAMPLE, empty_scratch, find_thresholds
from thinwire.model.abstopk import abstopk

SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, math.inf, -math.inf, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, 1.17e-38)
TOKENS = (0, 1, 2, 33, 63, 64, 65, 257)
"""Around the tokens of a tile, 64."""
WIDE = 2048
KINDS = ("normal", "ties", "zeros", "few", "denormal", "huge", "infinite", "equal", "scales", "signs", "special")


def column(kind: str, width: int, k: int, generator: torch.Generator) -> Tensor:
    """One token's channels [width]."""
    x = torch.randn(width, generator=generator)
    ranks = torch.rand(width, generator=generator).argsort().argsort()
    made = {
        "normal": lambda: x,
        "ties": lambda: (2 * x).round() / 2,
        "zeros": lambda: x * -0.0,
        "few": lambda: x * (ranks < k - 1),
        "denormal": lambda: (8 * x).round() * 1e-45,
        "huge": lambda: x.sign() * (3.4e38 - 1e36 * x.abs()),
        "infinite": lambda: torch.where(ranks < k + 1, x * torch.inf, x),
        "equal": lambda: torch.full_like(x, 0.75),
        "scales": lambda: 10 ** (12 * x),
        "signs": lambda: x.sign() * (ranks < k),
        "special": lambda: torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (width,), generator=generator)],
    }
    return made[kind]()


def matrix(kinds: list[str], width: int, n: int, k: int, seed: int) -> Tensor:
    """Columns [width, n] of kinds that follow each other in turn."""
    generator = torch.Generator().manual_seed(seed)
    columns = [column(kinds[t % len(kinds)], width, k, generator) for t in range(n)]
    return torch.stack(columns, 1).contiguous() if columns else torch.empty(width, 0)


def twin(x: Tensor, k: int) -> Tensor:
    return torch.where(keep_mask(x.T, k).T, x, 0)


def check(x: Tensor, k: int) -> None:
    """Both directions against the plain twin, which has no kernel, and against the kernels of rows."""
    kept = keep_columns(x, k)
    assert kept.is_contiguous()
    assert kept.equal(twin(x, k))
    assert kept.equal(keep_rows(x.T.contiguous(), k).T)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
    passed = pass_columns(kept, grad, k)
    assert passed.equal(pass_rows(kept.T.double(), grad.T.double(), k).T.float())
    assert passed.equal(pass_rows(kept.T, grad.T, k).T)


@given(st.integers(1, 70), st.sampled_from(TOKENS), st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_columns_are_rows_of_the_transpose(width: int, n: int, kinds: list[str], data: st.DataObject) -> None:
    k = data.draw(st.one_of(st.sampled_from((1, max(1, width - 1), width)), st.integers(1, width)))
    check(matrix(kinds, width, n, k, data.draw(st.integers(0, 99))), k)


@given(st.integers(1, 9), st.integers(1, 5), st.data())
@settings(max_examples=80, deadline=None)
def test_columns_keep_what_the_reference_keeps(width: int, n: int, data: st.DataObject) -> None:
    """One number at a time, in plain Python."""
    values = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False))
    x = torch.tensor(data.draw(st.lists(values, min_size=width * n, max_size=width * n))).view(width, n)
    k = data.draw(st.integers(1, width))
    kept = keep_columns(x, k)
    assert kept.T.tolist() == [selection.keep(list(token), k) for token in x.T.tolist()]
    grad = torch.arange(1.0, 1 + x.numel()).view(width, n)
    passed = [selection.keep_gradient(*pair, k) for pair in zip(x.T.tolist(), grad.T.tolist(), strict=True)]
    assert pass_columns(kept, grad, k).T.tolist() == passed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [FEW, FEW + 1, WIDE, 4095, 8247])
def test_wide_columns_of_one_kind(kind: str, width: int) -> None:
    """Around the numbers that are searched by themselves, and more."""
    for k in (1, 17, width // 4, width - 1, width):
        check(matrix([kind], width, LANES + 1, k, width), k)


@pytest.mark.parametrize("width", [257, WIDE + 3])
def test_neighbours_of_all_kinds_do_not_show(width: int) -> None:
    """Lanes are narrowed down together, from the same guesses."""
    k = width // 4
    x = matrix(list(KINDS), width, 4 * LANES + 1, k, 0)
    check(x, k)
    check(torch.cat([1e-30 * x[:, ::11], x[:, ::11], 1e30 * x[:, ::11].clamp(-1e8, 1e8)], 1), k)


@pytest.mark.parametrize("stride", [WIDE // SAMPLE, WIDE // SAMPLE + 1])
def test_samples_that_mislead(stride: int) -> None:
    """The rows that first guesses are from hold the largest magnitudes, or the smallest."""
    x = torch.randn(WIDE, LANES, generator=torch.Generator().manual_seed(0))
    for factor in (1e-3, 0.0, 1e3, torch.inf):
        misled = x.clone()
        misled[::stride] *= factor
        for k in (1, 64, 128, 129, 512, WIDE - 1):
            check(misled, k)


@pytest.mark.parametrize("apart", [1, 3, 100])
def test_numbers_that_differ_in_their_last_bits(apart: int) -> None:
    """Thousands of numbers have the same upper half, which is all that first guesses are from."""
    generator = torch.Generator().manual_seed(apart)
    steps = apart * torch.randint(200, (WIDE, LANES + 1), generator=generator, dtype=torch.int32)
    signs = torch.where(torch.rand(steps.shape, generator=generator) < 0.5, -1.0, 1.0)
    for start in (0x3F800000, 0x3F80FFF0, 0x00000001, 0x0000FF00, 0x7F7F0000):
        for k in (1, 100, 1000, WIDE - 1):
            check((steps + start).view(torch.float32) * signs, k)


@pytest.mark.parametrize("nonzero", [-1, 0, 1])
@pytest.mark.parametrize(("width", "k"), [(2, 1), (9, 4), (64, 63), (300, 1), (WIDE, 512)])
def test_tokens_with_nearly_k_nonzeros(width: int, k: int, nonzero: int) -> None:
    """All tokens have k nonzeros, one fewer or one more, among zeros of both signs."""
    generator = torch.Generator().manual_seed(width)
    ranks = torch.rand(width, LANES + 3, generator=generator).argsort(0).argsort(0)
    x = torch.randn(ranks.shape, generator=generator)
    zeros = torch.where(torch.rand(ranks.shape, generator=generator) < 0.5, 0.0, -0.0)
    check(torch.where(ranks < k + nonzero, x, zeros), k)


def far_apart(kind: str, width: int, generator: torch.Generator) -> Tensor:
    """A tile in which a token is unlike the others, or all are unlike the sample."""
    x = torch.randn(width, LANES, generator=generator)
    large = torch.rand(width, generator=generator) < 0.26
    if kind == "of one scale":
        return x
    if kind == "half as many":
        return x * (torch.rand(x.shape, generator=generator) < 0.25)
    if kind == "every scale":
        return x * 10 ** (30 * torch.rand(LANES, generator=generator) - 15)
    x[:, 0] *= torch.where(large, 1e20, 1e-20) if kind == "two clusters" else float(kind)
    return x


@pytest.mark.parametrize("width", [256, 4096, 33000])
@pytest.mark.parametrize(
    ("kind", "most"),
    [("of one scale", 4), ("half as many", 9), ("every scale", 14), ("two clusters", 7)]
    + [(scale, 14) for scale in ("1e-6", "1e-3", "0.1", "10", "1e3", "1e6")],
)
def test_passes_are_few(kind: str, most: int, width: int) -> None:
    """Cutting in three alone takes twenty; a token of another scale, or with about k nonzeros, is to cost less."""
    x = far_apart(kind, width, torch.Generator().manual_seed(0))
    check(x, width // 4)
    tile, scratch = empty_tile(width), empty_scratch(width)
    column_kernels.load_tile(x.numpy(), 0, LANES, tile, scratch)
    assert find_thresholds(tile, width // 4, LANES, scratch) <= most


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_however_many_threads_share_the_tokens(threads: int) -> None:
    for n in (1, 64, 65, 500, 1030):
        x = matrix(list(KINDS), 37, n, 9, n)
        kept = torch.empty_like(x)
        column_kernels.keep_columns(x.numpy(), 9, threads, kept.numpy())
        assert kept.equal(twin(x, 9))


def test_ties_go_to_the_lowest_channel() -> None:
    x = torch.tensor([1.0, -2, 2, -2, 2, 3, -1])[:, None].expand(-1, 70).contiguous()
    assert keep_columns(x, 3).equal(torch.tensor([0.0, -2, 2, 0, 0, 3, 0])[:, None].expand(-1, 70))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_operator_takes_activations_as_they_lie(dtype: torch.dtype) -> None:
    """The same numbers either way round, and a result that lies as its input does."""
    rows = torch.randn(24, 3 * 67, generator=torch.Generator().manual_seed(1)).to(dtype)
    by_feature = activations(rows, (3, 67)).requires_grad_()
    by_token = by_feature.detach().contiguous().requires_grad_()
    towards = torch.randn(by_token.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    ours, expected = abstopk(by_feature, 6), abstopk(by_token, 6)
    assert is_feature_major(ours)
    assert expected.is_contiguous()
    assert ours.equal(expected)
    (ours,), (expected,) = (torch.autograd.grad(y, x, towards) for y, x in ((ours, by_feature), (expected, by_token)))
    assert is_feature_major(ours)
    assert ours.equal(expected)


@pytest.mark.parametrize("n_nan", [1, 8, 9, 20])
def test_nan_is_larger_than_infinity(n_nan: int) -> None:
    """As many as are to be kept, the first of them; other tokens do not notice."""
    x = torch.randn(300, 70, generator=torch.Generator().manual_seed(0))
    x[5] = torch.inf
    clean = x.clone()
    x[10 : 10 + n_nan, 3] = torch.nan
    kept, expected = keep_columns(x, 9), keep_columns(clean, 9)
    assert kept[:, 3].isnan().nonzero().flatten().tolist() == list(range(10, 10 + min(n_nan, 9)))
    assert (kept[:, 3] != 0).sum() == 9
    assert kept[:, :3].equal(expected[:, :3])
    assert kept[:, 4:].equal(expected[:, 4:])
