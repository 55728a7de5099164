"""Sparsifiers, the methods that make weights zero: one registered class a file, their options in `options`."""

from typing import TYPE_CHECKING

from thinwire.lazy import attach

if TYPE_CHECKING:
    from thinwire.train.sparsity.base import Sparsifier as Sparsifier
    from thinwire.train.sparsity.methods import SPARSIFIERS as SPARSIFIERS
    from thinwire.train.sparsity.options import OPTIONS as OPTIONS

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "OPTIONS": "options",
        "SPARSIFIERS": "methods",
        "Sparsifier": "base",
    },
)
