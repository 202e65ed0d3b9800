"""From precomputed log-mel features of any length to one vector of fixed length, for the baseline.

In: features (batch, num_features, frames) in nats and their lengths. Out: (batch, size). Statistics run over a clip's
real frames, or over those not much weaker than its strongest; there is nothing to train, so a clip's vector is computed
once for all folds and depends on that clip alone.
"""

import torch
from torch import Tensor, nn

from auricle.models.features.descriptors import dct_matrix, deltas
from auricle.models.features.functionals import deviation, mean, statistics
from auricle.models.layers import masking

MAX_CEPSTRUM = 20
# Frames within this many nats (17 dB) of a clip's strongest are active: speech without the pauses.
ACTIVE_RANGE = 4.0


class FeatureFunctionals(nn.Module):
    """Features (batch, num_features, frames) → functionals (batch, size); methods as Functionals'."""

    dct: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("dct", torch.empty(min(MAX_CEPSTRUM, num_features), num_features), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Compute the DCT from the settings: `from_pretrained` leaves what no file holds uninitialised."""
        with torch.device("cpu"):
            self.dct.copy_(dct_matrix(*self.dct.shape))

    def prepare(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features stay as they are: `parts` masks them."""
        return features

    def part_sizes(self) -> list[int]:
        """The width of each kind of functional."""
        parts = self.parts(torch.zeros(1, self.num_features, 2), torch.tensor([2]))
        return [part.shape[1] for part in parts.values()]

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Summarise (batch, num_features, frames) float32; frames beyond lengths (batch,) int64 change nothing."""
        return torch.cat(list(self.parts(features, lengths).values()), 1)

    def parts(self, features: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The functionals by kind, each (batch, some), in the order of `forward`."""
        real = masking.real(lengths, features.shape[-1])
        features = features.masked_fill(~real[:, None], 0.0)
        energy = features.mean(1)
        peak = energy.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        active = real & (energy > peak - ACTIVE_RANGE)
        cepstrum = torch.matmul(self.dct, features)
        shape = features - energy[:, None]
        activity = mean(active[:, None].float(), real)
        return {
            "cepstrum": statistics(cepstrum, active),
            "deltas": statistics(deltas(cepstrum, lengths, 2), active),
            "spectral shape": torch.cat([mean(shape, active), deviation(shape, active)], 1),
            "all frames": torch.cat([mean(cepstrum, real), deviation(cepstrum, real)], 1),
            "energy": torch.cat([statistics((energy - peak)[:, None], real), activity], 1),
        }
