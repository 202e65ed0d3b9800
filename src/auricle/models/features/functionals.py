"""From a clip of any length to one vector of fixed length: statistics (functionals) of its descriptors over time.

In: waveforms or precomputed features, and lengths. Out: (batch, some) of each kind of functional. Statistics run over a
clip's real, active or voiced frames, and ten segments of the active part of audio keep the temporal order. There is
nothing to train, so a clip's vector is computed once for all folds and depends on that clip alone.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from auricle.models.features.descriptors import Descriptors, Frames, dct_matrix, deltas, neighbours, sort
from auricle.models.layers import masking
from auricle.models.layers.masking import mean_over

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The syllable rate is about 4 Hz; roughness begins above 16 Hz.
MODULATION_HZ = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 16.0, 22.0, 32.0)
MODULATION_BANDS = 10
SEGMENTS = 10
MAX_CEPSTRUM = 20
# Frames of precomputed features within this many nats (17 dB) of a clip's strongest are active: without the pauses.
ACTIVE_RANGE = 4.0


class Functionals(nn.Module):
    """Functionals of waveforms (batch, samples), by kind."""

    def __init__(self, sample_rate: int, n_mels: int, n_mfcc: int) -> None:
        super().__init__()
        self.descriptors = Descriptors(sample_rate, n_mels, n_mfcc)

    def forward(self, waveform: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Summarise (batch, samples) float32, zero beyond lengths (batch,) int64: (batch, some) of each kind."""
        return self.summarise(self.descriptors(waveform, lengths))

    def with_centers(
        self, waveform: Tensor, lengths: Tensor, centers: Mapping[int, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """What `forward` gives, and then what it gives of some clips' centers, from the same frames.

        centers: by their samples, which clips (batch,) bool, all longer. A center begins with the nearest hop. Frames
        that its ends cut are measured again: they see zeros beyond it, as those of a clip of that length do.
        """
        hop = self.descriptors.hop_length
        measured = self.descriptors.measure(waveform)
        yield self.summarise(self.descriptors.relative(measured, 1 + lengths // hop))
        for samples, chosen in centers.items():
            starts = ((lengths[chosen] - samples) // 2 + hop // 2) // hop
            section = self.descriptors.measure_sections(waveform[chosen], measured[chosen], starts, samples)
            counts = torch.full_like(starts, section.shape[-1])
            yield self.summarise(self.descriptors.relative(section, counts))

    def summarise(self, frames: Frames) -> dict[str, Tensor]:
        """The functionals of described clips, by kind: (batch, some) of each."""
        tracks = torch.cat([frames.cepstrum, frames.spectral_shape, frames.energy, frames.harmonicity], 1)
        pitched = torch.cat([tracks, frames.pitch], 1)
        changes = deltas(pitched, frames.num_frames, 2)
        return {
            "active": statistics(tracks, frames.active),
            "active deltas": statistics(changes[:, :-1], frames.active),
            "voiced": statistics(torch.cat([pitched, changes[:, -1:]], 1), frames.voiced),
            "unvoiced": mean_over(tracks, frames.active & ~frames.voiced),
            "all frames": mean_and_deviation(tracks, frames.real),
            "log-mel": mean_and_deviation(frames.log_mel, frames.active),
            "rhythm": rhythm(frames),
            "modulation": self.modulation(frames),
            "segments": self.segments(frames),
        }

    def modulation(self, frames: Frames) -> Tensor:
        """The modulation spectrum of ten bands, in nats: (batch, bands * rates)."""
        bands = torch.stack(frames.log_mel.chunk(MODULATION_BANDS, 1), 1).mean(2)
        centred = (bands - mean_over(bands, frames.active)[..., None]) * frames.active[:, None]
        seconds = torch.arange(bands.shape[-1], device=bands.device) * (
            self.descriptors.hop_length / self.descriptors.sample_rate
        )
        angle = 2 * math.pi * torch.tensor(MODULATION_HZ, device=bands.device)[None, :] * seconds[:, None]
        power = torch.matmul(centred, angle.cos()).square() + torch.matmul(centred, angle.sin()).square()
        return torch.log1p(power / frames.active.sum(-1).clamp_min(1)[:, None, None]).flatten(1)

    def segments(self, frames: Frames) -> Tensor:
        """Means over ten overlapping segments of the active part; the cepstrum relative to its mean."""
        weights = segment_weights(frames.active)
        cepstrum = torch.matmul(frames.cepstrum[:, :16], weights)
        slopes = torch.matmul(deltas(frames.cepstrum[:, :13], frames.num_frames, 4), weights)
        rest = torch.matmul(torch.cat([frames.energy, frames.harmonicity], 1), weights)
        return torch.cat([cepstrum - cepstrum.mean(-1, keepdim=True), slopes, rest], 1).flatten(1)


class FeatureFunctionals(nn.Module):
    """Functionals of log-mel features in nats, by kind: over real frames, or those near the clip's strongest."""

    dct: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("dct", torch.empty(min(MAX_CEPSTRUM, num_features), num_features), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Compute the DCT from the settings: `from_pretrained` leaves what no file holds uninitialised."""
        with torch.device("cpu"):
            self.dct.copy_(dct_matrix(*self.dct.shape))

    def forward(self, features: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Summarise (batch, num_features, frames) float32; frames beyond lengths (batch,) int64 change nothing."""
        real = masking.real(lengths, features.shape[-1])
        features = features.masked_fill(~real[:, None], 0.0)
        energy = features.mean(1)
        peak = energy.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        active = real & (energy > peak - ACTIVE_RANGE)
        cepstrum = torch.matmul(self.dct, features)
        shape = features - energy[:, None]
        activity = mean_over(active[:, None].float(), real)
        return {
            "cepstrum": statistics(cepstrum, active),
            "deltas": statistics(deltas(cepstrum, lengths, 2), active),
            "spectral shape": mean_and_deviation(shape, active),
            "all frames": mean_and_deviation(cepstrum, real),
            "energy": torch.cat([statistics((energy - peak)[:, None], real), activity], 1),
        }


@cache
def part_sizes(sample_rate: int, n_mels: int, n_mfcc: int) -> tuple[int, ...]:
    """How many functionals of waveforms each kind has."""
    parts = Functionals(sample_rate, n_mels, n_mfcc)(torch.zeros(1, sample_rate), torch.tensor([sample_rate]))
    return tuple(part.shape[1] for part in parts.values())


@cache
def feature_part_sizes(num_features: int) -> tuple[int, ...]:
    """How many functionals of precomputed features each kind has."""
    parts = FeatureFunctionals(num_features)(torch.zeros(1, num_features, 2), torch.tensor([2]))
    return tuple(part.shape[1] for part in parts.values())


def mean_and_deviation(values: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation over the mask: (batch, 2 * rows)."""
    mean = mean_over(values, mask)
    return torch.cat([mean, mean_over((values - mean[..., None]).square(), mask).sqrt()], 1)


def statistics(values: Tensor, mask: Tensor) -> Tensor:
    """Mean, deviation, skewness, kurtosis, slope and five quantiles over the mask: (batch, 10 * rows)."""
    centre = mean_over(values, mask)
    centred = values - centre[..., None]
    spread = mean_over(centred.square(), mask).sqrt()
    # Constant rows have third and fourth moments of zero, not noise divided by noise.
    unit = centred / (spread[..., None] + 1e-3)
    skewness = mean_over(unit.pow(3), mask).clamp(-10.0, 10.0)
    kurtosis = mean_over(unit.pow(4), mask).clamp_max(30.0)
    return torch.cat([centre, spread, skewness, kurtosis, slope(centred, mask), quantiles(values, mask)], 1)


def slope(centred: Tensor, mask: Tensor) -> Tensor:
    """Fit a straight line over the mask to values of mean zero: (batch, rows), per frame."""
    time = torch.arange(centred.shape[-1], device=centred.device, dtype=centred.dtype).expand(mask.shape[0], 1, -1)
    time = time - mean_over(time, mask)[..., None]
    return mean_over(centred * time, mask) / (mean_over(time.square(), mask) + 1e-3)


def quantiles(values: Tensor, mask: Tensor) -> Tensor:
    """`QUANTILES` over the mask, interpolated linearly as NumPy's: (batch, 5 * rows), zero where it is empty."""
    ordered = sort(values.masked_fill(~mask[:, None], torch.inf))
    last = (mask.sum(-1) - 1).clamp_min(0)[:, None, None]
    rank = last * torch.tensor(QUANTILES, device=values.device)
    low = rank.floor().long()
    high = torch.minimum(low + 1, last)
    below, above = (ordered.gather(-1, index.expand(-1, values.shape[1], -1)) for index in (low, high))
    found = torch.lerp(below, above, rank - low).masked_fill(~mask.any(-1)[:, None, None], 0.0)
    return found.transpose(1, 2).flatten(1)


def rhythm(frames: Frames) -> Tensor:
    """Lengths, shares and rates of active, voiced and loud segments, and the peak energy: (batch, 9)."""
    energy = frames.energy
    total = frames.num_frames.to(energy.dtype)
    active = frames.active.sum(-1)
    voiced = frames.voiced.sum(-1)
    # Onsets are counted, not offsets: where padding begins, no segment ends.
    voiced_segments, active_segments = 1 + count_onsets(frames.voiced), 1 + count_onsets(frames.active)
    before, _, after = neighbours(energy, frames.num_frames, 1)
    is_peak = (energy > after) & (energy >= before) & (energy > -25.0)
    energy_peaks = (is_peak[:, 0] & frames.real).sum(-1)
    columns = [
        total.log(),
        active.clamp_min(1).log(),
        active / total,
        voiced / active.clamp_min(1),
        voiced_segments / active.clamp_min(1),
        torch.log1p(voiced / voiced_segments),
        active_segments / total,
        energy_peaks / active.clamp_min(1),
        frames.peak_energy[:, 0],
    ]
    return torch.stack(columns, 1)


def count_onsets(mask: Tensor) -> Tensor:
    """Count where the mask (batch, frames) becomes true after its first frame: (batch,)."""
    before = (torch.arange(mask.shape[-1], device=mask.device) - 1).clamp_min(0)
    return (mask & ~mask[:, before]).sum(-1)


def segment_weights(active: Tensor) -> Tensor:
    """Weights of ten overlapping segments of active (batch, frames): (batch, frames, 10), columns summing to 1."""
    size = active.shape[-1]
    index = torch.arange(size, device=active.device)
    first = torch.where(active, index, size).amin(-1).clamp_max(size - 1)[:, None]
    last = torch.where(active, index, 0).amax(-1)[:, None]
    span = (last - first + 1).clamp_min(1)
    position = (index - first + 0.5) / span * SEGMENTS
    centres = torch.arange(SEGMENTS, device=active.device) + 0.5
    # Where a clip has fewer frames than segments, the triangles widen until each holds a frame.
    width = (SEGMENTS / span).clamp_min(1.0)[..., None]
    weights = (1 - (position[..., None] - centres).abs() / width).clamp_min(0.0)
    weights = weights * ((index >= first) & (index <= last))[..., None]
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
