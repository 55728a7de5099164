"""AbsTopK of feature-major activations: tokens of every kind, whatever stands beside them in a tile."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import selection
from torch import Tensor

from tests.engine.checks import check_columns
from tests.engine.inputs import case, generator
from thinwire.engine.layout import activations, is_feature_major
from thinwire.engine.simd.tiles import TOKENS, empty_tile
from thinwire.engine.topk import columns as kernels
from thinwire.engine.topk.reference import keep_rows
from thinwire.engine.topk.select import keep_columns, pass_columns
from thinwire.engine.topk.threshold import FEW, SAMPLE, empty_scratch, find_thresholds
from thinwire.model.abstopk import abstopk

SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, math.inf, -math.inf, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, 1.17e-38)
WIDE = 2048
KINDS = ("normal", "ties", "zeros", "few", "denormal", "huge", "infinite", "equal", "scales", "signs", "special")


def column(kind: str, width: int, k: int, random: torch.Generator) -> Tensor:
    """One token's channels [width]."""
    x = torch.randn(width, generator=random)
    ranks = torch.rand(width, generator=random).argsort().argsort()
    drawn = {
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
        "special": lambda: torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (width,), generator=random)],
    }
    return drawn[kind]()


def matrix(kinds: tuple[str, ...], width: int, n: int, k: int, seed: int) -> Tensor:
    """Columns [width, n] of kinds that follow each other in turn."""
    random = generator(seed)
    columns = [column(kinds[t % len(kinds)], width, k, random) for t in range(n)]
    return torch.stack(columns, 1).contiguous() if columns else torch.empty(width, 0)


def check(x: Tensor, ks: tuple[int, ...], *about: object) -> None:
    for k in sorted({min(max(k, 1), len(x)) for k in ks}):
        with case(*about, f"x {list(x.shape)}, k {k}"):
            check_columns(x, k)


def test_tokens_of_every_kind_side_by_side() -> None:
    """Lanes are narrowed down together, from the same guesses; tokens end around tiles."""
    for seed, width in enumerate((1, 2, 3, 9, 37, 64, 70, 257)):
        for n in (0, 1, 2, 33, 63, 64, 65, 257):
            k = width // 3
            check(matrix(KINDS, width, n, k, seed), (1, k, width - 1, width), seed)
    x = matrix(KINDS, WIDE + 3, 4 * TOKENS + 1, WIDE // 4, 0)
    check(x, (WIDE // 4,))
    tied = x[:, ::11]
    check(torch.cat([1e-30 * tied, tied, 1e30 * tied.clamp(-1e8, 1e8)], 1), (WIDE // 4,))


def test_wide_tokens_of_one_kind() -> None:
    """Around the numbers that are searched by themselves, and more."""
    for width in (FEW, FEW + 1, WIDE, 8247):
        for kind in KINDS:
            check(matrix((kind,), width, 9, width // 4, width), (1, 17, width // 4, width - 1, width), kind)


@given(st.integers(1, 9), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_columns_keep_what_plain_python_keeps(width: int, n: int, data: st.DataObject) -> None:
    values = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False))
    x = torch.tensor(data.draw(st.lists(values, min_size=width * n, max_size=width * n))).view(width, n)
    k = data.draw(st.integers(1, width))
    kept = keep_columns(x, k)
    assert kept.T.tolist() == [selection.keep(list(token), k) for token in x.T.tolist()]
    grad = torch.arange(1.0, 1 + x.numel()).view(width, n)
    passed = [selection.keep_gradient(*pair, k) for pair in zip(x.T.tolist(), grad.T.tolist(), strict=True)]
    assert pass_columns(kept, grad, k).T.tolist() == passed


def test_samples_that_mislead() -> None:
    """The rows that first guesses are from hold the largest magnitudes, or the smallest."""
    x = torch.randn(WIDE, TOKENS, generator=generator(0))
    for stride in (WIDE // SAMPLE, WIDE // SAMPLE + 1):
        for factor in (1e-3, 0.0, 1e3, torch.inf):
            misled = x.clone()
            misled[::stride] *= factor
            check(misled, (1, 64, 128, 129, 512, WIDE - 1), stride, factor)


def test_numbers_that_differ_in_their_last_bits() -> None:
    """Thousands of numbers have the same truncated magnitude, which is all that first guesses are from."""
    for apart in (1, 3, 100):
        random = generator(apart)
        steps = apart * torch.randint(200, (WIDE, TOKENS + 1), generator=random, dtype=torch.int32)
        signs = torch.where(torch.rand(steps.shape, generator=random) < 0.5, -1.0, 1.0)
        for start in (0x3F800000, 0x3F80FFF0, 0x00000001, 0x0000FF00, 0x7F7F0000):
            check((steps + start).view(torch.float32) * signs, (1, 100, 1000, WIDE - 1), apart, start)


def test_tokens_with_nearly_k_nonzeros() -> None:
    """All tokens have k nonzeros, one fewer or one more, among zeros of both signs."""
    for width, k in ((2, 1), (9, 4), (64, 63), (300, 1), (WIDE, 512)):
        random = generator(width)
        ranks = torch.rand(width, TOKENS + 3, generator=random).argsort(0).argsort(0)
        x = torch.randn(ranks.shape, generator=random)
        zeros = torch.where(torch.rand(ranks.shape, generator=random) < 0.5, 0.0, -0.0)
        for nonzero in (-1, 0, 1):
            check(torch.where(ranks < k + nonzero, x, zeros), (k,), nonzero)


def unlike(kind: str, width: int) -> Tensor:
    """A tile in which a token is unlike the others, or all are unlike the sample."""
    random = generator(0)
    x = torch.randn(width, TOKENS, generator=random)
    large = torch.rand(width, generator=random) < 0.26
    if kind == "of one scale":
        return x
    if kind == "half as many":
        return x * (torch.rand(x.shape, generator=random) < 0.25)
    if kind == "every scale":
        return x * 10 ** (30 * torch.rand(TOKENS, generator=random) - 15)
    x[:, 0] *= torch.where(large, 1e20, 1e-20) if kind == "two clusters" else float(kind)
    return x


def test_passes_are_few() -> None:
    """Cutting in three alone takes twenty; a token of another scale, or with about k nonzeros, costs less."""
    most = {"of one scale": 4, "half as many": 9, "every scale": 14, "two clusters": 7}
    most |= dict.fromkeys(("1e-6", "1e-3", "0.1", "10", "1e3", "1e6"), 14)
    for width in (256, 4096, 33000):
        for kind, passes in most.items():
            x = unlike(kind, width)
            tile, scratch = empty_tile(width), empty_scratch(width)
            kernels.load_tile(x.numpy(), 0, TOKENS, tile, scratch)
            assert find_thresholds(tile, width // 4, TOKENS, scratch) <= passes, (kind, width)
            if width < 5000:
                check(x, (width // 4,), kind)


def test_any_number_of_threads_shares_the_tokens() -> None:
    for threads in (1, 2, 3, 8, 64):
        for n in (1, 64, 65, 500, 1030):
            x = matrix(KINDS, 37, n, 9, n)
            kept = torch.empty_like(x)
            kernels.keep_columns(x.numpy(), 9, threads, kept.numpy())
            assert kept.equal(keep_rows(x.T, 9).T), (threads, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_operator_keeps_the_layout_of_its_input(dtype: torch.dtype) -> None:
    """The values are the same either way."""
    rows = torch.randn(24, 3 * 67, generator=generator(1)).to(dtype)
    by_feature = activations(rows, (3, 67)).requires_grad_()
    by_token = by_feature.detach().contiguous().requires_grad_()
    towards = torch.randn(by_token.shape, generator=generator(2)).to(dtype)
    ours, expected = abstopk(by_feature, 6), abstopk(by_token, 6)
    assert is_feature_major(ours)
    assert expected.is_contiguous()
    assert ours.equal(expected)
    (ours,), (expected,) = (torch.autograd.grad(y, x, towards) for y, x in ((ours, by_feature), (expected, by_token)))
    assert is_feature_major(ours)
    assert ours.equal(expected)


def test_nan_is_larger_than_infinity() -> None:
    """The first k NaN are kept; other tokens do not change."""
    x = torch.randn(300, 70, generator=generator(0))
    x[5] = torch.inf
    clean = keep_columns(x, 9)
    for n_nan in (1, 8, 9, 20):
        some = x.clone()
        some[10 : 10 + n_nan, 3] = torch.nan
        kept = keep_columns(some, 9)
        assert kept[:, 3].isnan().nonzero().flatten().tolist() == list(range(10, 10 + min(n_nan, 9)))
        assert (kept[:, 3] != 0).sum() == 9
        kept[:, 3] = clean[:, 3]
        assert kept.equal(clean), n_nan
