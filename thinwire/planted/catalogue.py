"""The suite: every family, with other widths, positions and weights for every seed."""

from importlib import import_module

from thinwire.planted.families import FAMILIES, Family
from thinwire.planted.model import Planted

MODULES = "honest", "failing"
"""Modules of this package that register families, in the order of the suite."""


def families() -> list[Family]:
    """Every family of this package, and others that have been registered."""
    for module in MODULES:
        import_module(f"thinwire.planted.{module}")
    return [FAMILIES[name] for name in FAMILIES]


def suite(seed: int = 0) -> list[Planted]:
    """The planted models of a seed, family by family; the same for the same seed."""
    return [planted for one in families() for number in range(one.models) for planted in one.make(seed, number)]
