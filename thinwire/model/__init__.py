"""The model: one forward pass with taps, AbsTopK at named sites, sparse weights on disk."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.model.abstopk import AbsTopK as AbsTopK
    from thinwire.model.config import ModelConfig as ModelConfig
    from thinwire.model.transformer import Transformer as Transformer
    from thinwire.model.transformer import next_token_loss as next_token_loss
    from thinwire.model.weights import load as load

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AbsTopK": "abstopk",
        "ModelConfig": "config",
        "Transformer": "transformer",
        "load": "weights",
        "next_token_loss": "transformer",
    },
)
