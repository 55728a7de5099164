"""Finds the GPU kernels. Triton is imported when a tensor on a CUDA device first needs it, not before."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


@cache
def triton_module(name: str) -> ModuleType | None:
    """The module `thinwire.engine.gpu.<name>` of Triton kernels, or None where Triton is not installed."""
    return None if find_spec("triton") is None else import_module(f"thinwire.engine.gpu.{name}")
