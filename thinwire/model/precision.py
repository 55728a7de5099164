"""Which arithmetic a device multiplies matrices in, and that a caller's modes do not change it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def native_bf16(device: str) -> bool:
    """Whether bf16 is the fast choice on this type of device, "cpu" or "cuda"."""
    return torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which matrices are multiplied there under precision "auto", "bf16" or "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrices are multiplied in bf16 there, under precision "auto", "bf16" or "fp32"."""
    return native_bf16(device.type) if precision == "auto" else precision == "bf16"


@contextmanager
def own_modes() -> Iterator[None]:
    """A context, or a decorator, that modes of the caller's thread do not reach.

    These are autocast, `no_grad`, inference mode, and how numpy reports errors. Within it gradients are on.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        yield
