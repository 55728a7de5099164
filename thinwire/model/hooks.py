"""Whether anybody looks at modules from outside: what they compute may otherwise be part of an operator."""

from torch import nn
from torch.nn.modules import module as modules


def is_bare(module: nn.Module) -> bool:
    """Whether nobody has put a hook, or another forward pass, on a module."""
    own = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return not any(own) and "forward" not in vars(module)


def none_on_all() -> bool:
    """Whether nobody has put a hook on all modules at once."""
    return not modules._has_any_global_hook()
