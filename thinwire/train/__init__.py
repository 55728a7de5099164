"""Training: the recipe of the paper, with exact projection, sparse results, and resume bit for bit."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.train.config import TrainConfig as TrainConfig
    from thinwire.train.loop import train as train
    from thinwire.train.metrics import read_metrics as read_metrics
    from thinwire.train.presets import PRESETS as PRESETS
    from thinwire.train.result import TrainResult as TrainResult
    from thinwire.train.result import read_result as read_result
    from thinwire.train.watch import WatchConfig as WatchConfig

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "PRESETS": "presets",
        "TrainConfig": "config",
        "TrainResult": "result",
        "WatchConfig": "watch",
        "read_metrics": "metrics",
        "read_result": "result",
        "train": "loop",
    },
)
