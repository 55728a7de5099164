"""What a pruning run is."""

from typing import Literal

from pydantic import Field

from thinwire.config import Config


class PruneConfig(Config):
    """Search for the fewest nodes that keep a task's loss at the target (Gao et al. 2025, A.5)."""

    target_loss: float = Field(default=0.15, gt=0)
    """Task loss the circuit is wanted to have on pairs it never saw, nats."""
    aim: float = Field(default=0.5, gt=0, le=1)
    """Part of target_loss that validation pairs must meet, since other templates are harder than theirs; where the
    whole model does not meet it either, halfway from its loss to target_loss."""
    trials: int = Field(default=2, ge=1)
    """Masks trained side by side in one forward pass, from different noise; the one with the fewest edges wins."""
    steps: int = Field(default=400, ge=1)
    """Mask updates."""
    batch_pairs: int = Field(default=32, ge=1)
    """Pairs of prompts per update and trial."""
    sparsity: Literal["controlled", "fixed"] = "controlled"
    """Pressure on the number of nodes: steered by the distance to the target loss, or the paper's constant k_coef."""
    k_coef: float = Field(default=1e-4, gt=0)
    """Loss per kept node; where the controlled pressure starts."""
    k_coef_up: float = Field(default=1.03, gt=1)
    """Controlled pressure: factor per step while the running loss is below aim·target_loss."""
    k_coef_down: float = Field(default=0.94, gt=0, lt=1)
    """Controlled pressure: factor per step while it is above."""
    learning_rate: float = Field(default=0.02, gt=0)
    """Rate of the mask parameters; falls linearly to 0."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the steps over which the rate rises (the text of A.5 has none, its Table 2 has 0.05)."""
    weight_decay: float = Field(default=1e-3, ge=0)
    """AdamW decay of the mask parameters."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW: decay of the squared gradient's running mean."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of one trial's gradient."""
    heaviside_temp: float = Field(default=1.0, gt=0)
    """Temperature of the sigmoid whose derivative stands in for that of the step."""
    init_noise_scale: float = Field(default=0.01, ge=0)
    """Standard deviation of the initial mask parameters."""
    init_noise_bias: float = 0.1
    """Mean of the initial mask parameters."""
    max_logit_scale: float = Field(default=3.0, gt=0)
    """Largest scale the calibration may give the logits; without a bound it props up circuits that barely move them."""
    simplify: bool = True
    """After bisecting, drop every node without which the target still holds."""
    train_pairs: int = Field(default=2048, ge=1)
    """Distinct pairs the masks are trained on."""
    calibration_pairs: int = Field(default=128, ge=1)
    """How many of those the calibration of each candidate is fitted on."""
    validation_pairs: int = Field(default=256, ge=1)
    """Pairs that choose the number of nodes."""
    heldout_pairs: int = Field(default=256, ge=1)
    """Pairs that the result is reported on; the rest of pruning sees neither their templates nor their names."""
    mean_tokens: int = Field(default=65_536, ge=1)
    """Tokens of the pretraining mixture that mean activations are taken over."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the noise and of the pairs."""

    @property
    def validation_target(self) -> float:
        """Loss that validation pairs must meet, nats."""
        return self.aim * self.target_loss
