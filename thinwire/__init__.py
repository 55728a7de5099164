"""thinwire: train weight-sparse transformers, prune their task circuits, check them, and show them.

Each step is in its own package: `from thinwire.prune import prune`, and likewise `train`, `verify` and `data.build`.
"""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.circuit.circuit import Circuit as Circuit
    from thinwire.compact.run import CompactCircuit as CompactCircuit
    from thinwire.data.config import DataConfig as DataConfig
    from thinwire.data.tokenizer import Tokenizer as Tokenizer
    from thinwire.data.tokens import Tokens as Tokens
    from thinwire.errors import UserError as UserError
    from thinwire.model.config import ModelConfig as ModelConfig
    from thinwire.model.transformer import Transformer as Transformer
    from thinwire.model.weights import load as load
    from thinwire.prune.config import PruneConfig as PruneConfig
    from thinwire.sites import Node as Node
    from thinwire.sites import ResidPoint as ResidPoint
    from thinwire.sites import Site as Site
    from thinwire.tasks import TASKS as TASKS
    from thinwire.train.config import TrainConfig as TrainConfig
    from thinwire.verify.config import VerifyConfig as VerifyConfig

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Circuit": "circuit.circuit",
        "CompactCircuit": "compact.run",
        "DataConfig": "data.config",
        "ModelConfig": "model.config",
        "Node": "sites",
        "PruneConfig": "prune.config",
        "ResidPoint": "sites",
        "Site": "sites",
        "TASKS": "tasks",
        "Tokenizer": "data.tokenizer",
        "Tokens": "data.tokens",
        "TrainConfig": "train.config",
        "Transformer": "model.transformer",
        "UserError": "errors",
        "VerifyConfig": "verify.config",
        "load": "model.weights",
    },
)
