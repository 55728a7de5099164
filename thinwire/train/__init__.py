"""Training: the recipe of the paper, with exact projection, sparse results, and bit-exact resumption."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.train.config import TrainConfig as TrainConfig
    from thinwire.train.inputs import Sources as Sources
    from thinwire.train.language import LanguageModeling as LanguageModeling
    from thinwire.train.language import LanguageObjective as LanguageObjective
    from thinwire.train.loop import train as train
    from thinwire.train.metrics import read_metrics as read_metrics
    from thinwire.train.objective import Losses as Losses
    from thinwire.train.objective import Objective as Objective
    from thinwire.train.objective import ObjectiveFactory as ObjectiveFactory
    from thinwire.train.objective import ParameterGroup as ParameterGroup
    from thinwire.train.presets import PRESETS as PRESETS
    from thinwire.train.result import TrainResult as TrainResult
    from thinwire.train.result import read_result as read_result
    from thinwire.train.watch import Monitoring as Monitoring
    from thinwire.train.watch import WatchConfig as WatchConfig

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "PRESETS": "presets",
        "LanguageModeling": "language",
        "LanguageObjective": "language",
        "Losses": "objective",
        "Monitoring": "watch",
        "Objective": "objective",
        "ObjectiveFactory": "objective",
        "ParameterGroup": "objective",
        "Sources": "inputs",
        "TrainConfig": "config",
        "TrainResult": "result",
        "WatchConfig": "watch",
        "read_metrics": "metrics",
        "read_result": "result",
        "train": "loop",
    },
)
