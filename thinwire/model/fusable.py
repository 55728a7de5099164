"""Maps and norms that compute a whole site as one operator: their own result, nonlinearity, AbsTopK, ablation."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn.modules import module as modules

from thinwire.engine.sites.operator import Nonlinearity
from thinwire.engine.sites.pointwise import Ablation


class Fusable(ABC):
    """Mixin of maps and norms with such an operator."""

    @abstractmethod
    def map_and_keep(self, x: Tensor, nonlinearity: Nonlinearity, k: int, ablation: Ablation | None) -> Tensor | None:
        """What AbsTopK keeps of the nonlinearity of this module's result [..., width], ablated.

        None where the operator does not take x [..., in], or is slower than separate steps.
        """


def is_bare(module: nn.Module) -> bool:
    """Whether a module has no hook, and no other forward pass than its class."""
    own = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return not any(own) and "forward" not in vars(module)


def no_global_hooks() -> bool:
    """Whether no hook is registered on all modules at once."""
    return not modules._has_any_global_hook()
