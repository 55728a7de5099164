"""L1 pressure: a soft threshold after every update, the proximal step of the lasso penalty Σ |w|."""

from torch import Tensor

from thinwire.train.sparsity.base import SPARSIFIERS
from thinwire.train.sparsity.pressed import Pressed, soft_threshold


@SPARSIFIERS.register("l1")
class L1(Pressed):
    """Every weight is pressed alike. Weights that stay are shrunk as well: that is the bias of the lasso."""

    def shrunk(self, name: str, weight: Tensor, threshold: Tensor) -> Tensor:
        """The soft threshold of each weight."""
        return soft_threshold(weight, threshold)
