"""What a pruning run is."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thinwire.config import Config

Ablation = Literal["mean", "zero", "task_mean"]


class Point(Config):
    """Hyper-parameters of one trial of mask training: what a search varies (Gao et al. 2025, Table 2)."""

    k_coef: float = Field(default=1e-4, gt=0, le=1e3)
    """Loss per kept node; of the controlled pressure the start and the least."""
    learning_rate: float = Field(default=0.005, gt=0, le=1)
    """Rate of the mask parameters; falls linearly to 0."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the steps over which the rate rises (the text of A.5 has none, its Table 2 has 0.05)."""
    weight_decay: float = Field(default=1e-3, ge=0, le=1e3)
    """AdamW decay of the mask parameters."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW: decay of the squared gradient's running mean."""
    heaviside_temp: float = Field(default=1.0, ge=1e-3, le=1e3)
    """Temperature of the sigmoid whose derivative stands in for that of the step."""
    init_noise_scale: float = Field(default=0.01, ge=0, le=1e3)
    """Standard deviation of the initial mask parameters."""
    init_noise_bias: float = 0.1
    """Mean of the initial mask parameters."""


class PruneConfig(Point):
    """Search for the fewest nodes and edges that keep a task's loss at the target (Gao et al. 2025, A.5)."""

    target_loss: float = Field(default=0.15, gt=0)
    """Task loss the circuit is wanted to have on pairs it never saw, nats."""
    aim: float = Field(default=0.5, gt=0, le=1)
    """Part of target_loss that validation pairs must meet, since other templates are harder than theirs; where the
    whole model does not meet it either, halfway from its loss to target_loss."""
    method: Literal["learned", "attribution", "integrated_gradients"] = "learned"
    """How nodes are ranked: by learned masks, or by a gradient times the distance to the mean (the baseline)."""
    granularity: Literal["nodes", "edges", "nodes_then_edges"] = "nodes"
    """What has a mask: nodes, every nonzero weight, or the nodes and then the weights between those that are left."""
    ablation: Ablation = "mean"
    """What a removed node is held at: its mean over the pretraining distribution, zero, or its mean over the task."""
    tied_qk: bool = False
    """One mask for a channel of q and the same channel of k."""
    frozen_norms: bool = False
    """Take the scales of RMSNorm from the whole model on the same prompts, so that no circuit can amplify what it
    leaves of the residual stream."""
    mask_tokens: bool = False
    """Mask the embeddings of tokens too, those of the training prompts; a removed one is held at their mean embedding,
    or at zero if ablation is zero."""
    keep: tuple[str, ...] = ()
    """Names of nodes that every circuit has, as `0.mlp.post_act:17`."""
    drop: tuple[str, ...] = ()
    """Names of nodes that no circuit may have."""
    trials: int = Field(default=2, ge=1)
    """Masks trained side by side in one forward pass, from different noise; the one with the fewest edges wins."""
    search: int = Field(default=0, ge=0)
    """Trials of a search over the hyper-parameters, `trials` at a time; 0 takes those given."""
    sampler: Literal["gp", "tpe", "random"] = "gp"
    """How the search proposes hyper-parameters."""
    patience: int = Field(default=4, ge=1)
    """The search ends after this many rounds without a smaller circuit."""
    steps: int = Field(default=300, ge=1)
    """Mask updates."""
    batch_pairs: int = Field(default=16, ge=1)
    """Pairs of prompts per update and trial."""
    sparsity: Literal["controlled", "fixed"] = "controlled"
    """Pressure on the number of nodes: steered by the distance to the target loss, or the paper's constant k_coef."""
    hold: float = Field(default=0.5, gt=0, le=1)
    """Controlled pressure: part of target_loss that the running loss is held at, or a tenth above what the whole model
    has on the training pairs where that is more."""
    k_coef_up: float = Field(default=1.03, gt=1, le=10)
    """Controlled pressure: factor per step while the running loss is below that."""
    k_coef_down: float = Field(default=0.94, gt=0, lt=1)
    """Controlled pressure: factor per step while it is above."""
    restarts: int = Field(default=2, ge=0)
    """How often trials whose masks collapsed are trained again, at a tenth of their pressure each time."""
    calibrated: bool = True
    """Train masks on the loss under the calibration that fits their batch best, as circuits are measured in the end;
    the paper calibrates only those."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of one trial's gradient."""
    max_logit_scale: float = Field(default=3.0, gt=0)
    """Largest scale the calibration may give the logits; without a bound it props up circuits that barely move them."""
    simplify: bool = True
    """After bisecting, drop every node and every edge without which the target still holds."""
    ladder: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Further target losses, looser than the circuit's own: the sizes of smaller circuits of its ranking that meet them
    on validation pairs are reported too."""
    finalists: int = Field(default=2, ge=1)
    """How many of the trials with the fewest edges are simplified; the smallest result is the circuit."""
    train_pairs: int = Field(default=2048, ge=1)
    """Distinct pairs the masks are trained on."""
    validation_pairs: int = Field(default=256, ge=1)
    """Pairs that choose what is kept, and that its calibration is fitted on."""
    heldout_pairs: int = Field(default=256, ge=1)
    """Pairs that the result is reported on; the rest of pruning sees neither their templates nor their names."""
    mean_tokens: int = Field(default=65_536, ge=1)
    """Tokens of the pretraining mixture that mean activations are taken over."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the noise and of the pairs."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.search and self.method != "learned":
            raise ValueError(f"method {self.method} has no hyper-parameters to search; leave search at 0")
        if self.granularity != "nodes" and self.method != "learned":
            raise ValueError(f"method {self.method} ranks nodes; leave granularity at nodes")
        if self.granularity != "nodes" and self.tied_qk:
            raise ValueError("tied_qk ties masks of nodes; leave granularity at nodes")
        if self.granularity != "nodes" and self.mask_tokens:
            raise ValueError("mask_tokens adds tokens to masks of nodes; leave granularity at nodes")
        if self.ladder and self.mask_tokens:
            raise ValueError("a ladder ranks nodes or edges alone; leave mask_tokens off")
        return self

    @property
    def validation_target(self) -> float:
        """Loss that validation pairs must meet, nats."""
        return self.aim * self.target_loss

    @property
    def finishes(self) -> bool:
        """Whether something is still done with a trial's circuit, so that more than the smallest is worth a look."""
        return self.simplify or self.granularity == "nodes_then_edges"

    @property
    def point(self) -> Point:
        """The hyper-parameters of a trial that no search has chosen."""
        return Point(**{name: getattr(self, name) for name in Point.model_fields})
