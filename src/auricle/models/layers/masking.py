"""Which frames of a padded batch are real, and statistics over these.

A batch is padded on the right to its longest clip. Every layer that looks across time masks with these functions, so
that a clip's logits are the same alone and in a batch with longer clips.
"""

import torch
from torch import Tensor, nn


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


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015) whose statistics and output cover real frames only."""

    num_batches_tracked: Tensor

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:  # type: ignore[override]
        """Normalise (batch, channels, …, frames); zero beyond lengths (batch,); None is all real."""
        if lengths is None:
            return super().forward(values)
        mask = unsqueezed(real(lengths, values.shape[-1]), values)
        if not self.training:
            return super().forward(values) * mask
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        # Sums over thousands of cells need float32, also under bf16 autocast.
        wide = values.float()
        axes = [axis for axis in range(values.dim()) if axis != 1]
        count = mask.sum() * values.shape[2:-1].numel()
        mean = (wide * mask).sum(axes) / count
        per_channel = (-1, *[1] * (values.dim() - 2))
        variance = ((wide - mean.reshape(per_channel)).square() * mask).sum(axes) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return ((wide * scale.reshape(per_channel) + shift.reshape(per_channel)) * mask).to(values.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes between channels and frames."""
