"""What a training run is: the model's shape and every choice of the recipe (Gao et al. 2025, A.2)."""

from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from thinwire.config import Config, explain
from thinwire.errors import UserError
from thinwire.model.config import ModelConfig
from thinwire.train.sparsity.options import OPTIONS

Option = bool | int | float | str
Parallel = Literal["ddp", "fsdp"]
"""How processes (ranks) share a model: each holds all weights (ddp), or its rows of every matrix (fsdp)."""
SPARSE_COMPUTE_BELOW = 1 / 16
"""Largest density at which a run may compute sparsely. On a CPU a sparse product breaks even at density 1/8. Training
adds the gradient of every nonzero, which costs as much again, and an exact step keeps one dense product in three."""


class TrainConfig(Config):
    """A training run. Fractions of training are between 0 and 1; rates and densities are plain numbers."""

    model: ModelConfig = ModelConfig()
    """Shape of the model."""
    steps: int = Field(default=10_000, ge=1, le=2**40)
    """Optimizer steps."""
    batch_size: int = Field(default=64, ge=1, le=2**40)
    """Sequences of model.context tokens per step."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of the data order."""
    sparsity: str = "topk"
    """How weights become zero: topk (the paper), soft_topk, hardconcrete, l1, group_lasso, or frozen.

    soft_topk lets gradients reach more weights than compute; hardconcrete learns random gates; l1 and group_lasso
    shrink weights, or channels, to zero; frozen keeps the zeros of the model that --start names.
    """
    sparsity_options: dict[str, Option] = Field(default={})
    """Options of that sparsifier, such as temperature 0.5 of hardconcrete."""
    density: float = Field(default=1 / 64, ge=1e-9, le=1)
    """Fraction of every matrix that ends up nonzero; 1 trains a dense model."""
    density_rule: Literal["uniform", "released"] = "uniform"
    """The same density in every parameter, or, as in the released code, d_model/256 times as much outside matrices."""
    embedding_anneal: Literal["together", "late"] = "together"
    """Under the released rule: embeddings and biases anneal with the matrices, or only once these are as sparse."""
    sparse_biases: bool = True
    """Whether biases are sparse like every matrix (paper), or stay dense (released models)."""
    floor: int = Field(default=4, ge=0)
    """Nonzeros that every neuron and attention channel keeps at least; 0 for no floor."""
    anneal: Literal["linear", "exponential", "none"] = "linear"
    """How the density falls from 1: by equal differences, by equal ratios, or at once in the first step."""
    anneal_start: float = Field(default=0.01, ge=0, le=1)
    """Fraction of training at which the density starts to fall from 1."""
    anneal_stop: float = Field(default=0.5, ge=0, le=1)
    """Fraction of training at which the density arrives at its target."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Peak rate, before the L0 factor."""
    warmup: float = Field(default=0.01, ge=0, lt=1)
    """Fraction of training over which the rate rises linearly; 0 for no warm-up."""
    decay: Literal["linear", "none"] = "linear"
    """Whether the rate falls linearly to 0 over all of training, or stays."""
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
    distill_weight: float = Field(default=0.5, ge=0, le=1)
    """With a teacher: part of the loss that is the divergence from its predictions; the rest is cross-entropy."""
    distill_temperature: float = Field(default=1.0, gt=0)
    """With a teacher: both logits are divided by this before they are compared."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the matrices; auto takes bf16 where the device computes it natively. The loss is always fp32."""
    compute: Literal["dense", "sparse"] = "dense"
    """Dense products throughout, or, from the end of the anneal on, products with the nonzeros only, in fp32.

    sparse is for topk at densities of at most 1/16, in one process.
    """
    support_every: int = Field(default=16, ge=1)
    """Sparse compute: one step in so many is exact and may move the support; in the others only the nonzeros train."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    validate_every: int = Field(default=500, ge=1)
    """Steps between measurements of the validation loss."""
    validation_tokens: int = Field(default=65_536, ge=1, le=2**40)
    """Held-out tokens per corpus part that a validation loss is measured on."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics.jsonl."""

    def check_ranks(self, ranks: int) -> None:
        """Raise UserError when so many ranks cannot share a batch equally, or do not support the run's `compute`."""
        if ranks > 1 and self.compute == "sparse":
            raise UserError(f"compute sparse trains in one process, not on {ranks} ranks; set it to dense.")
        if self.batch_size % ranks:
            raise UserError(
                f"A batch of {self.batch_size} sequences cannot be shared equally by {ranks} ranks; "
                f"make batch_size a multiple of {ranks}."
            )

    @field_validator("sparsity_options")
    @classmethod
    def _in_alphabetical_order(cls, options: dict[str, Option]) -> dict[str, Option]:
        return dict(sorted(options.items()))

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.sparsity not in OPTIONS:
            raise ValueError(f"sparsity is '{self.sparsity}' and has to be one of {', '.join(OPTIONS)}")
        try:
            OPTIONS[self.sparsity].model_validate(self.sparsity_options)
        except ValidationError as error:
            raise ValueError(f"sparsity_options of {self.sparsity}: {explain(error)}") from None
        return self

    @model_validator(mode="after")
    def _anneal_starts_before_it_stops(self) -> Self:
        if self.density < 1 and self.anneal != "none" and self.anneal_start >= self.anneal_stop:
            raise ValueError(f"anneal_start {self.anneal_start} is not before anneal_stop {self.anneal_stop}")
        return self

    @model_validator(mode="after")
    def _compute_fits(self) -> Self:
        if self.compute == "sparse" and self.sparsity != "topk":
            raise ValueError(f"compute sparse is for topk alone, not for {self.sparsity}; set it to dense")
        if self.compute == "sparse" and self.density > SPARSE_COMPUTE_BELOW:
            raise ValueError(
                f"compute sparse gains nothing at density {self.density:g}; "
                f"set it to dense, or density to at most {SPARSE_COMPUTE_BELOW:g}"
            )
        return self
