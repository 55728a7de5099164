"""Operators of PyTorch: `torch.library` for what is traced, a plain call that bypasses its dispatcher otherwise.

The library's dispatcher takes as long as the kernels of a small model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

PLAIN = torch.Tensor, torch.nn.Parameter
"""Types of tensors that hold numbers; tracing puts others in their place."""
REFUSAL = "thinwire has first derivatives in backward mode alone: "
"""How errors begin that refuse other derivatives and transforms."""


class Operator:
    """The operator `torch.ops.thinwire.NAME`, its shapes and its gradient registered as with `torch.library`.

    Raises NotImplementedError under `torch.func` transforms (vmap, jvp), for dual numbers, and where a graph of the
    backward pass is requested (`create_graph=True`): a gradient would count as a constant there.
    """

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        self.name, self.run = name, profiled(f"thinwire::{name}", run)
        self.op = torch.library.custom_op(f"thinwire::{name}", run, mutates_args=())
        """What compilers see."""
        self._function: type[torch.autograd.Function] | None = None

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates a function that returns results of the right shape and layout from tensors without data."""
        return self.op.register_fake(fake)

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Set the gradient: see `torch.library.register_autograd`."""

        def once(ctx: Any, *grads: Any) -> Any:
            refuse_second_derivatives()
            return backward(ctx, *grads)

        self.op.register_autograd(once, setup_context=setup_context)

        # a function with `setup_context` would inspect its signature at every call
        def forward(ctx: Any, *args: Any) -> Any:
            ctx.set_materialize_grads(False)  # no zeros for outputs without a gradient
            output = self.run(*args)
            setup_context(ctx, args, output)
            return output

        def passed_back(ctx: Any, *grads: Any) -> Any:
            if all(grad is None for grad in grads):
                return (None,) * len(ctx.needs_input_grad)
            # for a list of tensors the library takes one gradient each, a function one None for all
            return tuple(None if isinstance(grad, list) else grad for grad in once(ctx, *grads))

        parts = {"forward": staticmethod(forward), "backward": staticmethod(passed_back)}
        self._function = type(self.name, (torch.autograd.Function,), parts)

    def __call__(self, *args: Any) -> Any:
        if is_traced(args[0]):
            return self.op(*args)
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            raise NotImplementedError(f"{REFUSAL}its kernels do not run under vmap, jvp and other transforms.")
        if self._function is None or not torch.is_grad_enabled():
            return self.run(*args)
        return self._function.apply(*args)


def refuse_second_derivatives() -> None:
    """For backward passes that return constants: raise NotImplementedError where a graph of them is requested."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise NotImplementedError(f"{REFUSAL}leave create_graph out.")


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        refuse_second_derivatives()
        return grad


def differentiable_once(x: torch.Tensor) -> torch.Tensor:
    """x of any shape, where what follows has a right first derivative and a wrong second one.

    Its backward pass raises NotImplementedError where a graph of it is requested.
    """
    return _Once.apply(x)  # pyright: ignore


def is_traced(x: Any) -> bool:
    """Whether an operator on tensor x is traced or transformed rather than computed."""
    return torch.compiler.is_compiling() or type(x) not in PLAIN


def profiled(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a name in what a profiler records."""

    def called(*args: Any) -> Any:
        if not torch.autograd.profiler._is_profiler_enabled:  # an unused record would take as long as some kernels
            return run(*args)
        with torch.profiler.record_function(name):
            return run(*args)

    return called


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an operator of a function of tensors and numbers that changes none of them."""
    return lambda run: Operator(name, run)
