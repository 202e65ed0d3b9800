"""Which frames of a padded batch are real.

A batch is padded on the right to its longest clip. Every layer that looks across time masks with these functions, so
that a clip's logits are the same alone and in a batch with longer clips.
"""

import torch
from torch import Tensor


def lengths(input_values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Count the real samples of (batch, [channels,] samples) by mask (batch, samples): (batch,) int64; None is all."""
    if attention_mask is None:
        return torch.full((input_values.shape[0],), input_values.shape[-1], device=input_values.device)
    return attention_mask.sum(dim=-1, dtype=torch.int64)


def real(lengths: Tensor, size: int) -> Tensor:
    """Mark the first `lengths[i]` of `size` frames as real: (batch,) int64 → (batch, size) bool."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def unsqueezed(mask: Tensor, values: Tensor) -> Tensor:
    """Give a mask (batch, frames) the dimensions of values (batch, …, frames), to be broadcast."""
    return mask.reshape(mask.shape[0], *[1] * (values.dim() - 2), mask.shape[1])


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Average (batch, channels, frames) over its real frames, mask (batch, frames) → (batch, channels)."""
    weight = mask[:, None, :].to(values.dtype)
    return (values * weight).sum(-1) / weight.sum(-1).clamp_min(1.0)
