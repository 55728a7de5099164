"""How a sublayer reads the residual stream in one operator, against the steps: RMSNorm, AbsTopK, ablation."""

import pytest
import torch
from torch import Tensor

from tests.engine.checks import check_norm
from tests.engine.inputs import case, draw_ablation, feature_major, nan_memory, normal
from thinwire.engine.sites import norm_operator
from thinwire.engine.sites.norm_operator import norm_and_keep
from thinwire.engine.sites.pointwise import Ablation
from thinwire.model.abstopk import AbsTopK
from thinwire.model.norms import RMSNorm

EPSILON = 1e-5


def test_drawn_streams() -> None:
    """Tokens of few nonzeros, which pass every gradient, and of none at all."""
    for width, k in ((1, 1), (2, 1), (5, 4), (9, 3), (40, 30), (64, 16), (130, 130), (300, 1)):
        for pos in (1, 5, 33, 65, 200):
            for trials in (0, 1, 3):
                for seed, share in enumerate((0.02, 0.2, 1.0)):
                    with case(width, k, pos, trials, share):
                        check_norm(width, k, (2 * max(1, trials), pos), trials, seed, share)


def test_any_number_of_threads_shares_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of new memory is written."""
    monkeypatch.setattr(norm_operator, "use_threads", lambda: None)
    with nan_memory():
        for threads in (1, 2, 3, 8, 64):
            monkeypatch.setattr(norm_operator.torch, "get_num_threads", lambda n=threads: n)
            for width, pos in ((1, 1), (5, 70), (40, 200), (70, 300)):
                with case(threads, width, pos):
                    check_norm(width, max(1, width // 4), (2, pos), 2, share=0.5)


def test_ablations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 8 nodes of 12 tokens"):
        norm_and_keep(
            feature_major(normal(3, 4, 8)), torch.ones(8), EPSILON, 2, Ablation(torch.zeros(8), torch.ones(5, 8))
        )


def test_operator_keeps_the_contract_of_torch() -> None:
    x, gain = feature_major(normal(2, 5, 8)), torch.ones(8)
    mask = torch.full((2, 8), 0.5).requires_grad_()  # flags of nodes that are not ablated are not written
    torch.library.opcheck(norm_operator._norm_and_keep.op, (x, gain, torch.ones(8), mask, EPSILON, 3, True))
    torch.library.opcheck(norm_operator._norm_and_keep.op, (x, gain, None, None, EPSILON, 3, False))


def test_compiles_as_one_graph() -> None:
    x, gain, ablation = feature_major(normal(2, 9, 12)), torch.ones(12), draw_ablation(2, 12, None)

    def work(x: Tensor) -> Tensor:
        return norm_and_keep(2 * x, gain, EPSILON, 4, ablation).square().sum()

    torch._dynamo.reset()
    expected, ours = work(x), torch.compile(work, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(ours, expected)
    leaves = x, ablation.mask
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves))


def test_module_uses_the_operator_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where x lies by feature and the gain is fixed, and where there is anything to do but to norm."""
    used: list[bool] = []
    monkeypatch.setattr(norm_operator, "norm_and_keep", lambda *args: (used.append(True), norm_and_keep(*args))[1])
    norm, x = RMSNorm(16, eps=EPSILON).requires_grad_(False), feature_major(normal(2, 20, 16))
    site, identity = AbsTopK(4, 16), AbsTopK(16, 16)
    ours = site(x, norm)
    assert used == [True]
    torch.testing.assert_close(ours, site(x.contiguous(), norm))
    identity(x, norm)
    assert used == [True]
    torch.testing.assert_close(ours, site(x, norm.requires_grad_()))
    assert used == [True]
