"""How a sublayer reads the residual stream in one operator, against its steps."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import data, sampled_from
from torch import Tensor

from tests.engine.test_attention_kernel import normal, some
from thinwire.engine.layout import is_feature_major
from thinwire.engine.sites import norm_operator as reads
from thinwire.engine.sites.norm_operator import norm_and_keep
from thinwire.engine.sites.pointwise import Ablation, rms_norm
from thinwire.model.abstopk import AbsTopK, abstopk
from thinwire.model.norms import RMSNorm

EPSILON = 1e-5


def by_feature(rows: Tensor) -> Tensor:
    """[width, batch, pos] as [batch, pos, width], a leaf that lies as it did."""
    return rows.contiguous().movedim(0, -1).requires_grad_()


@dataclass
class Case:
    """A residual stream, a gain, and nodes to hold."""

    x: Tensor
    gain: Tensor
    k: int
    held: Ablation | None

    @classmethod
    def of(cls, width: int, batch: int, pos: int, k: int, trials: int = 0, seed: int = 0, share: float = 1.0) -> "Case":
        """Some of the stream is zero, and masks have ones and zeros, too."""
        x = by_feature(some(normal(width, batch, pos, seed=seed), share, seed + 1))
        held = None
        if trials:
            mask = (1.5 * torch.rand(trials, width, generator=torch.Generator().manual_seed(seed + 2)) - 0.2).clamp(
                0, 1
            )
            held = Ablation(normal(width, seed=seed + 3), mask.requires_grad_())
        return cls(x, 1 + 0.3 * normal(width, seed=seed + 4), k, held)

    def steps(self) -> Tensor:
        """One operator after the other."""
        y = rms_norm(self.x, self.gain, EPSILON)[0]
        y = y if self.k == len(self.gain) else abstopk(y, self.k)
        return y if self.held is None else self.held.hold(y)

    def check(self) -> None:
        """Values are the same but for rounding, gradients close."""
        ours, steps = norm_and_keep(self.x, self.gain, EPSILON, self.k, self.held), self.steps()
        torch.testing.assert_close(ours, steps, rtol=1e-6, atol=1e-6)
        assert is_feature_major(ours) == is_feature_major(steps)
        leaves = [self.x] if self.held is None else [self.x, self.held.mask]
        towards = normal(*ours.shape, seed=99)
        for mine, theirs in zip(
            torch.autograd.grad(ours, leaves, towards), torch.autograd.grad(steps, leaves, towards), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            assert torch.equal(norm_and_keep(self.x, self.gain, EPSILON, self.k, self.held), ours)


@pytest.mark.parametrize("trials", [0, 1, 2])
@pytest.mark.parametrize(("width", "k"), [(1, 1), (9, 3), (64, 16), (130, 130), (300, 1)])
@pytest.mark.parametrize("pos", [1, 33, 200])
def test_operator_is_its_steps(width: int, k: int, pos: int, trials: int) -> None:
    Case.of(width, 2, pos, k, trials).check()


@settings(max_examples=100, deadline=None)
@given(data())
def test_any_stream(draw) -> None:
    """Tokens of few nonzeros, where all passes, and of none at all."""

    def pick(*choices: float) -> int:
        return draw.draw(sampled_from(choices))

    width = pick(2, 5, 40, 129)
    trials, seed = pick(0, 1, 3), pick(*range(40))  # fixed ones: another may have a near tie
    k = min(width, pick(1, 4, 30))
    Case.of(width, pick(1, 2) * max(trials, 1), pick(1, 5, 65), k, trials, seed, pick(0.02, 0.2, 1.0)).check()


def test_gradients_only_where_they_are_wanted() -> None:
    case = Case.of(40, 2, 30, 10, 2)
    assert case.held is not None
    x, towards = case.x.detach(), normal(2, 30, 40, seed=5)
    ours = norm_and_keep(x, case.gain, EPSILON, case.k, case.held)
    (mine,) = torch.autograd.grad(ours, case.held.mask, towards)
    (theirs,) = torch.autograd.grad(case.steps(), case.held.mask, towards)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    fixed = Case(case.x, case.gain, case.k, Ablation(case.held.mean, case.held.mask.detach()))
    (mine,) = torch.autograd.grad(norm_and_keep(fixed.x, fixed.gain, EPSILON, fixed.k, fixed.held), fixed.x, towards)
    (theirs,) = torch.autograd.grad(fixed.steps(), fixed.x, towards)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_misfit_masks_are_refused() -> None:
    case = Case.of(8, 3, 4, 2)
    with pytest.raises(ValueError, match="cannot hold 8 nodes of 12 tokens"):
        norm_and_keep(case.x, case.gain, EPSILON, 2, Ablation(torch.zeros(8), torch.ones(5, 8)))


def test_operator_keeps_the_contract_of_torch() -> None:
    case, mask = Case.of(8, 2, 5, 3), torch.full((2, 8), 0.5).requires_grad_()  # of free rows flags mean nothing
    torch.library.opcheck(reads._norm_and_keep.op, (case.x, case.gain, torch.ones(8), mask, EPSILON, 3, True))
    torch.library.opcheck(reads._norm_and_keep.op, (case.x, case.gain, None, None, EPSILON, 3, False))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(backend: str) -> None:
    case = Case.of(12, 2, 9, 4, 2)
    assert case.held is not None
    held = case.held

    def work(x: Tensor) -> Tensor:
        return norm_and_keep(2 * x, case.gain, EPSILON, 4, held).square().sum()

    torch._dynamo.reset()
    expected, ours = work(case.x), torch.compile(work, backend=backend, fullgraph=True)(case.x)
    torch.testing.assert_close(ours, expected)
    leaves = case.x, held.mask
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves))


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_however_many_threads_share_the_work(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is NaN here, and all of it is written."""
    monkeypatch.setattr(reads.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(reads, "use_threads", lambda: None)
    torch.use_deterministic_algorithms(True)
    try:
        for width, pos in ((1, 1), (5, 70), (40, 200), (70, 300)):
            Case.of(width, 2, pos, max(1, width // 4), 2, share=0.5).check()
    finally:
        torch.use_deterministic_algorithms(False)


def test_module_takes_the_operator_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where x lies by feature and the gain is fixed, and where there is anything to do but to norm."""
    taken: list[bool] = []
    monkeypatch.setattr(reads, "norm_and_keep", lambda *args: (taken.append(True), norm_and_keep(*args))[1])
    norm, x = RMSNorm(16, eps=EPSILON).requires_grad_(False), by_feature(normal(16, 2, 20))
    site, free = AbsTopK(4, 16), AbsTopK(16, 16)
    ours = site(x, norm)
    assert taken == [True]
    torch.testing.assert_close(ours, site(x.contiguous(), norm))
    free(x, norm)
    assert taken == [True]
    torch.testing.assert_close(ours, site(x, norm.requires_grad_()))
    assert taken == [True]
