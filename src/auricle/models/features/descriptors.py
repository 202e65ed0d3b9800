"""What a sound is like, frame by frame: the measurements whose statistics the baseline classifies.

In: mono waveforms (batch, samples) and their lengths. Out: `Frames`, one every 10 ms: cepstrum, spectral shape, level,
harmonicity and pitch, and which frames are real, active and voiced. Each frame sees its own samples and zeros beyond
the clip, so what is measured depends on that clip alone.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.audio.mel import mel_filters
from auricle.models.features import fourier
from auricle.models.layers import masking

# Everything is measured on power; this floor (-90 dB of full scale) keeps digital silence finite.
FLOOR = 1e-9
HOP_SECONDS = 0.010
FRAME_SECONDS = 0.025
# Three periods of the lowest voice must fit (Boersma 1993).
PITCH_SECONDS = 0.060
PITCH_LOW, PITCH_HIGH = 60.0, 500.0
# A frame is active within 40 dB of the clip's loudest, voiced within 30 dB when its autocorrelation peaks above 0.5.
ACTIVE_DB, VOICED_DB, VOICED_PEAK = 40.0, 30.0, 0.5
# Frames worked on at once: an hour's recording must not need an hour's worth of temporary spectra.
SPAN = 4096
CONTRAST_EDGES = (0.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12_800.0)


@dataclass(frozen=True)
class Frames:
    """The measurements of a batch. Tensors are (batch, rows, frames), masks (batch, frames), counts (batch,)."""

    log_mel: Tensor
    cepstrum: Tensor
    shape: Tensor
    level: Tensor
    harmonicity: Tensor
    pitch: Tensor
    peak: Tensor
    counts: Tensor
    real: Tensor
    active: Tensor
    voiced: Tensor


class Descriptors(nn.Module):
    """Measure waveforms of one sample rate."""

    window: Tensor
    filters: Tensor
    cosines: Tensor
    bins: Tensor
    pitch_window: Tensor
    pitch_decay: Tensor

    def __init__(self, sample_rate: int, n_mels: int, n_mfcc: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.n_mfcc = n_mfcc
        self.hop_length = max(1, round(HOP_SECONDS * sample_rate))
        self.n_fft = 2 ** math.ceil(math.log2(FRAME_SECONDS * sample_rate))
        self.pitch_size = round(PITCH_SECONDS * sample_rate)
        # The transform leaves room for the longest lag, so that the autocorrelation does not wrap around.
        self.pitch_fft = 2 ** math.ceil(math.log2((PITCH_SECONDS + 1 / PITCH_LOW) * sample_rate + 8))
        # Pitch lies low: the autocorrelation is taken at the lowest rate that still holds 6 kHz.
        self.pitch_step = 2 ** max(0, math.floor(math.log2(sample_rate / 12_000)) + 1)
        self.shortest = max(2, int(sample_rate / self.pitch_step / PITCH_HIGH))
        self.longest = int(sample_rate / self.pitch_step / PITCH_LOW)
        for name, value in self._constants().items():
            self.register_buffer(name, value, persistent=False)

    def reset(self) -> None:
        """Make the constants anew; transformers leaves them empty when it loads a model."""
        for name, value in self._constants().items():
            getattr(self, name).copy_(value)

    def _constants(self) -> dict[str, Tensor]:
        with torch.device("cpu"):
            return self._make_constants()

    def _make_constants(self) -> dict[str, Tensor]:
        pitch_window = torch.hann_window(self.pitch_size)
        decay = torch.fft.irfft(torch.fft.rfft(pitch_window, self.pitch_fft).abs().square())
        decay = decay[:: self.pitch_step][: self.longest + 2]
        return {
            "window": torch.hann_window(self.n_fft),
            "filters": torch.from_numpy(
                mel_filters(self.sample_rate, self.n_fft, self.n_mels, 20.0, self.sample_rate / 2)
            ),
            "cosines": cosines(self.n_mfcc, self.n_mels),
            "bins": torch.linspace(0.0, self.sample_rate / 2, self.n_fft // 2 + 1),
            "pitch_window": pitch_window,
            "pitch_decay": decay / decay[0],
        }

    def forward(self, waveform: Tensor, lengths: Tensor) -> Frames:
        """Measure (batch, samples) float32, zero beyond lengths (batch,) int64."""
        counts = 1 + lengths // self.hop_length
        size = 1 + waveform.shape[-1] // self.hop_length
        real = masking.real(counts, size)
        power = self.power(waveform)
        log_mel = decibels(torch.matmul(self.filters.T, power) * (self.sample_rate / self.n_fft / self.n_mels))
        level = decibels(power.sum(1, keepdim=True) * (2 / self.n_fft))
        peak = level.masked_fill(~real[:, None], -torch.inf).amax(-1, keepdim=True)
        active = real & (level > peak - ACTIVE_DB)[:, 0]
        outline = torch.cat([self.shape(span) for span in _spans(power, -1)], -1)
        pitch, strength = self.pitch(waveform, counts, size)
        strength = strength.clamp(0.01, 0.99)
        return Frames(
            log_mel=log_mel,
            cepstrum=torch.matmul(self.cosines, log_mel),
            shape=torch.cat([outline, flux(log_mel, counts), self.crossings(waveform, size)], 1),
            level=level - peak,
            harmonicity=decibels(strength / (1 - strength)),
            pitch=pitch,
            peak=peak[:, :, 0],
            counts=counts,
            real=real,
            active=active,
            voiced=active & ((strength > VOICED_PEAK) & (level > peak - VOICED_DB))[:, 0],
        )

    def power(self, waveform: Tensor) -> Tensor:
        """Give the power spectrum (batch, bins, frames); a full-scale sine sums to about n_fft / 4."""
        if torch.compiler.is_compiling():
            # Beside loud bins a product in single precision drowns the faint ones, which contrast is measured by.
            padded = F.pad(waveform, (self.n_fft // 2, self.n_fft // 2)).unfold(-1, self.n_fft, self.hop_length)
            power = fourier.power((padded * self.window).double(), self.n_fft, self.n_fft // 2 + 1)
            return (power / self.window.square().sum()).to(waveform.dtype).transpose(-1, -2)
        spectrum = torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return torch.view_as_real(spectrum).square().sum(-1) / self.window.square().sum()

    def shape(self, power: Tensor) -> Tensor:
        """Describe the spectrum's outline by centroid, bandwidth, roll-off, flatness, tilt and contrast.

        power (batch, bins, frames) → (batch, rows, frames). Frequencies are in octaves; ratios in decibels.
        """
        power = power + 1e-12
        share = power / power.sum(1, keepdim=True)
        hertz = self.bins[:, None]
        centroid = (share * hertz).sum(1, keepdim=True)
        bandwidth = (share * (hertz - centroid).square()).sum(1, keepdim=True).sqrt()
        below = share.cumsum(1)
        step = self.sample_rate / self.n_fft
        rolloff = [(below < quantile).sum(1, keepdim=True) * step for quantile in (0.25, 0.5, 0.85, 0.95)]
        flatness = power.log().mean(1, keepdim=True) - power.mean(1, keepdim=True).log()
        # Alpha ratio and Hammarberg index, as in eGeMAPS (Eyben et al. 2016).
        alpha = decibels(self._band(power, 50, 1000).sum(1, keepdim=True)) - decibels(
            self._band(power, 1000, 5000).sum(1, keepdim=True)
        )
        hammarberg = decibels(self._band(power, 0, 2000).amax(1, keepdim=True)) - decibels(
            self._band(power, 2000, 5000).amax(1, keepdim=True)
        )
        octaves = [torch.log2(row + 50.0) for row in (centroid, bandwidth, *rolloff)]
        return torch.cat([*octaves, flatness, alpha, hammarberg, *self._contrast(power)], 1)

    def _band(self, power: Tensor, low: float, high: float) -> Tensor:
        inside = (self.bins >= low) & (self.bins < high)
        return power * inside[:, None]

    def _contrast(self, power: Tensor) -> list[Tensor]:
        """Peaks over valleys in octave bands: the loudest fifth of the bins over the faintest (Jiang et al. 2002)."""
        rows = []
        width = self.sample_rate / self.n_fft
        for low, high in itertools.pairwise(CONTRAST_EDGES):
            first, last = math.ceil(low / width), min(math.ceil(high / width), self.n_fft // 2 + 1)
            if last - first < 2:
                continue
            ordered = power[:, first:last].sort(1).values
            fifth = max(1, round(0.2 * (last - first)))
            loud, faint = ordered[:, -fifth:], ordered[:, :fifth]
            rows.append(decibels(loud.mean(1, keepdim=True)) - decibels(faint.mean(1, keepdim=True)))
        return rows

    def crossings(self, waveform: Tensor, size: int) -> Tensor:
        """Give the root of the zero-crossing rate of each frame: (batch, 1, frames)."""
        crossed = (waveform[:, 1:] * waveform[:, :-1] < 0).long()
        crossed = F.pad(crossed, (self.n_fft // 2, self.n_fft)).cumsum(-1)
        start = torch.arange(size, device=waveform.device) * self.hop_length
        rate: Tensor = (crossed[:, start + self.n_fft - 1] - crossed[:, start]) / self.n_fft
        return rate.sqrt()[:, None]

    def pitch(self, waveform: Tensor, counts: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Give pitch in octaves above 100 Hz and the height of its autocorrelation peak, each (batch, 1, frames).

        Windowed autocorrelation over the window's own (Boersma 1993), then a median over five frames.
        """
        frames = F.pad(waveform, (self.pitch_size // 2, self.pitch_size)).unfold(-1, self.pitch_size, self.hop_length)
        found = [self._best_lag(self._autocorrelation(span)) for span in _spans(frames[:, :size], 1)]
        lag, strength = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        octaves = torch.log2(self.sample_rate / self.pitch_step / lag / 100.0)
        around = [at(octaves[:, None], counts, step) for step in (-2, -1, 0, 1, 2)]
        return _middle(around), strength[:, None]

    def _autocorrelation(self, frames: Tensor) -> Tensor:
        """Correlate frames (batch, frames, samples) with themselves: (batch, frames, lags), 1 at lag 0."""
        frames = (frames - frames.mean(-1, keepdim=True)) * self.pitch_window
        kept = self.pitch_fft // self.pitch_step // 2 + 1
        if torch.compiler.is_compiling():
            power = fourier.power(frames, self.pitch_fft, kept)
            raw = fourier.correlation(power, 2 * (kept - 1), self.longest + 2)
        else:
            spectrum = torch.fft.rfft(frames, self.pitch_fft)[..., :kept]
            raw = torch.fft.irfft(torch.view_as_real(spectrum).square().sum(-1))[..., : self.longest + 2]
        height: Tensor = raw / (raw[..., :1] + 1e-7) / self.pitch_decay.clamp_min(0.05)
        return height

    def _best_lag(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """Find the highest peak of (batch, frames, lags) and its height, both between samples by a parabola.

        A shorter lag is preferred by 0.02 an octave: the double period of a pure tone peaks as high as the period.
        """
        middle = height[..., self.shortest : self.longest + 1]
        before = height[..., self.shortest - 1 : self.longest]
        after = height[..., self.shortest + 1 : self.longest + 2]
        bend = (before - 2 * middle + after).clamp_max(-1e-6)
        shift = (0.5 * (before - after) / bend).clamp(-0.5, 0.5)
        top = middle - 0.25 * (before - after) * shift
        lags = torch.arange(self.shortest, self.longest + 1, device=height.device)
        peaks = (middle >= before) & (middle >= after)
        worth = torch.where(peaks, top - 0.02 * torch.log2(lags / self.shortest), -torch.inf)
        best = worth.argmax(-1, keepdim=True)
        strength = torch.where(peaks.any(-1), top.gather(-1, best)[..., 0], 0.0)
        return best[..., 0] + self.shortest + shift.gather(-1, best)[..., 0], strength


def _spans(values: Tensor, axis: int) -> Sequence[Tensor]:
    """Cut the frames into spans to be worked on one by one; an exported graph has no such loop."""
    return (values,) if torch.compiler.is_compiling() else torch.split(values, SPAN, axis)


def _middle(five: Sequence[Tensor]) -> Tensor:
    """The median of five tensors, place by place."""
    if not torch.compiler.is_compiling():
        return torch.stack(list(five)).median(0).values
    # Exchange formats have no median: the larger low and the smaller high of two pairs leave three to choose from.
    one, two, three, four, last = five
    low = torch.maximum(torch.minimum(one, two), torch.minimum(three, four))
    high = torch.minimum(torch.maximum(one, two), torch.maximum(three, four))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), last))


def cosines(rows: int, columns: int) -> Tensor:
    """Make the orthonormal DCT-II as a matrix (rows, columns)."""
    angle = math.pi / columns * (torch.arange(columns)[None, :] + 0.5) * torch.arange(rows)[:, None]
    matrix = torch.cos(angle) * math.sqrt(2 / columns)
    matrix[0] /= math.sqrt(2)
    return matrix


def decibels(power: Tensor) -> Tensor:
    """Turn power into decibels above a floor of -90."""
    if torch.compiler.is_compiling():
        # Vectors' logarithms and single numbers' may differ in the last digit, which makes hills of a level plain.
        return (10.0 * torch.log10(power.double() + FLOOR)).to(power.dtype)
    return 10.0 * torch.log10(power + FLOOR)


def at(values: Tensor, counts: Tensor, step: int) -> Tensor:
    """Look `step` frames ahead of each frame, the clip's first and last frame standing in beyond its ends.

    values (batch, rows, frames), counts (batch,) real frames → the same shape.
    """
    frames = torch.arange(values.shape[-1], device=values.device) + step
    index = frames[None, :].clamp_min(0).minimum((counts - 1)[:, None])
    return values.gather(-1, index[:, None, :].expand_as(values))


def motion(values: Tensor, counts: Tensor, reach: int) -> Tensor:
    """Give the slope over `reach` frames either side (Furui 1986): (batch, rows, frames) → the same, per frame."""
    total = sum(step * (at(values, counts, step) - at(values, counts, -step)) for step in range(1, reach + 1))
    return torch.as_tensor(total) / (2 * sum(step * step for step in range(1, reach + 1)))


def flux(log_mel: Tensor, counts: Tensor) -> Tensor:
    """Give how much the spectrum changes and how much of it begins, in decibels a frame: (batch, 2, frames)."""
    change = motion(log_mel, counts, 1).abs().mean(1, keepdim=True)
    onset = (log_mel - at(log_mel, counts, -1)).clamp_min(0).mean(1, keepdim=True)
    return torch.cat([change, onset], 1)
