"""What a training run is: the model's shape and every choice of the recipe (Gao et al. 2025, A.2)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from thinwire.config import Config
from thinwire.model.config import ModelConfig


class TrainConfig(Config):
    """A training run. Fractions of training are between 0 and 1; rates and densities are plain numbers."""

    model: ModelConfig = ModelConfig()
    """Shape of the model."""
    steps: int = Field(default=10_000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=64, ge=1)
    """Sequences of model.context tokens per step."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of the data order."""
    density: float = Field(default=1 / 64, gt=0, le=1)
    """Fraction of every matrix that ends up nonzero; 1 trains a dense model."""
    floor: int = Field(default=4, ge=0)
    """Nonzeros that every neuron and attention channel keeps at least; 0 for no floor."""
    anneal_start: float = Field(default=0.01, ge=0, le=1)
    """Fraction of training at which the density starts to fall from 1."""
    anneal_stop: float = Field(default=0.5, ge=0, le=1)
    """Fraction of training at which the density arrives at its target, linearly."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Peak rate, before the L0 factor."""
    warmup: float = Field(default=0.01, ge=0, lt=1)
    """Fraction of training over which the rate rises linearly, times a linear fall to 0 over all of it."""
    l0_factor: Literal["final", "absolute", "off"] = "final"
    """Multiply the rate by sqrt(final density / density now), by 1/sqrt(density now), or not at all."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW: decay of the gradient's running mean."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW: decay of the squared gradient's running mean."""
    epsilon: float = Field(default=0.1, gt=0)
    """AdamW: added to the root of the squared mean; large on purpose."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW: decay of matrices and embeddings, not of the bigram table, biases, gains and sinks."""
    gradient: Literal["normalize", "clip", "none"] = "normalize"
    """Divide the gradient by its global RMS (released code), only when that exceeds 1 (paper), or never."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the matrices; auto takes bf16 where the device computes it natively. The loss is always fp32."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    validate_every: int = Field(default=500, ge=1)
    """Steps between measurements of the validation loss."""
    validation_tokens: int = Field(default=65_536, ge=1)
    """Held-out tokens per corpus part that a validation loss is measured on."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics.jsonl."""

    @model_validator(mode="after")
    def _anneal_in_order(self) -> Self:
        if self.density < 1 and self.anneal_start >= self.anneal_stop:
            raise ValueError(f"anneal_start {self.anneal_start} is not before anneal_stop {self.anneal_stop}")
        return self
