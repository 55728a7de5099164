"""Planted truth: hand-built models whose circuits are known, to test pruners and faithfulness checks on."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.planted.catalogue import suite as suite
    from thinwire.planted.families import FAMILIES as FAMILIES
    from thinwire.planted.model import Planted as Planted
    from thinwire.planted.model import Wiring as Wiring
    from thinwire.planted.pruners import PRUNERS as PRUNERS
    from thinwire.planted.pruners import Found as Found
    from thinwire.planted.pruners import run_pruner as run_pruner
    from thinwire.planted.scores import Recovery as Recovery
    from thinwire.planted.scores import edge_auroc as edge_auroc
    from thinwire.planted.scores import edge_scores as edge_scores
    from thinwire.planted.scores import recovery as recovery
    from thinwire.planted.task import PlantedTask as PlantedTask

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "FAMILIES": "families",
        "Found": "pruners",
        "PRUNERS": "pruners",
        "Planted": "model",
        "PlantedTask": "task",
        "Recovery": "scores",
        "Wiring": "model",
        "edge_auroc": "scores",
        "edge_scores": "scores",
        "recovery": "scores",
        "run_pruner": "pruners",
        "suite": "catalogue",
    },
)
