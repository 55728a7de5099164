"""Whether a device multiplies matrices in bf16 natively."""

import torch


def native_bf16(device: str) -> bool:
    """Whether bf16 is the fast choice on this type of device, "cpu" or "cuda"."""
    return torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
