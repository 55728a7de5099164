"""The shape of a transformer and the choices of method: everything `Transformer` needs to be built; and of sampling."""

from typing import Literal, Self

from pydantic import Field, model_validator

from thinwire.artifact import FORMATS, METRICS, SUMMARY, Format
from thinwire.config import Config
from thinwire.sites import KINDS, SiteKind

FORMATS.register("model")(
    Format(
        version=1,
        files=(
            "model.json",
            "weights.safetensors",
            "tokenizer.json",
            "objective.json",
            "objective.safetensors",
            SUMMARY,
            METRICS,
        ),
        shipped=True,
        in_place=True,
    )
)


class ModelConfig(Config):
    """A GPT-2 style decoder with RMSNorm and AbsTopK at its sites (Gao et al. 2025, 2.1 and A.1)."""

    n_layers: int = Field(default=8, ge=1, le=1000)
    """Layers; each is an attention and an MLP sublayer."""
    d_model: int = Field(default=2048, ge=1, le=2**20)
    """Width of the residual stream."""
    d_head: int = Field(default=16, ge=1, le=2**20)
    """Width of one attention head; d_model must be a multiple of it."""
    mlp_ratio: float = Field(default=4.0, gt=0, le=1024)
    """Neurons per MLP (d_mlp) for each channel of the residual stream."""
    context: int = Field(default=256, ge=1, le=2**24)
    """Longest sequence, in tokens."""
    vocab_size: int = Field(default=2048, ge=2, le=2**20)
    """Rows of the embedding; the tokenizer of the tokens must have exactly as many."""
    positions: Literal["none", "added", "concatenated"] = "none"
    """Position embeddings: none, added to the embedding, or concatenated, read-only, to every sublayer's input."""
    d_pos: int = Field(default=32, ge=1, le=2**20)
    """Position channels, when they are concatenated."""
    sink: bool = False
    """One learned logit per head in the softmax denominator, with value zero."""
    bigram: bool = True
    """A dense vocab×vocab table whose row of the current token is added to the logits."""
    biases: bool = True
    """Biases on every matrix, the unembedding included."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Nonlinearity of the MLP."""
    active_fraction: float = Field(default=0.25, gt=0, le=1)
    """AbsTopK keeps this fraction of the channels of a site, per token; 1 switches it off."""
    active_sites: tuple[SiteKind, ...] = KINDS
    """Kinds of site at which AbsTopK acts."""
    active_residual: bool = False
    """Whether AbsTopK acts at the residual points too: on the stream before each sublayer and after the last."""
    norm_eps: float | None = Field(default=None, gt=0)
    """RMSNorm epsilon; unset means the machine epsilon of float32, whatever the dtype."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.d_model % self.d_head:
            raise ValueError(f"d_model {self.d_model} is not a multiple of d_head {self.d_head}")
        if len(set(self.active_sites)) != len(self.active_sites):
            raise ValueError("active_sites names a kind of site twice")
        if self.d_mlp < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio:g} leaves no neuron at d_model {self.d_model}")
        return self

    @property
    def n_heads(self) -> int:
        return self.d_model // self.d_head

    @property
    def d_mlp(self) -> int:
        """Neurons per MLP."""
        return round(self.mlp_ratio * self.d_model)

    @property
    def d_in(self) -> int:
        """Width of a sublayer's input: the residual channels, and the position channels when they are concatenated."""
        return self.d_model + (self.d_pos if self.positions == "concatenated" else 0)

    def n_active(self, kind: str, width: int) -> int:
        """How many channels AbsTopK keeps at a site of this kind and width."""
        return max(1, int(self.active_fraction * width)) if kind in self.active_sites else width

    @property
    def n_active_resid(self) -> int:
        """How many channels AbsTopK keeps at a residual point."""
        return max(1, int(self.active_fraction * self.d_model)) if self.active_residual else self.d_model


class SampleConfig(Config):
    """How text is sampled from a model."""

    tokens: int = Field(default=100, ge=1)
    """Most tokens to add; the model's context may end a text before."""
    temperature: float = Field(default=1.0, ge=0)
    """What logits are divided by: below 1 likely tokens gain, 0 always takes the likeliest."""
    top_k: int | None = Field(default=None, ge=1)
    """Choose among this many likeliest tokens only; unset takes all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Choose among the fewest likeliest tokens only that together have this probability; 1 takes all."""
    seed: int = Field(default=0, ge=0, lt=2**62)
    """Seed of the first sample; each further one has the next."""
