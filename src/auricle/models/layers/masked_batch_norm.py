"""Batch normalisation over the real frames of a padded batch.

In: (batch, channels, …, frames) and the real frames of each clip. Out: the same shape, zero beyond them.
"""

import torch
from torch import Tensor, nn

from auricle.models.layers import masking


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015) whose statistics and output cover real frames only."""

    num_batches_tracked: Tensor

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:  # type: ignore[override]
        """Normalise (batch, channels, …, frames); zero beyond lengths (batch,); None is all real."""
        if lengths is None:
            return super().forward(values)
        mask = masking.unsqueezed(masking.real(lengths, values.shape[-1]), values)
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
