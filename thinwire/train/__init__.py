"""Training: the recipe of the paper, with exact projection, sparse results, and resume bit for bit."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.train.config import TrainConfig as TrainConfig
    from thinwire.train.loop import TrainResult as TrainResult
    from thinwire.train.loop import read_result as read_result
    from thinwire.train.loop import train as train
    from thinwire.train.presets import PRESETS as PRESETS

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "PRESETS": "presets",
        "TrainConfig": "config",
        "TrainResult": "loop",
        "read_result": "loop",
        "train": "loop",
    },
)
