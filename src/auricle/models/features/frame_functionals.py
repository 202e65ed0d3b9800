"""From ready log-mel frames of any number to one vector of fixed length, for the instant baseline.

In: frames (batch, bands, frames) in nats and their counts. Out: (batch, n_features). Statistics run over a clip's real
frames, or over those that are not much weaker than its strongest; nothing is learnt here, so a clip's vector is
computed once for all folds and depends on that clip alone.
"""

import torch
from torch import Tensor, nn

from auricle.models.features.descriptors import cosines, motion
from auricle.models.features.functionals import deviation, mean, statistics
from auricle.models.layers import masking

MOST_CEPSTRUM = 20
# Frames within this many nats (17 dB) of a clip's strongest are called active: what is said, without the pauses.
ACTIVE_RANGE = 4.0


class FrameFunctionals(nn.Module):
    """Log-mel frames (batch, bands, frames) → features (batch, n_features), named and grouped by `parts`."""

    cosines: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("cosines", torch.empty(min(MOST_CEPSTRUM, num_features), num_features), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Fill the cosines from the settings: `from_pretrained` builds models without memory for what no file holds."""
        with torch.device("cpu"):
            self.cosines.copy_(cosines(*self.cosines.shape))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Summarise (batch, bands, frames) float32; what lies beyond lengths (batch,) int64 changes nothing."""
        return torch.cat(list(self.parts(frames, lengths).values()), 1)

    def parts(self, frames: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The features by kind, each (batch, some), in the order of `forward`."""
        real = masking.real(lengths, frames.shape[-1])
        frames = frames.masked_fill(~real[:, None], 0.0)
        level = frames.mean(1)
        peak = level.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        active = real & (level > peak - ACTIVE_RANGE)
        cepstrum = torch.matmul(self.cosines, frames)
        moving = motion(cepstrum, lengths, 2)
        shape = frames - level[:, None]
        return {
            "cepstrum": statistics(cepstrum, active),
            "motion": statistics(moving, active),
            "bands": torch.cat([mean(shape, active), deviation(shape, active)], 1),
            "all": torch.cat([mean(cepstrum, real), deviation(cepstrum, real)], 1),
            "level": torch.cat([statistics((level - peak)[:, None], real), mean(active[:, None].float(), real)], 1),
        }
