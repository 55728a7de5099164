"""What operators refuse: second derivatives and transforms."""

import pytest
import torch
from torch import Tensor

from tests.engine.inputs import feature_major, normal, sparse
from thinwire.engine.operator import differentiable_once
from thinwire.engine.sites import pointwise
from thinwire.engine.spmm.operators import multiply
from thinwire.model.abstopk import abstopk

REFUSAL = "thinwire has first derivatives in backward mode alone"


PATTERN, VALUES = sparse(torch.eye(4))


def product(x: Tensor) -> Tensor:
    return multiply(x, PATTERN, VALUES, torch.zeros(4))


def test_second_derivatives_are_refused() -> None:
    """They would silently count gradients as constants."""
    norm = lambda x: pointwise.rms_norm(x, torch.ones(4), 1e-5)[0]  # noqa: E731
    for function in (product, norm, differentiable_once, lambda x: abstopk(x, 2)):
        x = feature_major(normal(2, 3, 4))
        with pytest.raises(NotImplementedError, match=f"{REFUSAL}: leave create_graph out"):
            torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        torch.autograd.grad(function(x).square().sum(), x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_transforms_are_refused() -> None:
    x = normal(5, 3, 4)
    for transformed in (
        lambda: torch.vmap(product)(x),
        lambda: torch.func.jvp(product, (x,), (x,)),
        lambda: torch.func.grad(lambda x: product(x).sum())(x),
    ):
        with pytest.raises(NotImplementedError, match=REFUSAL):
            transformed()
