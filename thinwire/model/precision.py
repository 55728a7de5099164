"""Which arithmetic a device multiplies matrices in."""

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
