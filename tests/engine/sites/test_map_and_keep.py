"""From site to site in one operator, against the steps: a map, a nonlinearity, AbsTopK, ablation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.engine.checks import CLOSE, NONLINEARITIES, check_map, check_site
from tests.engine.inputs import case, draw_ablation, feature_major, generator, grid, normal, sparse, thinned
from thinwire.compiled.modules import SparseLinear
from thinwire.engine.layout import is_feature_major
from thinwire.engine.sites import operator as sites
from thinwire.engine.sites.operator import Nonlinearity, map_and_keep
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.spmm import operators as spmm
from thinwire.model import AbsTopK

SHAPES = [(24, 16, 6, 0.3), (24, 16, 24, 0.3), (65, 7, 64, 0.15), (3, 40, 1, 0.1), (130, 33, 32, 0.05)]
"""Rows, columns, k, density; k is the width, one fewer, one, and a quarter."""


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_drawn_sites(nonlinearity: Nonlinearity) -> None:
    """High and wide maps, with constant rows, and tokens with fewer than k nonzeros, free of ablation."""
    for shape in SHAPES:
        for seed, lead in enumerate([(16,), (64,), (5, 13), (3, 100), (257,)]):
            with case(shape, lead, seed):
                check_site(shape, lead, nonlinearity, 0, seed)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_drawn_sites_with_ablation(nonlinearity: Nonlinearity) -> None:
    """Masks of every kind; trials that share tiles, end with one, or are single tokens."""
    for i, shape in enumerate(SHAPES):
        for j, (trials, lead) in enumerate([(1, (3, 41)), (3, (6, 7)), (2, (4, 150)), (5, (5, 64)), (40, (40, 1))]):
            for seed in (i + j, i + j + 1):  # which kind of mask
                with case(shape, trials, lead, seed):
                    check_site(shape, lead, nonlinearity, trials, seed)


def test_tokens_with_nearly_k_nonzeros() -> None:
    """The map is the identity, so that a token has as many nonzeros as the site. Short ones pass every gradient."""
    for k in (1, 2, 7):
        for nonzero in (-1, 0, 1):
            ranks = torch.rand(70, 8, generator=generator(1)).argsort(-1).argsort(-1)
            x = torch.where(ranks < k + nonzero, normal(70, 8), 0).requires_grad_()
            with case(k, nonzero):
                check_map(torch.eye(8), torch.zeros(8), x, "identity", k)
                pattern, values = sparse(torch.eye(8))
                y = map_and_keep(x, pattern, values, torch.zeros(8), "identity", k)
                (d_x,) = torch.autograd.grad(y.sum(), x)
                assert ((d_x != 0).sum(-1) == (8 if nonzero < 0 else k)).all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES[:2])
def test_rows_that_are_the_same_for_all_tokens(nonlinearity: Nonlinearity) -> None:
    """As where masks ablate most of what a map reads: constants stay, go, or compete with the rows that vary."""
    for k in (1, 4, 20, 39, 40):
        for varying in (0, 1, 3, 12):
            matrix, bias = thinned(grid(40, 16, seed=k), 0.3), thinned(grid(40, seed=3), 0.5)
            matrix[:, 0] = 0
            matrix[:varying, 0] = normal(varying, seed=5).sign()
            x = grid(16, seed=6).repeat(2, 35, 1)
            x[..., 0] = grid(2, 35, seed=7)
            order = torch.randperm(40, generator=generator(1))
            with case(k, varying):
                check_map(matrix[order], bias, feature_major(x), nonlinearity, k)


def test_ties_go_to_the_lowest_channel() -> None:
    """Whether rows are constant or vary."""
    x = feature_major(grid(4, 20, 1))
    kept, _ = check_map(torch.ones(9, 1), torch.zeros(9), x, "identity", 4)
    assert (kept[..., 4:] == 0).all()
    matrix, bias = torch.zeros(9, 2), torch.tensor([1.0, 0, 1, -1, 0, 1, 0, -1, 0])
    matrix[[1, 4, 6], 0] = 1
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.5, 0.0]]).repeat(8, 1)
    for k in range(1, 10):
        with case(k):
            check_map(matrix, bias, feature_major(x), "identity", k)


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
    (ours,), (expected,) = (torch.autograd.grad(result.sum(), leaf) for result, leaf in ((y, x), (twin, exact)))
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=2e-6)
    assert (y[:3] == 0).all()


def test_layouts_and_bfloat16() -> None:
    matrix, bias, x = thinned(grid(24, 16), 0.3), grid(24, seed=3), grid(3, 20, 16)
    for each in (feature_major(x), x.requires_grad_()):
        check_map(matrix, bias, each, "relu", 6)
    (pattern, values), rounded = sparse(matrix), x.detach().bfloat16().requires_grad_()
    y = map_and_keep(rounded, pattern, values, bias, "gelu", 6)
    assert y.equal(map_and_keep(rounded.float(), pattern, values, bias, "gelu", 6))
    assert torch.autograd.grad(y.sum(), rounded)[0].dtype == torch.bfloat16


def test_module_uses_the_operator_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many tokens as a tile needs; the result is the same either way, and hooks get it."""
    pattern, values = sparse(thinned(normal(24, 16), 0.3))
    by, site = SparseLinear(pattern, values.detach(), normal(24, seed=3)), AbsTopK(6, 24)
    seen: list[Tensor] = []
    site.register_forward_hook(lambda module, args, out: seen.append(out))
    few, many = feature_major(normal(1, 15, 16)), feature_major(normal(1, 16, 16))
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
    pattern, values = sparse(thinned(normal(12, 20), 0.2))
    for code in (sites.CODES["identity"], sites.CODES["gelu"]):
        x, bias = feature_major(normal(2, 9, 20)), normal(12).requires_grad_()
        for constants, mask in ((None, None), draw_ablation(2, 12, None)):
            if mask is not None:  # flags of rows that are not ablated are not written
                mask = mask.detach().clamp(max=0.5).requires_grad_()
            how = [code, 3, int(mask is not None)]
            torch.library.opcheck(sites._map_and_keep.op, (x, values, bias, mask, constants, pattern.tensors, how))


@pytest.mark.parametrize("nonlinearity", ["identity", "gelu"])
def test_compiles_as_one_graph(nonlinearity: Nonlinearity) -> None:
    pattern, values = sparse(thinned(normal(12, 20), 0.2))
    ablation = draw_ablation(2, 12, 0.5)
    leaves = feature_major(normal(2, 9, 20)), values, normal(12).requires_grad_(), ablation.mask

    def work(x: Tensor, values: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        free = map_and_keep(2 * x, pattern, values, bias, nonlinearity, 3)
        ablated = map_and_keep(3 * x, pattern, values, bias, nonlinearity, 3, Ablation(ablation.values, mask))
        return (free + ablated).square().sum()

    torch._dynamo.reset()
    expected, ours = work(*leaves), torch.compile(work, backend="aot_eager", fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_ablations_that_do_not_fit_are_refused() -> None:
    """Kernels do not check bounds; constants have no gradient."""
    (pattern, values), x = sparse(thinned(normal(24, 16), 0.3)), feature_major(normal(2, 9, 16))
    for constants, mask in ((23, (2, 24)), (24, (2, 25)), (24, (4, 24)), (24, (24,)), (24, (0, 24))):
        ablation = Ablation(torch.zeros(constants), torch.ones(mask))
        with pytest.raises(ValueError, match="does not fit 24 nodes of 18 tokens"):
            map_and_keep(x, pattern, values, normal(24), "relu", 6, ablation)
        with pytest.raises(ValueError, match="does not fit 24 nodes of 18 tokens"):
            ablation.apply(spmm.multiply(x, pattern, values, normal(24)))
    with pytest.raises(ValueError, match="detach"):
        Ablation(torch.zeros(16, requires_grad=True), torch.ones(1, 16)).apply(x)
