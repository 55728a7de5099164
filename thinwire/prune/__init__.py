"""Pruning: masks are learned over nodes or edges, made discrete, calibrated, and scored on held-out pairs."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.prune.config import PruneConfig as PruneConfig
    from thinwire.prune.means import mean_activations as mean_activations
    from thinwire.prune.run import prune as prune

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "PruneConfig": "config",
        "mean_activations": "means",
        "prune": "run",
    },
)
