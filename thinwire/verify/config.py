"""How a circuit is checked."""

from pydantic import Field

from thinwire.artifact import FORMATS, Format
from thinwire.config import Config
from thinwire.data.words import HELDOUT_SEED

FORMATS.register("verdict")(Format(version=2, files=("verdict.json",)))


class VerifyConfig(Config):
    """How a circuit is checked."""

    pairs: int = Field(default=256, ge=2)
    """Held-out pairs that every check measures on."""
    random_circuits: int = Field(default=20, ge=1)
    """Random circuits of the same size to compare with."""
    max_logit_scale: float = Field(default=3.0, gt=0)
    """Largest scale that a random circuit's calibration may give the logits."""
    seed: int = Field(default=HELDOUT_SEED, ge=0, lt=2**63)
    """Seed of the pairs and of the random circuits; by default the pairs are those that pruning reports on."""
