"""Which number format a machine is fast in."""

import torch

from auricle.models import device


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware."""
    if device.current().type == "cuda":
        return torch.cuda.get_device_capability(device.current()) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported())


def is_bf16(precision: str) -> bool:
    """Whether a recipe's precision (auto, float32 or bf16) is bf16 on this machine."""
    return native_bf16() if precision == "auto" else precision == "bf16"
