"""From site to site in one operator: the steps one by one, a dense map, a nonlinearity and AbsTopK of tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.compiled.modules import SparseLinear
from thinwire.engine.layout import activations, features, is_feature_major
from thinwire.engine.sites import operator as sites
from thinwire.engine.sites.operator import FUNCTIONS, Nonlinearity, map_and_keep
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.spmm.operators import SparsePattern
from thinwire.engine.topk.select import keep_rows, pass_rows
from thinwire.model import AbsTopK

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NONLINEARITIES: tuple[Nonlinearity, ...] = ("identity", "relu", "gelu")
SHAPES = [(24, 16, 6, 0.3), (24, 16, 24, 0.3), (65, 7, 64, 0.15), (3, 40, 1, 0.1), (130, 33, 32, 0.05)]
"""Rows, columns, k, density; k is the width, one fewer, one, and a quarter."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some(x: Tensor, share: float, seed: int = 9) -> Tensor:
    """A share of the numbers, zeros in place of the others."""
    return x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share)


def sparse(matrix: Tensor) -> tuple[SparsePattern, Tensor]:
    places = matrix.nonzero(as_tuple=True)
    return SparsePattern.of(*places, (matrix.shape[0], matrix.shape[1])), matrix[places].requires_grad_()


def given(lead: tuple[int, ...], columns: int, by_feature: bool = True) -> Tensor:
    """Activations of which three in four are zero, as those of a site; some tokens have none at all."""
    x = some(normal(*lead, columns, seed=2), 0.25)
    x.view(-1, columns)[::5] = 0
    return (activations(features(x), lead) if by_feature else x).requires_grad_()


class Steps(torch.autograd.Function):
    """AbsTopK of tokens by the kernels of rows, or everything where k is the width."""

    @staticmethod
    def forward(ctx, x: Tensor, k: int) -> Tensor:  # pyright: ignore
        ctx.kept, ctx.k = keep_rows(x.flatten(0, -2), k), k
        return ctx.kept.view(x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return pass_rows(ctx.kept, grad.flatten(0, -2), ctx.k).view(grad.shape), None


def one_by_one(x: Tensor, matrix: Tensor, bias: Tensor, nonlinearity: Nonlinearity, k: int) -> Tensor:
    mapped = FUNCTIONS[nonlinearity](F.linear(x, matrix, bias))
    return mapped if k == len(matrix) else Steps.apply(mapped, k)  # pyright: ignore


def check(matrix: Tensor, bias: Tensor, x: Tensor, nonlinearity: Nonlinearity, k: int) -> tuple[Tensor, Tensor]:
    """Compare values and gradients; the result and the gradient of x."""
    pattern, values = sparse(matrix)
    matrix, bias = matrix.clone().requires_grad_(), bias.clone().requires_grad_()
    ours, twin = map_and_keep(x, pattern, values, bias, nonlinearity, k), one_by_one(x, matrix, bias, nonlinearity, k)
    assert ours.movedim(-1, 0).is_contiguous()
    assert ((ours != 0) == (twin != 0)).all(), "near ties make the comparison moot; take another seed"
    torch.testing.assert_close(ours, twin, **CLOSE)
    towards = normal(*twin.shape, seed=4)
    d_x, d_values, d_bias = torch.autograd.grad(ours, (x, values, bias), towards)
    expected = torch.autograd.grad(twin, (x, matrix, bias), towards)
    torch.testing.assert_close(d_x, expected[0], **CLOSE)
    whole = expected[1][pattern.row_of_each(), pattern.indices.long()]
    torch.testing.assert_close(d_values, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d_bias, expected[2], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert map_and_keep(x, pattern, values, bias, nonlinearity, k).equal(ours)
    return ours.detach(), d_x


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("lead", [(16,), (64,), (5, 13), (3, 100), (257,)])
@pytest.mark.parametrize(("rows", "columns", "k", "density"), SHAPES)
def test_steps_one_by_one(
    rows: int, columns: int, k: int, density: float, lead: tuple[int, ...], nonlinearity: Nonlinearity
) -> None:
    matrix = some(normal(rows, columns), density)
    check(matrix, normal(rows, seed=3), given(lead, columns), nonlinearity, k)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("biased", [0.0, 0.4])
@pytest.mark.parametrize(("rows", "columns", "k", "density"), SHAPES)
def test_tokens_with_fewer_than_k_nonzeros_pass_every_gradient(
    rows: int, columns: int, k: int, density: float, biased: float, nonlinearity: Nonlinearity
) -> None:
    """Without a bias a row that reads zeros alone gives zero, exactly, and one without nonzeros always does."""
    matrix, bias = some(normal(rows, columns), density), some(normal(rows, seed=3), biased)
    kept, d_x = check(matrix, bias, given((3, 47), columns), nonlinearity, k)
    short = (kept != 0).sum(-1) < k
    assert biased or short.any()
    if short.any() and nonlinearity != "relu":  # whose slope at zero is zero
        assert (d_x[short] != 0).any()


@pytest.mark.parametrize("nonzero", [-1, 0, 1])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_tokens_that_all_have_nearly_k_nonzeros(k: int, nonzero: int) -> None:
    """The map is the identity, so what a token has is what the site has."""
    x = normal(70, 8)
    ranks = torch.rand(70, 8, generator=torch.Generator().manual_seed(1)).argsort(-1).argsort(-1)
    x = torch.where(ranks < k + nonzero, x, 0).requires_grad_()
    _, d_x = check(torch.eye(8), torch.zeros(8), x, "identity", k)
    assert ((d_x != 0).sum(-1) == (8 if nonzero < 0 else k)).all()


def test_ties_go_to_the_lowest_channel() -> None:
    matrix = torch.ones(9, 1)
    kept, _ = check(matrix, torch.zeros(9), given((4, 20), 1), "identity", 4)
    assert (kept[..., 4:] == 0).all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("varying", [0, 1, 3, 12])
@pytest.mark.parametrize("k", [1, 4, 20, 39, 40])
def test_rows_that_are_the_same_for_all_tokens(k: int, varying: int, nonlinearity: Nonlinearity) -> None:
    """As where masks hold most of what a map reads: constants stay, go, or compete with the rows that vary."""
    matrix, bias = some(normal(40, 16, seed=k), 0.3), some(normal(40, seed=3), 0.5)
    matrix[:, 0] = 0
    matrix[:varying, 0] = normal(varying, seed=5)
    x = normal(16, seed=6).repeat(2, 35, 1)
    x[..., 0] = normal(2, 35, seed=7)
    check(matrix[torch.randperm(40, generator=torch.Generator().manual_seed(1))], bias, lying(x), nonlinearity, k)


def test_ties_among_constants_and_rows_that_vary() -> None:
    """Ties go to the lowest index, whichever of the two it is."""
    matrix = torch.zeros(9, 2)
    matrix[[1, 4, 6], 0] = 1
    bias = torch.tensor([1.0, 0, 1, -1, 0, 1, 0, -1, 0])
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.5, 0.0]]).repeat(8, 1)
    for k in range(1, 10):
        check(matrix, bias, lying(x), "identity", k)


def lying(x: Tensor) -> Tensor:
    return activations(features(x), x.shape[:-1]).requires_grad_()


def test_gelu_from_end_to_end() -> None:
    """erf by a polynomial: 1e-6 of the exact one, and zero far below, slopes too."""
    x = torch.linspace(-12, 12, 9001)[:, None].requires_grad_()
    far = torch.tensor([-1e30, -1e6, -100.0, -0.0, 0.0, 1e-40, 100.0, 1e6, 1e30])
    with torch.no_grad():
        x[: len(far), 0] = far
    pattern, values = sparse(torch.ones(2, 1))
    y = map_and_keep(x, pattern, values, torch.zeros(2), "gelu", 2)[:, :1]
    exact = x.double()
    twin = F.gelu(exact)
    torch.testing.assert_close(y.double(), twin, rtol=1e-6, atol=1e-6)
    (ours,), (expected,) = (torch.autograd.grad(made.sum(), source) for made, source in ((y, x), (twin, exact)))
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=2e-6)
    assert (y[:3] == 0).all()


@pytest.mark.parametrize("by_feature", [True, False])
def test_inputs_as_they_lie_and_in_bfloat16(by_feature: bool) -> None:
    matrix, bias = some(normal(24, 16), 0.3), normal(24, seed=3)
    x = given((3, 20), 16, by_feature)
    check(matrix, bias, x, "gelu", 6)
    pattern, values = sparse(matrix)
    rounded = x.detach().bfloat16().requires_grad_()
    y = map_and_keep(rounded, pattern, values, bias, "gelu", 6)
    assert y.equal(map_and_keep(rounded.float(), pattern, values, bias, "gelu", 6))
    (d_x,) = torch.autograd.grad(y.sum(), rounded)
    assert d_x.dtype == torch.bfloat16


def test_module_takes_the_operator_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many tokens as a tile needs; the result is the same either way, and hooks see it."""
    pattern, values = sparse(some(normal(24, 16), 0.3))
    by, site = SparseLinear(pattern, values.detach(), normal(24, seed=3)), AbsTopK(6, 24)
    seen: list[Tensor] = []
    site.register_forward_hook(lambda module, args, out: seen.append(out))
    few, many = given((1, 15), 16), given((1, 16), 16)
    assert not sites.pays(few)
    assert sites.pays(many)
    for x in (few, many):
        y = site(x, by, "relu")
        assert seen[-1] is y
        assert is_feature_major(y)
        monkeypatch.setattr(sites, "pays", lambda x: False)
        torch.testing.assert_close(site(x, by, "relu"), y, **CLOSE)
        monkeypatch.undo()


def test_operator_keeps_the_contract_of_torch() -> None:
    pattern, values = sparse(some(normal(12, 20), 0.2))
    places = pattern.indices, pattern.indptr, pattern.csc_indices, pattern.csc_indptr, pattern.csc_order
    for code in (sites.CODES["identity"], sites.CODES["gelu"]):
        x, bias = given((2, 9), 20), normal(12).requires_grad_()
        for held in ((None, None), drawn(2, 12, None)):  # of free rows the second result means nothing
            wanted = held[0] is not None
            torch.library.opcheck(sites._map_and_keep.op, (x, values, bias, *places, *held, code, 3, wanted))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("nonlinearity", ["identity", "gelu"])
def test_compiles_as_one_graph(nonlinearity: Nonlinearity, backend: str) -> None:
    pattern, values = sparse(some(normal(12, 20), 0.2))
    mean, mask = drawn(2, 12, 0.5)
    leaves = given((2, 9), 20), values, normal(12).requires_grad_(), mask

    def work(x: Tensor, values: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        free = map_and_keep(2 * x, pattern, values, bias, nonlinearity, 3)
        held = map_and_keep(3 * x, pattern, values, bias, nonlinearity, 3, Ablation(mean, mask))
        return (free + held).square().sum()

    torch._dynamo.reset()
    expected, ours = work(*leaves), torch.compile(work, backend=backend, fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_there_is_no_second_derivative() -> None:
    """It is refused, not silently taken for zero."""
    pattern, values = sparse(some(normal(12, 20), 0.2))
    x = given((2, 9), 20)
    y = map_and_keep(x, pattern, values, normal(12), "gelu", 3)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def drawn(trials: int, width: int, share: float | None) -> Ablation:
    """A mask of zeros and ones, of numbers between if there is no share of ones, and means."""
    numbers = torch.rand(trials, width, generator=torch.Generator().manual_seed(3))
    mask = numbers if share is None else (numbers < share).float()
    return Ablation(normal(width, seed=2), mask.requires_grad_())


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, None])
@pytest.mark.parametrize(("trials", "lead"), [(1, (3, 41)), (3, (6, 7)), (2, (4, 150)), (5, (5, 64)), (40, (40, 1))])
@pytest.mark.parametrize(("rows", "columns", "k", "density"), SHAPES)
def test_holding_in_the_operator_is_holding_after_it(
    rows: int,
    columns: int,
    k: int,
    density: float,
    trials: int,
    lead: tuple[int, ...],
    share: float | None,
    nonlinearity: Nonlinearity,
) -> None:
    """Wide and high matrices, trials that share tiles, tokens with fewer than k nonzeros, and constant rows."""
    held, matrix = drawn(trials, rows, share), some(normal(rows, columns), density)
    matrix[::7] = 0
    (pattern, values), x = sparse(matrix), given(lead, columns)
    bias = some(normal(rows, seed=3), 0.4).requires_grad_()
    ours = map_and_keep(x, pattern, values, bias, nonlinearity, k, held)
    twin = held.hold(map_and_keep(x, pattern, values, bias, nonlinearity, k))
    torch.testing.assert_close(ours, twin, **CLOSE)
    leaves, towards = (x, held.mask, values, bias), normal(*twin.shape, seed=4)
    towards[..., ::3] = 0  # rows without a gradient
    expected = torch.autograd.grad(twin, leaves, towards)
    for one, other in zip(torch.autograd.grad(ours, leaves, towards), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    (alone,) = torch.autograd.grad(
        map_and_keep(x.detach(), pattern, values.detach(), bias.detach(), nonlinearity, k, held), held.mask, towards
    )
    torch.testing.assert_close(alone, expected[1], rtol=1e-4, atol=1e-4)
    fixed = Ablation(held.mean, held.mask.detach())
    (d_x,) = torch.autograd.grad(map_and_keep(x, pattern, values, bias, nonlinearity, k, fixed), x, towards)
    torch.testing.assert_close(d_x, expected[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert map_and_keep(x, pattern, values, bias, nonlinearity, k, held).equal(ours)


@pytest.mark.parametrize(
    ("mean", "mask"), [((23,), (2, 24)), ((24,), (2, 25)), ((24,), (4, 24)), ((24,), (24,)), ((24,), (0, 24))]
)
def test_a_mask_that_does_not_fit_is_refused(mean: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Kernels look at no bounds."""
    pattern, values = sparse(some(normal(24, 16), 0.3))
    held, x = Ablation(torch.zeros(mean), torch.ones(mask)), given((2, 9), 16)
    with pytest.raises(ValueError, match="cannot hold 24 nodes of 18 tokens"):
        map_and_keep(x, pattern, values, normal(24), "relu", 6, held)
    with pytest.raises(ValueError, match="cannot hold 24 nodes of 18 tokens"):
        held.hold(pattern.multiply(x, values, normal(24)))


def test_means_have_no_gradient() -> None:
    """It is refused, not silently left out."""
    held = Ablation(torch.zeros(16, requires_grad=True), torch.ones(1, 16))
    with pytest.raises(ValueError, match="detach"):
        held.hold(given((2, 9), 16))
