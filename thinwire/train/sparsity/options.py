"""The options of every sparsifier, by the sparsifier's name. This module needs no torch.

`thinwire.train.config` validates `sparsity` and `sparsity_options` against `OPTIONS`. The sparsifiers themselves, one
class a file beside this one, import both.
"""

from typing import ClassVar

from pydantic import Field

from thinwire.config import Config


class SparsifierOptions(Config):
    """Base of the options of a sparsifier; also the properties that have to be known before there is a model."""

    keeps_floor: ClassVar[bool] = False
    """Whether every neuron and attention channel keeps at least the config's `floor` of nonzeros."""
    needs_start: ClassVar[bool] = False
    """Whether the run has to start from the weights of another model."""
    supports_fsdp: ClassVar[bool] = False
    """Whether it works where every rank holds only its rows of a matrix."""


class FrozenOptions(SparsifierOptions):
    """A frozen support has no options."""

    needs_start: ClassVar[bool] = True
    supports_fsdp: ClassVar[bool] = True


class GroupLassoOptions(SparsifierOptions):
    """Options of group lasso."""

    l1_fraction: float = Field(default=0.9, ge=0, le=1)
    """Part of the penalty that acts on single weights; with 0, channels are whole or absent."""


class HardConcreteOptions(SparsifierOptions):
    """Options of HardConcrete gates."""

    temperature: float = Field(default=2 / 3, gt=0)
    """Sharpness of the gates' distribution; towards 0 they are all or nothing."""
    stretch: float = Field(default=0.1, gt=0)
    """How far the distribution reaches below 0 and above 1 before it is clipped."""
    initial: float = Field(default=3.0, ge=-100, le=100)
    """log_alpha at the start."""
    travel: float = Field(default=200.0, gt=0)
    """How far log_alpha could move in a run at its peak rate. That rate is `travel` over the steps, and at most 1."""


class L1Options(SparsifierOptions):
    """L1 has no options."""


class SoftTopKOptions(SparsifierOptions):
    """Options of soft top-k."""

    keeps_floor: ClassVar[bool] = True
    backward_factor: float = Field(default=4.0, ge=1)
    """Gradients reach this many times as many weights as compute."""
    temperature: float = Field(default=0.1, gt=0)
    """Width of the sigmoid that weights them, relative to the smallest kept magnitude."""


class TopKOptions(SparsifierOptions):
    """Weight top-k has no options."""

    keeps_floor: ClassVar[bool] = True
    supports_fsdp: ClassVar[bool] = True


OPTIONS: dict[str, type[SparsifierOptions]] = {
    "frozen": FrozenOptions,
    "group_lasso": GroupLassoOptions,
    "hardconcrete": HardConcreteOptions,
    "l1": L1Options,
    "soft_topk": SoftTopKOptions,
    "topk": TopKOptions,
}
"""The options of each sparsifier, by its name."""
