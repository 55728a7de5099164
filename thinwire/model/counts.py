"""How many weights a model has, and how many of them are not zero: the one definition that every report shows."""

from dataclasses import dataclass

from thinwire.model.config import ModelConfig
from thinwire.model.transformer import Transformer
from thinwire.model.weights import count_nonzeros, count_sparse_entries


@dataclass(frozen=True)
class WeightCounts:
    """Numbers of weights; gains of norms, sinks and learned positions are in none of them."""

    nonzeros: int
    """Nonzero entries of the sparse parameters (L0)."""
    entries: int
    """All entries of the sparse parameters, zero or not."""
    bigram: int
    """Entries of the dense bigram table; 0 where the model has none."""

    @classmethod
    def of(cls, model: Transformer) -> "WeightCounts":
        """The counts of a model, compiled or not."""
        return cls.from_shape(count_nonzeros(model), model.config)

    @classmethod
    def from_shape(cls, nonzeros: int, shape: ModelConfig) -> "WeightCounts":
        """The counts of a model of this shape with so many nonzeros; its weights are not needed."""
        return cls(nonzeros, count_sparse_entries(shape), shape.vocab_size**2 if shape.bigram else 0)

    def __str__(self) -> str:
        table = f", plus a dense bigram table of {self.bigram:,}" if self.bigram else ""
        return f"{self.nonzeros:,} of {self.entries:,} weights nonzero{table}"
