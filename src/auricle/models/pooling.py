"""From frames to one vector per clip, over its real frames only.

In: (batch, channels, frames) and which frames are real. Out: (batch, width).
"""

import torch
from torch import Tensor

from auricle.models import masking


def mean_and_max(values: Tensor, real: Tensor) -> Tensor:
    """Join the mean and the maximum over the real frames: (batch, channels, frames) → (batch, 2 * channels)."""
    largest = values.masked_fill(~real[:, None, :], -torch.inf).amax(-1)
    return torch.cat([masking.mean_over(values, real), largest], dim=-1)
