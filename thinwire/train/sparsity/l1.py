"""L1 penalty: a soft threshold after every update, the proximal step of the lasso penalty Σ |w|."""

from torch import Tensor

from thinwire.train.sparsity.base import SPARSIFIERS
from thinwire.train.sparsity.proximal import Proximal, soft_threshold


@SPARSIFIERS.register("l1")
class L1(Proximal):
    """The same penalty on every weight. Weights that stay shrink as well: that is the bias of the lasso."""

    def shrunk(self, name: str, weight: Tensor, threshold: Tensor) -> Tensor:
        """The soft threshold of each weight, in its shape; `threshold` is a scalar."""
        return soft_threshold(weight, threshold)
