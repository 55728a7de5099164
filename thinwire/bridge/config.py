"""How a bridge between a dense and a sparse model is fitted."""

from pydantic import Field

from thinwire.artifact import FORMATS, SUMMARY, Format
from thinwire.config import Config

FORMATS.register("bridge")(Format(version=1, files=("bridge.safetensors", "bridge.json", SUMMARY)))


class LossWeights(Config):
    """Weights of the losses of a bridge; each is a mean over residual points, except the cross-entropy."""

    cross_entropy: float = Field(default=1.0, ge=0)
    """Of the sparse model by itself, nats per token; without effect while it is frozen."""
    nmse: float = Field(default=0.3, ge=0)
    """Normalized squared error of both maps: that of the encoder's output plus that of the decoder's."""
    kl_to_sparse: float = Field(default=1.0, ge=0)
    """Divergence of the crossing from the dense into the sparse model from the dense model's own predictions."""
    kl_to_dense: float = Field(default=1.0, ge=0)
    """Divergence of the crossing from the sparse into the dense model from the dense model's own predictions."""


class BridgeConfig(Config):
    """How a bridge is fitted: a ridge regression, then the maps alone, then the maps and the sparse model together."""

    n_active: int | None = Field(default=None, ge=1)
    """Channels that AbsTopK keeps of an encoder's output; None keeps all."""
    ridge: float = Field(default=1e-4, gt=0)
    """Penalty of the ridge regression, relative to the mean variance of its inputs."""
    ridge_tokens: int = Field(default=100_000, ge=1, le=2**32)
    """Training tokens of the ridge regression."""
    bridge_steps: int = Field(default=300, ge=0, le=2**32)
    """Steps that train the maps with both models frozen; 0 leaves the stage out."""
    joint_steps: int = Field(default=300, ge=0, le=2**32)
    """Steps that train the maps and the nonzeros of the sparse model together; 0 leaves the stage out."""
    scratch_steps: int = Field(default=0, ge=0, le=2**32)
    """Steps that train a sparse model from random weights, with its bridge, as the paper does; above 0 they replace the
    steps above. The other options of training are those of the given sparse model. Of its weights only the ridge
    regression makes use, at whose maps the bridge starts."""
    batch_size: int = Field(default=8, ge=1, le=2**20)
    """Sequences of the sparse model's context per step, and per batch of the ridge regression."""
    bridge_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate of the maps."""
    model_rate: float = Field(default=0.005, gt=0)
    """Peak learning rate of the sparse model in the joint stage; its gradient is normalized."""
    crossings: int | None = Field(default=None, ge=1)
    """Residual points that a step draws at random and crosses at; None crosses at all, which is the better use of time.

    Fewer take less memory. The loss is then an unbiased estimate of that over all points.
    """
    tasks: tuple[str, ...] = ()
    """Tasks whose training prompts are a part of every batch; one of --task-file is stored as NAME:HASH."""
    task_share: float = Field(default=0.5, ge=0, le=1)
    """Part of the sequences of every batch that are prompts of these tasks."""
    weights: LossWeights = LossWeights()
    """Weights of the losses."""
    joint_weights: LossWeights = LossWeights(cross_entropy=4.0)
    """The same in the joint stage, in which the sparse model changes too."""
    validation_tokens: int = Field(default=16_384, ge=1, le=2**32)
    """Held-out tokens per corpus part that the losses of all crossings are measured on."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the order of the data."""
