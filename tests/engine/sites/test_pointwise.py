"""RMSNorm and ablation of nodes on feature-major activations, against PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.engine.checks import check_pointwise
from tests.engine.inputs import case, draw_ablation, feature_major, normal
from thinwire.engine.layout import is_feature_major
from thinwire.engine.sites import pointwise
from thinwire.engine.sites.pointwise import Ablation
from thinwire.model.norms import RMSNorm, ScaleRecorder, frozen
from thinwire.model.taps import ablate_masks
from thinwire.sites import Site

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_drawn_activations() -> None:
    """Fewer tokens than a block, and more; trials of several blocks, and of single tokens."""
    for width in (2, 24, 257):
        for trials, lead in [(1, (3, 5)), (3, (6, 7)), (2, (2, 1)), (4, (8, 70)), (2, (4, 3, 2)), (1, (2, 130))]:
            for share in (0.0, 0.5, 1.0, None):
                with case(width, trials, lead, share):
                    check_pointwise(lead, width, trials, share, 0.1 if share else 1e-6)


def test_module_is_the_norm_of_torch() -> None:
    for epsilon in (None, 0.1):
        norm = RMSNorm(24, eps=epsilon)
        with torch.no_grad():
            norm.weight.copy_(normal(24, seed=1))
        x = feature_major(normal(3, 70, 24))
        y = norm(x)
        assert is_feature_major(y)
        torch.testing.assert_close(y, F.rms_norm(x, (24,), norm.weight, epsilon), **CLOSE)
        torch.testing.assert_close(norm(x.contiguous()), y, **CLOSE)
    zeros = feature_major(torch.zeros(2, 3, 24))
    y = norm(zeros)
    assert not y.any()
    assert torch.autograd.grad(y.sum(), zeros)[0].isfinite().all()


def test_scales_are_recorded_and_frozen_in_either_layout() -> None:
    norm, x = RMSNorm(8), feature_major(normal(2, 3, 8)).detach()
    seen, other = ScaleRecorder(), ScaleRecorder()
    y = seen(0, norm, x)
    other(0, norm, x.contiguous())
    torch.testing.assert_close(seen.scales[0], other.scales[0])
    torch.testing.assert_close(frozen(seen.scales)(0, norm, x), y, **CLOSE)
    torch.testing.assert_close(frozen(seen.scales, 2)(0, norm, torch.cat([x, x])), torch.cat([y, y]), **CLOSE)


def test_ablation_is_exact_at_zero_and_one() -> None:
    """Infinite activations that are ablated leave nothing behind."""
    x, values = feature_major(normal(4, 5, 12)), 1e8 * normal(12, seed=2)
    y = pointwise.ablate(x, values, torch.stack([torch.ones(12), torch.zeros(12)]))
    assert y[:2].equal(x[:2])
    assert y[2:].equal(values.expand(2, 5, -1))
    infinite = feature_major(torch.cat([torch.full((2, 3, 1), torch.inf), normal(2, 3, 3)], -1))
    assert pointwise.ablate(infinite, torch.zeros(4), torch.tensor([[0.0, 1, 1, 1]])).isfinite().all()


def test_masks_as_a_tap_in_either_layout() -> None:
    """Gradients of the masks too; a mask may be one row for all trials."""
    site = Site.parse("0.mlp.post_act")
    constants = {site: normal(12, seed=2)}
    for mask in (draw_ablation(3, 12, None).mask, torch.ones(1, 12).expand(3, -1).clone().requires_grad_()):
        tap, x = ablate_masks({site: mask}, constants), feature_major(normal(6, 7, 12))
        y, twin = tap(site, x), tap(site, x.contiguous())
        assert is_feature_major(y)
        assert twin.is_contiguous()
        torch.testing.assert_close(y, twin, **CLOSE)
        towards = normal(*y.shape, seed=9)
        for ours, expected in zip(
            torch.autograd.grad(y, (x, mask), towards), torch.autograd.grad(twin, (x, mask), towards), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        detached = ablate_masks({site: mask.detach()}, constants)
        assert detached(site, x.detach()).equal(y.detach())


def test_inputs_that_are_supported() -> None:
    x = feature_major(normal(2, 3, 8))
    assert pointwise.is_supported(x)
    others = x.contiguous(), x.double(), x.bfloat16(), x[..., :1], normal(8)
    assert not any(map(pointwise.is_supported, others))


def test_operators_keep_the_contract_of_torch() -> None:
    x, gain = feature_major(normal(4, 3, 8)), normal(8, seed=1).requires_grad_()
    torch.library.opcheck(pointwise.rms_norm.op, (x, gain, 1e-5))
    torch.library.opcheck(pointwise.ablate.op, (x, *draw_ablation(2, 8, None)))


def test_compiles_as_one_graph() -> None:
    norm, ablation = RMSNorm(8), draw_ablation(2, 8, None)
    leaves = feature_major(normal(4, 3, 8)), ablation.mask

    def work(x: Tensor, mask: Tensor) -> Tensor:
        return Ablation(ablation.values, mask).apply(norm(x)).square().sum()

    torch._dynamo.reset()
    expected, ours = work(*leaves), torch.compile(work, backend="aot_eager", fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)
