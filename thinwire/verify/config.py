"""How a circuit is checked."""

from typing import Self

from pydantic import Field, model_validator

from thinwire.artifact import FORMATS, Format
from thinwire.config import Config
from thinwire.data.words import HELDOUT_SEED

FORMATS.register("verdict")(Format(version=3, files=("verdict.json",)))
MOST_RUNS = 10**8
"""Most runs of pairs through random circuits."""


class VerifyConfig(Config):
    """How a circuit is checked."""

    thorough: bool = False
    """Also make the checks that take minutes; without, those of seconds are made."""
    pairs: int = Field(default=256, ge=2, le=100_000)
    """Held-out pairs that every check measures on."""
    exchange_pairs: int = Field(default=128, ge=2, le=100_000)
    """Those of them, the first ones, on which nodes outside the circuit take values of other sequences."""
    random_circuits: int = Field(default=20, ge=1, le=100_000)
    """Random circuits of the same size to compare with."""
    reruns: int = Field(default=5, ge=2, le=10_000)
    """Times that thorough checks prune again: on other prompts, from other seeds, and without the circuit's nodes."""
    max_logit_scale: float = Field(default=3.0, gt=0)
    """Largest scale that a calibration which is fitted anew, as for random circuits, may give the log-odds."""
    seed: int = Field(default=HELDOUT_SEED, ge=0, lt=2**63)
    """Seed of the pairs and of the random circuits; by default the pairs are those that pruning reports on."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        runs = self.pairs * self.random_circuits
        if runs > MOST_RUNS:
            raise ValueError(
                f"{self.random_circuits:,} random circuits on {self.pairs:,} pairs each are {runs:,} runs, which would "
                f"take days; lower them to {MOST_RUNS:,} runs or fewer"
            )
        return self
