"""From frames to one vector per clip, over its real frames only.

In: (batch, channels, frames) and which frames are real. Out: (batch, channels), or twice as many for the two
kinds that join two statistics. Of several layers the statistics are joined and standardised.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.layers import masking
from auricle.models.options import PoolingKind

VARIANCE_FLOOR = 1e-5


def pooled_size(kind: PoolingKind, channels: int) -> int:
    return 2 * channels if kind in ("mean-max", "statistics") else channels


class Pooling(nn.Module):
    """Pool by one of the kinds; only attention has weights.

    statistics joins mean and deviation (Snyder et al. 2017). attention is self-attentive pooling (Safari et al. 2020).
    """

    def __init__(self, kind: PoolingKind, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.score = nn.Linear(channels, 1) if kind == "attention" else None

    def forward(self, values: Tensor, real: Tensor) -> Tensor:
        """Pool (batch, channels, frames) over the frames that real (batch, frames) marks."""
        if self.kind == "mean":
            return masking.mean_over(values, real)
        if self.kind == "mean-max":
            largest = values.masked_fill(~real[:, None, :], -torch.inf).amax(-1)
            return torch.cat([masking.mean_over(values, real), largest], dim=-1)
        if self.kind == "statistics":
            wide = values.float()
            mean = masking.mean_over(wide, real)
            variance = masking.mean_over((wide - mean[..., None]).square(), real)
            return torch.cat([mean, (variance + VARIANCE_FLOOR).sqrt()], dim=-1).to(values.dtype)
        assert self.score is not None, "attention has a score layer"
        frames = values.transpose(1, 2)
        weights = F.softmax(self.score(frames).float().masked_fill(~real[..., None], -torch.inf), 1)
        return (frames * weights.to(frames.dtype)).sum(1)


class LayerPooling(nn.Module):
    """Mean and deviation of some layers, joined, standardised and clipped as a ridge classifier was fitted to them.

    `layers` are numbers, ascending; 0 is the embedding. Standardising keeps one learning rate right for all features.
    """

    mean: Tensor
    scale: Tensor
    kind: PoolingKind = "statistics"

    def __init__(self, layers: Sequence[int], channels: int, limit: float) -> None:
        super().__init__()
        self.layers, self.limit = tuple(layers), limit
        self.pooling = Pooling("statistics", channels)
        self.register_buffer("mean", torch.zeros(2 * channels * len(self.layers)))
        self.register_buffer("scale", torch.ones(2 * channels * len(self.layers)))

    def statistics(self, hidden: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        """The mean and the deviation (batch, channels) float32 of one layer's frames (batch, frames, channels)."""
        return self.pooling(hidden.float().transpose(1, 2), real).chunk(2, -1)  # type: ignore[no-any-return]

    def forward(self, statistics: Sequence[Tensor]) -> Tensor:
        """Join the statistics of all layers, in their order: (batch, size)."""
        joined = torch.cat([part.float() for part in statistics], -1)
        return ((joined - self.mean) * self.scale).clamp(-self.limit, self.limit)
