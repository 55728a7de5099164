"""The suite: every family, with other widths, positions and weights for every seed."""

import thinwire.planted.failing as _failing
import thinwire.planted.honest as _honest
from thinwire.planted.families import FAMILIES
from thinwire.planted.model import Planted

__all__ = ["_failing", "_honest", "suite"]


def suite(seed: int = 0) -> list[Planted]:
    """The planted models of a seed, family by family; the same for the same seed."""
    families = [FAMILIES[name] for name in FAMILIES]
    return [planted for one in families for number in range(one.models) for planted in one.make(seed, number)]
