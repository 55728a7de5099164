"""Exact gradients with one dense product per matrix instead of three.

Zero weights contribute nothing to a product, so the forward pass and the gradient of the activations use sparse
kernels. But zero weights have a gradient: that of the whole matrix is a dense product of the two.
"""

from typing import Any

import torch
from torch import Tensor, nn

from thinwire.compiled.modules import FeatureEmbedding, FeatureLinear, SparseEmbedding, SparseLinear
from thinwire.engine.layout import features
from thinwire.engine.operator import refuse_second_derivatives
from thinwire.engine.spmm.operators import input_gradient, multiply
from thinwire.engine.spmm.pattern import SparsePattern
from thinwire.model.precision import uses_bf16
from thinwire.model.transformer import Transformer


def with_whole_gradients(model: Transformer, compiled: Transformer, precision: str) -> Transformer:
    """A model on sparse kernels whose backward pass leaves gradients of whole matrices in the parameters of `model`.

    It shares the patterns and values of `compiled`, the compiled model. The dense products are in bf16 where
    `precision` selects it.
    """
    with torch.device("meta"):
        other = Transformer(model.config)
    for name, module in compiled.named_modules():
        if isinstance(module, SparseLinear):
            other.set_submodule(name, _WholeLinear(module, model.get_parameter(f"{name}.weight"), precision))
        elif isinstance(module, SparseEmbedding | FeatureEmbedding):
            rows, width = model.get_parameter(f"{name}.weight").shape
            with torch.device("meta"):
                other.set_submodule(name, FeatureEmbedding(rows, width, dtype=torch.float32))
        elif isinstance(module, FeatureLinear):
            other.set_submodule(name, module)
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        other.get_submodule(owner).register_parameter(last, parameter)
    other.precision = "fp32"
    return other


class _WholeLinear(nn.Module):
    """A linear map that computes with the nonzeros and has a gradient for all of `weight` [out, in]."""

    def __init__(self, module: SparseLinear, weight: nn.Parameter, precision: str) -> None:
        super().__init__()
        self.pattern, self.values, self.precision = module.pattern, module.values.detach(), precision
        self.weight, self.bias = weight, module.bias

    def forward(self, x: Tensor) -> Tensor:  # [..., in] to [..., out], feature-major float32
        bf16 = uses_bf16(self.precision, x.device)
        return _Product.apply(x, self.weight, self.bias, self.values, self.pattern, bf16)  # pyright: ignore


class _Product(torch.autograd.Function):
    """The product of `thinwire.engine.spmm.operators.multiply`; the gradient of the weight is dense."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, pattern: SparsePattern, bf16: bool
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.pattern, ctx.dtype = pattern, torch.bfloat16 if bf16 else torch.float32
        return multiply(x, pattern, values, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        x, values = ctx.saved_tensors
        pattern = ctx.pattern
        d_x = input_gradient(grad, values, pattern.tensors)
        d_weight = features(grad).to(ctx.dtype) @ features(x).to(ctx.dtype).T
        d_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return d_x.to(x.dtype), d_weight.float(), d_bias, None, None, None
