"""GPU kernels are there where Triton is; nothing imports it before a tensor on a CUDA device needs them."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


@cache
def triton_module(name: str) -> ModuleType | None:
    """`thinwire.engine.gpu.<name>`, which is written in Triton; None where Triton is not installed."""
    return None if find_spec("triton") is None else import_module(f"thinwire.engine.gpu.{name}")
