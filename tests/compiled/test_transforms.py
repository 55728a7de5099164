"""Compiled models under transforms: traced ones are computed, those without a rule are refused in a sentence."""

from collections.abc import Callable

import pytest
import torch
from tiny import tiny_prompts
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from twins import CLOSE, twins

from thinwire.engine.layout import is_feature_major
from thinwire.model import Transformer


@pytest.mark.parametrize("variant", ["plain", pytest.param("concatenated", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(variant: str) -> None:
    """Logits, and the gradient of a residual point."""
    _, model = twins(variant)
    tokens = tiny_prompts(model, 2, 70)
    torch._dynamo.reset()
    with torch.no_grad():
        logits = torch.compile(model, backend="aot_eager", fullgraph=True)(tokens)
        torch.testing.assert_close(logits, model(tokens), **CLOSE)
    resid = model.embed(tokens).requires_grad_()

    def loss(resid: Tensor) -> Tensor:
        return model.unembed(model.run(resid), tokens).square().sum()

    expected, ours = loss(resid), torch.compile(loss, backend="aot_eager", fullgraph=True)(resid)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, resid), torch.autograd.grad(expected, resid), **CLOSE)


@torch.no_grad()
def test_tensors_without_data(model: Transformer) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = model(torch.zeros(2, 70, dtype=torch.int64))
    assert logits.shape == (2, 70, 20)
    assert is_feature_major(logits)


def vmap(model: Transformer, resid: Tensor) -> object:
    return torch.vmap(model.run)(resid[None])


def jvp(model: Transformer, resid: Tensor) -> object:
    return torch.func.jvp(model.run, (resid,), (torch.ones_like(resid),))


def functional_gradient(model: Transformer, resid: Tensor) -> object:
    return torch.func.grad(lambda x: model.run(x).sum())(resid)


def dual(model: Transformer, resid: Tensor) -> object:
    with forward_ad.dual_level():
        return model.run(forward_ad.make_dual(resid, torch.ones_like(resid)))


def second_derivative(model: Transformer, resid: Tensor) -> object:
    leaf = resid.detach().clone().requires_grad_()
    return torch.autograd.grad(model.run(leaf).square().sum(), leaf, create_graph=True)


TRANSFORMS = {vmap: "vmap, jvp and other", jvp: "vmap, jvp", functional_gradient: "vmap, jvp", dual: "vmap, jvp"}
TRANSFORMS |= {second_derivative: "leave create_graph out"}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, where it prepares dual numbers
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("tokens", [4, 70], ids=["few tokens", "many tokens"])
def test_other_derivatives_are_refused(
    transform: Callable[[Transformer, Tensor], object], tokens: int, model: Transformer
) -> None:
    """Where layers would be fused, and where too few tokens run site by site."""
    resid = model.embed(tiny_prompts(model, 2, tokens))
    with pytest.raises(NotImplementedError, match=TRANSFORMS[transform]) as raised:
        transform(model, resid)
    assert str(raised.value).startswith("thinwire has first derivatives in backward mode alone: ")
    assert str(raised.value).count(".") == 1
    assert model.run(resid).isfinite().all(), "the next pass is as before"
