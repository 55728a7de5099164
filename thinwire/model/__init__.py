"""The model: one forward pass with taps, AbsTopK at named sites, sparse weights on disk."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.model.abstopk import AbsTopK as AbsTopK
    from thinwire.model.cache import Cache as Cache
    from thinwire.model.config import ModelConfig as ModelConfig
    from thinwire.model.config import SampleConfig as SampleConfig
    from thinwire.model.sample import generate as generate
    from thinwire.model.transformer import Transformer as Transformer
    from thinwire.model.transformer import next_token_loss as next_token_loss
    from thinwire.model.weights import load as load

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AbsTopK": "abstopk",
        "Cache": "cache",
        "ModelConfig": "config",
        "SampleConfig": "config",
        "Transformer": "transformer",
        "generate": "sample",
        "load": "weights",
        "next_token_loss": "transformer",
    },
)
