"""Weight top-k: after every update each parameter keeps exactly its largest magnitudes (Gao et al. 2025, A.2)."""

from thinwire.model.transformer import Transformer
from thinwire.train.l0 import budget, project
from thinwire.train.sparsity.base import SPARSIFIERS, Sparsifier


@SPARSIFIERS.register("topk")
class TopK(Sparsifier):
    """The sparsifier of the paper."""

    def after_step(self, model: Transformer, step: int) -> None:
        """Project onto the budget of this step."""
        super().after_step(model, step)
        project(model, budget(model, step, self.config), self.config.floor)
