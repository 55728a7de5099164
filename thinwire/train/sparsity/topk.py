"""Weight top-k: after every update each parameter keeps exactly its largest magnitudes (Gao et al. 2025, A.2)."""

from thinwire.model.transformer import Transformer
from thinwire.train.config import TrainConfig
from thinwire.train.l0 import budget, check_floor, project
from thinwire.train.sparsity.base import SPARSIFIERS, Sparsifier


@SPARSIFIERS.register("topk")
class TopK(Sparsifier):
    """The paper's way. Raises UserError when the floor does not fit the density."""

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        super().__init__(model, config)
        check_floor(model, config)

    def after_step(self, model: Transformer, step: int) -> None:
        """Project onto the budget of this step."""
        project(model, budget(model, step, self.config), self.config.floor)
