"""RMSNorm and holding nodes on feature-major activations, against the same in torch expressions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from thinwire.engine.layout import activations, features, is_feature_major
from thinwire.engine.sites import pointwise
from thinwire.model.norms import RMSNorm, ScaleRecorder, frozen
from thinwire.model.taps import Tap
from thinwire.model.taps import ablate_masks as Hold
from thinwire.sites import Site

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
LEADS = [(3, 5), (1, 2), (2, 130), (6, 43), (1, 1, 7)]
"""Batch dimensions: fewer tokens than a block of 256, and more."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_feature(lead: tuple[int, ...], width: int, seed: int = 0) -> Tensor:
    return activations(features(normal(*lead, width, seed=seed)), lead)


def gradients(y: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    towards = normal(*y.shape, seed=9)
    return torch.autograd.grad((y * towards.to(y)).sum(), leaves)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("width", [2, 24, 257])
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_norm_is_the_one_of_torch(lead: tuple[int, ...], width: int, epsilon: float | None) -> None:
    norm = RMSNorm(width, eps=epsilon)
    with torch.no_grad():
        norm.weight.copy_(normal(width, seed=1))
    x = by_feature(lead, width)
    x[0, 0] *= 1e-4
    x.requires_grad_()
    assert pointwise.takes(x)
    y = norm(x)
    assert is_feature_major(y)
    epsilon = torch.finfo(torch.float32).eps if epsilon is None else epsilon
    weight, precise = (leaf.detach().double().requires_grad_() for leaf in (norm.weight, x))
    twin = F.rms_norm(precise, (width,), weight, epsilon)
    torch.testing.assert_close(y.double(), twin, **CLOSE)
    (d_x, d_gain), expected = gradients(y, x, norm.weight), gradients(twin, precise, weight)
    assert is_feature_major(d_x)
    torch.testing.assert_close(d_x.double(), expected[0], rtol=1e-4, atol=1e-3)  # of tiny tokens, which are large
    torch.testing.assert_close(d_gain.double(), expected[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm(x.detach().contiguous()), y.detach(), **CLOSE)


def test_norm_of_nothing_is_nothing() -> None:
    norm = RMSNorm(8)
    x = by_feature((2, 3), 8).zero_().requires_grad_()
    y = norm(x)
    assert not y.any()
    (d_x,) = gradients(y, x)
    assert d_x.isfinite().all()


def test_scales_are_recorded_and_frozen_whatever_lies_where() -> None:
    norm = RMSNorm(8)
    x = by_feature((2, 3), 8)
    seen, other = ScaleRecorder(), ScaleRecorder()
    y = seen(0, norm, x)
    other(0, norm, x.contiguous())
    torch.testing.assert_close(seen.scales[0], other.scales[0])
    torch.testing.assert_close(frozen(seen.scales)(0, norm, x), y, **CLOSE)
    torch.testing.assert_close(frozen(seen.scales, 2)(0, norm, torch.cat([x, x])), torch.cat([y, y]), **CLOSE)


def held(x: Tensor, mean: Tensor, mask: Tensor) -> Tensor:
    """What `hold` stands for: x moved towards the mean where the mask of its trial is 0."""
    folded = x.unflatten(0, (len(mask), -1))
    mask = mask.view(len(mask), *[1] * (folded.ndim - 2), -1)
    return (mean + mask * (folded - mean)).flatten(0, 1)


@pytest.mark.parametrize(("trials", "lead"), [(1, (3, 5)), (3, (6, 7)), (2, (2, 1)), (4, (8, 70)), (2, (4, 3, 2))])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, None])
def test_hold_and_its_gradients(trials: int, lead: tuple[int, ...], share: float | None) -> None:
    """Masks of zeros and ones, and between."""
    drawn = torch.rand(trials, 12, generator=torch.Generator().manual_seed(3))
    mask = (drawn if share is None else (drawn < share).float()).requires_grad_()
    x, mean = by_feature(lead, 12).requires_grad_(), normal(12, seed=2)
    y, twin = pointwise.hold(x, mean, mask), held(x, mean, mask)
    assert is_feature_major(y)
    torch.testing.assert_close(y, twin, **CLOSE)
    for ours, expected in zip(gradients(y, x, mask), gradients(twin, x, mask), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_hold_is_exact_at_zero_and_one() -> None:
    x, mean = by_feature((4, 5), 12), 1e8 * normal(12, seed=2)
    mask = torch.stack([torch.ones(12), torch.zeros(12)])
    y = pointwise.hold(x, mean, mask)
    assert y[:2].equal(x[:2])
    assert y[2:].equal(mean.expand(2, 5, -1))


def test_infinite_means_and_nodes_that_are_held_do_not_meet() -> None:
    x = by_feature((2, 3), 4)
    x[..., 0] = torch.inf
    y = pointwise.hold(x, torch.zeros(4), torch.tensor([[0.0, 1, 1, 1]]))
    assert y.isfinite().all()


def test_tap_of_masks_takes_activations_as_they_lie() -> None:
    """On every layout the same, gradients of the masks too; a mask may be one row for all trials."""
    site = Site.parse("0.mlp.post_act")
    means = {site: normal(12, seed=2)}
    for hard in (torch.rand(3, 12, generator=torch.Generator().manual_seed(3)), torch.ones(1, 12).expand(3, -1)):
        mask = hard.clone().requires_grad_()
        tap: Tap = Hold({site: mask}, means)
        x = by_feature((6, 7), 12).requires_grad_()
        y, twin = tap(site, x), tap(site, x.contiguous())
        assert is_feature_major(y)
        assert twin.is_contiguous()
        torch.testing.assert_close(y, twin, **CLOSE)
        for ours, expected in zip(gradients(y, x, mask), gradients(twin, x, mask), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        assert Hold({site: hard}, means)(site, x.detach()).equal(y.detach())


def test_what_the_operators_take() -> None:
    x = by_feature((2, 3), 8)
    assert pointwise.takes(x)
    assert not any(map(pointwise.takes, (x.contiguous(), x.double(), x.bfloat16(), x[..., :1], normal(8))))


def test_operators_keep_the_contract_of_torch() -> None:
    x, gain = by_feature((4, 3), 8).requires_grad_(), normal(8, seed=1).requires_grad_()
    torch.library.opcheck(pointwise.rms_norm.op, (x, gain, 1e-5))
    mask = torch.rand(2, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    torch.library.opcheck(pointwise.hold.op, (x, normal(8, seed=2), mask))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(backend: str) -> None:
    norm = RMSNorm(8)
    mean, mask = normal(8, seed=2), torch.rand(2, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    leaves = by_feature((4, 3), 8).requires_grad_(), mask

    def work(x: Tensor, mask: Tensor) -> Tensor:
        return pointwise.hold(norm(x), mean, mask).square().sum()

    torch._dynamo.reset()
    expected, ours = work(*leaves), torch.compile(work, backend=backend, fullgraph=True)(*leaves)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)
