"""Options of a pruning run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thinwire.config import Config

Ablation = Literal["mean", "zero", "task_mean"]
MOST_TRAINED = 10**9
"""Most pairs that the masks of one run are trained on, repeated ones included; at 500 a second that is three weeks."""


class Point(Config):
    """Hyper-parameters of one trial of mask training, which a search varies (Gao et al. 2025, Table 2)."""

    k_coef: float = Field(default=1e-4, gt=0, le=1e3)
    """Loss per kept node. With controlled pressure this is its initial and its smallest value."""
    learning_rate: float = Field(default=0.005, gt=0, le=1)
    """Learning rate of the mask parameters; falls linearly to 0."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the steps over which the learning rate rises (none in the text of A.5, 0.05 in its Table 2)."""
    weight_decay: float = Field(default=1e-3, ge=0, le=1e3)
    """AdamW decay of the mask parameters."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW: decay of the squared gradient's running mean."""
    heaviside_temp: float = Field(default=1.0, ge=1e-3, le=1e3)
    """Temperature of the sigmoid whose derivative replaces that of the step function."""
    init_noise_scale: float = Field(default=0.01, ge=0, le=1e3)
    """Standard deviation of the initial mask parameters."""
    init_noise_bias: float = 0.1
    """Mean of the initial mask parameters."""


class PruneConfig(Point):
    """Find the fewest nodes and edges with which the model still does a task (Gao et al. 2025, A.5)."""

    target_loss: float = Field(default=0.15, gt=0, le=1e3)
    """Task loss that the circuit should have on held-out pairs, nats."""
    aim: float = Field(default=0.5, gt=0, le=1)
    """Validation pairs must have a loss of at most aim times target_loss, since held-out templates are harder. If the
    whole model misses that, the bound is halfway between its loss and target_loss."""
    method: Literal["learned", "attribution", "integrated_gradients"] = "learned"
    """How nodes are ranked: by learned masks, or by the gradient times the distance to the mean (the baseline)."""
    granularity: Literal["nodes", "edges", "nodes_then_edges"] = "nodes"
    """What is masked: nodes, all nonzero weights (edges), or first nodes and then the edges between the kept ones."""
    ablation: Ablation = "mean"
    """Value of a removed node: its mean over the pretraining data, zero, or its mean over the task's prompts."""
    tied_qk: bool = False
    """A channel of q and the same channel of k share one mask."""
    frozen_norms: bool = False
    """Take the scales of RMSNorm from the whole model on the same prompts. Otherwise a circuit can amplify its small
    residual stream through the norms."""
    mask_tokens: bool = False
    """Mask the embeddings of the tokens in training prompts too. A removed embedding is ablated to their mean, or to
    zero if ablation is zero."""
    keep: tuple[str, ...] = ()
    """Names of nodes that every circuit keeps, such as `0.mlp.post_act:17`."""
    drop: tuple[str, ...] = ()
    """Names of nodes that no circuit keeps."""
    trials: int = Field(default=2, ge=1, le=1024)
    """Number of masks trained together in one forward pass, from different noise; the smallest circuit is used."""
    search: int = Field(default=0, ge=0, le=100_000)
    """Number of trials of a search over the hyper-parameters, `trials` at a time; 0 uses the given values."""
    sampler: Literal["gp", "tpe", "random"] = "gp"
    """How the search proposes hyper-parameters."""
    patience: int = Field(default=4, ge=1, le=100_000)
    """The search ends after this many rounds without a smaller circuit."""
    steps: int = Field(default=300, ge=1, le=1_000_000)
    """Mask updates."""
    batch_pairs: int = Field(default=16, ge=1, le=100_000)
    """Pairs of prompts per update and trial."""
    sparsity: Literal["controlled", "fixed"] = "controlled"
    """Pressure on the number of nodes: controlled by the distance to the target loss, or constant as in the paper."""
    hold: float = Field(default=0.5, gt=0, le=1)
    """Controlled pressure: the running loss is kept at hold times target_loss, or at 1.1 times the loss of the whole
    model on training pairs if that is more."""
    k_coef_up: float = Field(default=1.03, gt=1, le=10)
    """Controlled pressure: factor per step while the running loss is below that value."""
    k_coef_down: float = Field(default=0.94, gt=0, lt=1)
    """Controlled pressure: factor per step while the running loss is above it."""
    restarts: int = Field(default=2, ge=0, le=100)
    """How often trials with collapsed masks are trained again, each time at a tenth of the pressure."""
    calibrated: bool = True
    """Train masks on the loss under the best calibration of each batch; the paper trains on the loss without one."""
    cut: Literal["calibrated", "uncalibrated"] = "calibrated"
    """Which loss of a circuit must meet the target: that under its best calibration, or, as in the paper, that of its
    own log-odds, which then stay as they are. `calibrated=False, cut="uncalibrated"` is the paper's loss throughout."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of one trial's gradient."""
    max_logit_scale: float = Field(default=3.0, gt=0)
    """Largest scale of the calibration. Without a bound, circuits that barely change the logits meet the target."""
    simplify: bool = True
    """After bisection, remove every node and edge without which the target still holds."""
    ladder: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Further, larger target losses: the sizes of the smallest circuits of the same ranking that meet them on
    validation pairs are reported too."""
    finalists: int = Field(default=2, ge=1, le=1024)
    """How many of the smallest circuits are simplified; the smallest result is the final circuit."""
    train_pairs: int = Field(default=2048, ge=1, le=100_000)
    """Number of distinct pairs that masks are trained on."""
    validation_pairs: int = Field(default=256, ge=1, le=100_000)
    """Number of pairs that the size of the circuit and its calibration are chosen on."""
    heldout_pairs: int = Field(default=256, ge=1, le=100_000)
    """Number of pairs that the result is scored on, those of `thinwire verify`; the rest of pruning does not use their
    templates and names."""
    mean_tokens: int = Field(default=65_536, ge=1, le=10**8)
    """Number of pretraining tokens over which mean activations are computed."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial masks and of the pairs."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        trained = self.steps * self.batch_pairs * max(self.trials, self.search)
        if trained > MOST_TRAINED:
            raise ValueError(
                f"steps, batch_pairs and trials make {trained:,} pairs to train masks on, which would take months; "
                f"lower them to {MOST_TRAINED:,} pairs or fewer"
            )
        return self

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
        """Largest allowed loss on validation pairs, nats."""
        return self.aim * self.target_loss

    @property
    def calibrates(self) -> bool:
        """Whether circuits meet the target under their best calibration, and not by their own log-odds."""
        return self.cut == "calibrated"

    @property
    def finishes(self) -> bool:
        """Whether circuits are processed further after bisection, so that several finalists are worthwhile."""
        return self.simplify or self.granularity == "nodes_then_edges"

    @property
    def point(self) -> Point:
        """The hyper-parameters of a trial without a search."""
        return Point(**{name: getattr(self, name) for name in Point.model_fields})
