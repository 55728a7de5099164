"""AbsTopK: keep the k largest magnitudes of a token's channels and zero the rest (Gao et al. 2025, A.1)."""

from torch import Tensor, nn

from thinwire.engine.layout import activations, empty_activations, features, is_feature_major
from thinwire.engine.operator import operator
from thinwire.engine.sites.operator import FUNCTIONS, Nonlinearity
from thinwire.engine.sites.pointwise import Ablation
from thinwire.engine.topk import select
from thinwire.model.fusable import Fusable, is_bare, no_global_hooks


@operator("abstopk")
def abstopk(x: Tensor, k: int) -> Tensor:
    """x [..., width] with all but the k largest magnitudes of the last dimension zeroed; ties to the lowest index.

    The result has the memory layout of x, feature-major or not.
    """
    if is_feature_major(x):
        return activations(select.keep_columns(features(x), k), x.shape[:-1])
    return select.keep_rows(x.reshape(-1, x.shape[-1]), k).view(x.shape)


@operator("abstopk_backward")
def _abstopk_backward(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    if is_feature_major(kept):
        return activations(select.pass_columns(features(kept), features(grad), k), kept.shape[:-1])
    width = kept.shape[-1]
    return select.pass_rows(kept.reshape(-1, width), grad.reshape(-1, width), k).view(kept.shape)


@abstopk.register_fake
def _(x: Tensor, k: int) -> Tensor:
    return _empty_like(x)


@_abstopk_backward.register_fake
def _(kept: Tensor, grad: Tensor, k: int) -> Tensor:
    return _empty_like(kept)


def _empty_like(x: Tensor) -> Tensor:
    return empty_activations(x, x.shape[-1]) if is_feature_major(x) else x.new_empty(x.shape)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(output)
    ctx.k = inputs[1]


def _backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
    (kept,) = ctx.saved_tensors
    return _abstopk_backward(kept, grad, ctx.k), None


abstopk.register_autograd(_backward, setup_context=_setup)


class AbsTopK(nn.Module):
    """The named module at a site. With k equal to the width it is the identity."""

    def __init__(self, k: int, width: int) -> None:
        super().__init__()
        self.k = k
        self.width = width

    def forward(
        self,
        x: Tensor,
        module: nn.Module | None = None,
        nonlinearity: Nonlinearity = "identity",
        ablation: Ablation | None = None,
    ) -> Tensor:  # [..., width]
        """AbsTopK of x [..., width], then the ablation.

        With a `module`, a map or norm, AbsTopK is of the nonlinearity of `module(x)`, and x is [..., in].
        """
        if isinstance(module, Fusable) and is_bare(module) and no_global_hooks():  # pyright: ignore
            kept = module.map_and_keep(x, nonlinearity, self.k, ablation)
            if kept is not None:
                return kept
        if module is not None:
            x = FUNCTIONS[nonlinearity](module(x))
        kept = x if self.k == self.width else abstopk(x, self.k)
        return kept if ablation is None else ablation.apply(kept)

    def extra_repr(self) -> str:
        return f"k={self.k}, width={self.width}"
