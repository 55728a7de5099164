"""How steering and circuit transfer are measured."""

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from thinwire.config import Config

Dose = Literal["sparse/dense", "dense/sparse"]
DOSES: tuple[Dose, ...] = get_args(Dose)
Choice = Literal["circuit", "nodes", "scan"]
Ablation = Literal["mean", "exchange"]
Strength = Annotated[float, Field(ge=0, le=1000)]
NODES, DIRECTIONS, SHUFFLED = "random nodes", "random directions", "shuffled bridge"
CONTROLS = (NODES, DIRECTIONS, SHUFFLED)
"""Controls at the reference strength; at the others there are only random nodes."""


class SteerConfig(Config):
    """What a dense model is steered by, and how that is measured."""

    strengths: tuple[Strength, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    """Multiples of the difference between the prompts of a pair that are added to the dense model's reads."""
    pairs: int = Field(default=128, ge=1, le=2**20)
    """Held-out pairs that are steered; a scan gets as many training pairs."""
    reads: Choice = "circuit"
    """Reads to steer by: `circuit` takes the circuit's and every later read of the channels that it writes, `nodes` its
    own alone, `scan` those of the whole sparse model that gradients find on training pairs."""
    top: int = Field(default=32, ge=1, le=2**20)
    """Reads that a scan chooses."""
    first_point: int = Field(default=0, ge=0, le=2**20)
    """First residual point of the reads; 1 leaves out h_0, which substitutes tokens."""
    dose: Dose = "sparse/dense"
    """What a sparse read is worth, as a ratio of root mean squares: linear algebra gives sparse/dense, the paper has
    dense/sparse. This one gets every control; the other one is reported beside it."""
    draws: int = Field(default=20, ge=1, le=10_000)
    """Draws of every control."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the pairs, the draws and the intervals."""

    @field_validator("strengths")
    @classmethod
    def _moving(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        if not any(strengths):
            raise ValueError("give at least one above 0, such as 0.5 and 1")
        return tuple(sorted(set(strengths)))

    @property
    def reference(self) -> float:
        """The strength at which every control is drawn: 1, or else the largest."""
        return 1.0 if 1.0 in self.strengths else max(self.strengths)

    def passes(self, curves: int) -> int:
        """Forward passes of the dense model for so many curves."""
        moving = sum(strength > 0 for strength in self.strengths)
        controls = (moving + len(CONTROLS) - 1 + curves - 1) * self.draws
        return curves * len(self.strengths) + controls


class TransferConfig(Config):
    """How circuit transfer is measured."""

    ablation: Ablation = "mean"
    """What a circuit's reads are set to: their means over the task's prompts, or what they are in the other prompt of
    the pair."""
    pairs: int = Field(default=128, ge=1, le=2**20)
    """Held-out pairs of each task."""
    draws: int = Field(default=20, ge=1, le=10_000)
    """Draws of random nodes, and of random directions."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the pairs, the draws and the intervals."""
