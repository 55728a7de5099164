"""How much a page samples and shows."""

from pydantic import Field

from thinwire.config import Config


class SampleConfig(Config):
    """How much text is read and how much of it is kept."""

    text_tokens: int = Field(default=65_536, ge=1)
    """Held-out tokens that activations are sampled on, shared evenly among the parts of the corpus."""
    windows: int = Field(default=6, ge=0)
    """Strongest windows kept of each sign, per node."""
    before: int = Field(default=40, ge=0)
    """Tokens kept before the strongest one."""
    after: int = Field(default=20, ge=0)
    """Tokens kept after it."""
    bins: int = Field(default=40, ge=1)
    """Bins of the histogram."""


class PageConfig(SampleConfig):
    """What a page holds."""

    pairs: int = Field(default=4, ge=1)
    """Example pairs shown."""
    measured_pairs: int = Field(default=24, ge=1)
    """Held-out pairs behind the strength and sides of each node."""
    most_ablations: int = Field(default=200, ge=0)
    """Nodes beyond which the strengths of a circuit's nodes are not measured."""
    most_heads: int = Field(default=64, ge=0)
    """Heads whose attention patterns are shown, those first that differ most from the whole model's."""
    seed: int = Field(default=2, ge=0, lt=2**63)
    """Seed of the pairs."""
