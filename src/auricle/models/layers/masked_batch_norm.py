"""Batch normalisation over the real frames of a padded batch.

In: (batch, channels, …, frames) and the real frames of each clip. Out: the same shape, zero beyond them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.layers import masking


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) whose statistics and output cover real frames only."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Reset: unit scale, no shift, statistics of a standard normal input."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1.0)
        self.num_batches_tracked.zero_()

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Normalise (batch, channels, …, frames); zero beyond lengths (batch,); None is all real."""
        if lengths is None or not self.training:
            return self._unmasked(values, lengths)
        mask = self._mask(lengths, values)
        # Sums over thousands of cells need float32, also under bf16 autocast.
        wide = values.float()
        axes = [axis for axis in range(values.dim()) if axis != 1]
        count = mask.sum() * values.shape[2:-1].numel()
        mean = (wide * mask).sum(axes) / count
        variance = ((wide - self._per_channel(mean, values)).square() * mask).sum(axes) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return ((wide * self._per_channel(scale, values) + self._per_channel(shift, values)) * mask).to(values.dtype)

    def _unmasked(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """The library's own batch norm, the fastest, where all frames are real or the statistics are known."""
        if self.training:
            self.num_batches_tracked.add_(1)
        normal = F.batch_norm(
            values,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return normal if lengths is None else normal * self._mask(lengths, values)

    @staticmethod
    def _mask(lengths: Tensor, values: Tensor) -> Tensor:
        return masking.unsqueezed(masking.real(lengths, values.shape[-1]), values)

    @staticmethod
    def _per_channel(channels: Tensor, values: Tensor) -> Tensor:
        return channels.reshape(-1, *[1] * (values.dim() - 2))
