"""The device that models run on: the GPU if there is one, or the one that the user names.

`with device.use("cuda:1"):` holds for all that is trained and loaded in the block. It is not part of the recipe: the
same recipe runs on another machine.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from auricle.errors import UsageError

if TYPE_CHECKING:
    import torch

_NAMES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
# What accelerate reads, which moves the model that is trained.
_ACCELERATE = "ACCELERATE_TORCH_DEVICE"
# Of the process, since the threads of the service ask for it too.
_named = "auto"


def check(name: str) -> None:
    """Raise UsageError for what is no device's name; whether this machine has it is not checked yet."""
    if not _NAMES.fullmatch(name):
        raise UsageError(f"'{name}' is not a device. Allowed: auto, cpu, cuda, cuda:N, mps.")


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run the block on a device: auto, cpu, cuda, cuda:N or mps. Raises UsageError for one that is not here."""
    global _named
    check(name)
    before, _named = _named, name
    variable = os.environ.get(_ACCELERATE)
    if name != "auto":
        os.environ[_ACCELERATE] = name
    try:
        if name not in ("auto", "cpu"):
            current()
        yield
    finally:
        _named = before
        os.environ.pop(_ACCELERATE, None)
        if variable is not None:
            os.environ[_ACCELERATE] = variable


def current() -> "torch.device":
    """The device of this block. Raises UsageError for a device that this machine does not have."""
    import torch

    if _named == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(_named)
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        available = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        available += ["mps"] if torch.backends.mps.is_available() else []
        raise UsageError(f"This machine has no device '{_named}'. It has: {', '.join(available)}.")
    return device


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware."""
    import torch

    if current().type == "cuda":
        return torch.cuda.get_device_capability(current()) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported())


def is_bf16(precision: str) -> bool:
    """Whether a recipe's precision (auto, float32 or bf16) is bf16 on this machine."""
    return native_bf16() if precision == "auto" else precision == "bf16"
