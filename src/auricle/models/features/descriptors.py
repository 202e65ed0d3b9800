"""Acoustic descriptors per frame, whose statistics the baseline classifies.

In: mono waveforms (batch, samples) and their lengths. Out: `Frames`, one every 10 ms: cepstrum, spectral shape, energy,
harmonicity and pitch, and which frames are real, active and voiced. Each frame sees its own samples and zeros beyond
the clip, so a clip's descriptors depend on that clip alone.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.audio.mel import mel_filters
from auricle.models.features import fourier
from auricle.models.layers import masking

# Added to every power (-90 dB of full scale), so that digital silence stays finite.
FLOOR = 1e-9
HOP_SECONDS = 0.010
FRAME_SECONDS = 0.025
# A window holds three periods of the lowest voice (Boersma 1993).
PITCH_SECONDS = 0.060
PITCH_LOW, PITCH_HIGH = 60.0, 500.0
# A frame is active within 40 dB of the clip's loudest, voiced within 30 dB when its autocorrelation peaks above 0.5.
ACTIVE_DB, VOICED_DB, VOICED_PEAK = 40.0, 30.0, 0.5
# Samples in the frames processed at once, which a core's cache holds with their spectra, however long a recording is.
CHUNK_VALUES = 2**18
CONTRAST_EDGES = (0.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12_800.0)


@dataclass(frozen=True)
class Frames:
    """The descriptors of a batch: (batch, rows, frames), masks (batch, frames), num_frames (batch,).

    `energy` is in decibels relative to the clip's loudest frame, `peak_energy` (batch, 1) is that frame's;
    `harmonicity` in decibels; `pitch` in octaves above 100 Hz.
    """

    log_mel: Tensor
    cepstrum: Tensor
    spectral_shape: Tensor
    energy: Tensor
    harmonicity: Tensor
    pitch: Tensor
    peak_energy: Tensor
    num_frames: Tensor
    real: Tensor
    active: Tensor
    voiced: Tensor


class Descriptors(nn.Module):
    """Compute the descriptors of waveforms of one sample rate."""

    window: Tensor
    filters: Tensor
    dct: Tensor
    bins: Tensor
    fifths: Tensor
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
        # Pitch is low: the autocorrelation is computed at the lowest rate that still covers 6 kHz.
        self.pitch_decimation = 2 ** max(0, math.floor(math.log2(sample_rate / 12_000)) + 1)
        self.min_lag = max(2, int(sample_rate / self.pitch_decimation / PITCH_HIGH))
        self.max_lag = int(sample_rate / self.pitch_decimation / PITCH_LOW)
        bins = [min(self.n_fft // 2 + 1, math.ceil(edge * self.n_fft / sample_rate)) for edge in CONTRAST_EDGES]
        self.octaves = [slice(*band) for band in itertools.pairwise(bins) if band[1] - band[0] > 1]
        for name, value in self._constants().items():
            self.register_buffer(name, value, persistent=False)

    def reset(self) -> None:
        """Compute the constants; transformers leaves them uninitialised when it loads a model."""
        for name, value in self._constants().items():
            getattr(self, name).copy_(value)

    def _constants(self) -> dict[str, Tensor]:
        filters = mel_filters(self.sample_rate, self.n_fft, self.n_mels, 20.0, self.sample_rate / 2)
        with torch.device("cpu"):
            pitch_window = torch.hann_window(self.pitch_size)
            decay = torch.fft.irfft(torch.fft.rfft(pitch_window, self.pitch_fft).abs().square())
            decay = decay[:: self.pitch_decimation][: self.max_lag + 2]
            return {
                "window": torch.hann_window(self.n_fft),
                "filters": torch.from_numpy(filters),
                "dct": dct_matrix(self.n_mfcc, self.n_mels),
                "bins": torch.linspace(0.0, self.sample_rate / 2, self.n_fft // 2 + 1),
                "fifths": self._fifths(),
                "pitch_window": pitch_window,
                "pitch_decay": decay / decay[0],
            }

    def _fifths(self) -> Tensor:
        """Weights that average the last fifth of each octave's ordered bins, then the first: (bins, 2 * octaves)."""
        sizes = [band.stop - band.start for band in self.octaves]
        fifths = torch.zeros(sum(sizes), 2 * len(sizes))
        for number, (start, size) in enumerate(zip(itertools.accumulate(sizes, initial=0), sizes, strict=False)):
            fifth = max(1, round(0.2 * size))
            fifths[start + size - fifth : start + size, number] = 1 / fifth
            fifths[start : start + fifth, number + len(sizes)] = 1 / fifth
        return fifths

    def forward(self, waveform: Tensor, lengths: Tensor) -> Frames:
        """Describe (batch, samples) float32, zero beyond lengths (batch,) int64."""
        return self.relative(self.measure(waveform), 1 + lengths // self.hop_length)

    def measure(self, waveform: Tensor) -> Tensor:
        """What each frame of (batch, samples) float32 holds by itself: (batch, rows, frames).

        The rows are log-mel, energy, spectral shape, zero-crossing rate, octaves above 100 Hz and peak height.
        """
        parts = [self._spectral(self.power(chunk)) for chunk in _chunks(self.frames(waveform))]
        size = 1 + waveform.shape[-1] // self.hop_length
        spectral = torch.cat(parts, 1).transpose(1, 2)
        return torch.cat([spectral, self.zero_crossing_rate(waveform, size), self.pitch(waveform, size)], 1)

    def measure_sections(self, waveform: Tensor, measured: Tensor, starts: Tensor, samples: int) -> Tensor:
        """What `measure` gives for sections of `samples` samples of the waveforms (batch, samples), each from its
        frame of starts (batch,) on: `measured`, where only the frames that an end cuts are measured again.
        """
        hop, half = self.hop_length, (max(self.n_fft, self.pitch_size) + 1) // 2
        edge, count = -(-half // hop), 1 + samples // hop
        if not len(starts):
            return measured.new_zeros(0, measured.shape[1], count)
        last = min(edge, count)
        # The first frame that reaches beyond the section's end; what it sees begins `edge` frames before it.
        first_cut = max(last, (samples - half) // hop + 1)
        before = max(0, first_cut - edge)

        def piece(offset: int, size: int) -> Tensor:
            index = starts[:, None] * hop + torch.arange(offset, offset + size, device=starts.device)
            return self.measure(waveform.gather(1, index))

        index = (starts[:, None] + torch.arange(last, first_cut, device=starts.device))[:, None]
        inner = measured.gather(2, index.expand(-1, measured.shape[1], -1))
        left = piece(0, min(samples, 2 * edge * hop))[..., :last]
        right = piece(before * hop, samples - before * hop)[..., first_cut - before :]
        return torch.cat([left, inner, right], 2)

    def relative(self, measured: Tensor, counts: Tensor) -> Frames:
        """Relate measured frames (batch, rows, frames) of clips, counts (batch,) of which are real, to their clip."""
        shape_rows = measured.shape[1] - self.n_mels - 4
        log_mel, energy, shape, crossings, octaves, strength = torch.split(
            measured, [self.n_mels, 1, shape_rows, 1, 1, 1], 1
        )
        real = masking.real(counts, measured.shape[-1])
        peak = energy.masked_fill(~real[:, None], -torch.inf).amax(-1, keepdim=True)
        active = real & (energy > peak - ACTIVE_DB)[:, 0]
        strength = strength.clamp(0.01, 0.99)
        # Spectral flux and onset strength, in decibels a frame.
        change = deltas(log_mel, counts, 1).abs().mean(1, keepdim=True)
        onset = (log_mel - neighbours(log_mel, counts, 1)[0]).clamp_min(0).mean(1, keepdim=True)
        return Frames(
            log_mel=log_mel,
            cepstrum=torch.matmul(self.dct, log_mel),
            spectral_shape=torch.cat([shape, change, onset, crossings], 1),
            energy=energy - peak,
            harmonicity=decibels(strength / (1 - strength)),
            pitch=_median_of_five(neighbours(octaves, counts, 2)),
            peak_energy=peak[:, :, 0],
            num_frames=counts,
            real=real,
            active=active,
            voiced=active & ((strength > VOICED_PEAK) & (energy > peak - VOICED_DB))[:, 0],
        )

    def frames(self, waveform: Tensor) -> Tensor:
        """The frames (batch, frames, n_fft) of (batch, samples), centred on every hop; beyond the clip are zeros."""
        return F.pad(waveform, (self.n_fft // 2, self.n_fft // 2)).unfold(-1, self.n_fft, self.hop_length)

    def power(self, frames: Tensor) -> Tensor:
        """The power (batch, frames, bins) of (batch, frames, n_fft); a full-scale sine sums to about n_fft / 4."""
        frames = frames * self.window
        if torch.compiler.is_compiling():
            # Single precision loses the faint bins next to loud ones, and spectral contrast needs them.
            power = fourier.power(frames.double(), self.n_fft, self.n_fft // 2 + 1).to(frames.dtype)
        else:
            power = _squared(torch.fft.rfft(frames))
        return power / self.window.square().sum()

    def _spectral(self, power: Tensor) -> Tensor:
        """Log-mel, energy and spectral shape of power (batch, frames, bins): (batch, frames, rows)."""
        mel = power @ self.filters * (self.sample_rate / self.n_fft / self.n_mels)
        energy = power.sum(-1, keepdim=True) * (2 / self.n_fft)
        return torch.cat([decibels(torch.cat([mel, energy], -1)), self.spectral_shape(power)], -1)

    def spectral_shape(self, power: Tensor) -> Tensor:
        """Centroid, bandwidth, roll-off, flatness, tilt, contrast (octaves, dB) of power (batch, frames, bins)."""
        power = power + 1e-12
        total = power.sum(-1, keepdim=True)
        share = power / total
        centroid = (share * self.bins).sum(-1, keepdim=True)
        bandwidth = (self.bins - centroid).square_().mul_(share).sum(-1, keepdim=True).sqrt()
        rolloff = bins_below(share.cumsum(-1), (0.25, 0.5, 0.85, 0.95)) * (self.sample_rate / self.n_fft)
        flatness = power.log().mean(-1, keepdim=True) - (total / power.shape[-1]).log()
        # Alpha ratio and Hammarberg index, as in eGeMAPS (Eyben et al. 2016).
        low, high = (self._band(power, *band).sum(-1, keepdim=True) for band in ((50, 1000), (1000, 5000)))
        lower, upper = (self._band(power, *band).amax(-1, keepdim=True) for band in ((0, 2000), (2000, 5000)))
        loud, faint = self._contrast(power)
        octaves = torch.log2(torch.cat([centroid, bandwidth, rolloff], -1) + 50.0)
        louder, fainter = decibels(torch.cat([low, lower, loud, high, upper, faint], -1)).chunk(2, -1)
        return torch.cat([octaves, flatness, louder - fainter], -1)

    def _band(self, power: Tensor, low: float, high: float) -> Tensor:
        """The bins from `low` up to `high` hertz; one of zero where the rate is too low for them."""
        step = self.sample_rate / self.n_fft
        band = power[..., math.ceil(low / step) : math.ceil(high / step)]
        return band if band.shape[-1] else torch.zeros_like(power[..., :1])

    def _contrast(self, power: Tensor) -> tuple[Tensor, Tensor]:
        """The mean power of the loudest fifth of the bins of each octave band, and of the faintest (Jiang et al. 2002).

        Sorting is faster than selection: NumPy sorts a band with vector instructions, in a few comparisons a value.
        """
        ordered = torch.cat([sort(power[..., band]) for band in self.octaves], -1)
        loud, faint = (ordered @ self.fifths).chunk(2, -1)
        return loud, faint

    def zero_crossing_rate(self, waveform: Tensor, size: int) -> Tensor:
        """The square root of the zero-crossing rate of each frame: (batch, 1, frames)."""
        crossed = (waveform[:, 1:] * waveform[:, :-1] < 0).int()
        crossed = F.pad(crossed, (self.n_fft // 2, self.n_fft)).cumsum(-1, dtype=torch.int32)
        start = torch.arange(size, device=waveform.device) * self.hop_length
        rate: Tensor = (crossed[:, start + self.n_fft - 1] - crossed[:, start]) / self.n_fft
        return rate.sqrt()[:, None]

    def pitch(self, waveform: Tensor, size: int) -> Tensor:
        """Octaves above 100 Hz of `size` frames and the height of their autocorrelation peak: (batch, 2, frames).

        Windowed autocorrelation divided by the window's own (Boersma 1993).
        """
        frames = F.pad(waveform, (self.pitch_size // 2, self.pitch_size)).unfold(-1, self.pitch_size, self.hop_length)
        peaks = [self._best_lag(self._autocorrelation(chunk)) for chunk in _chunks(frames[:, :size])]
        lag, strength = (torch.cat(parts, 1) for parts in zip(*peaks, strict=True))
        return torch.stack([torch.log2(self.sample_rate / self.pitch_decimation / lag / 100.0), strength], 1)

    def _autocorrelation(self, frames: Tensor) -> Tensor:
        """Correlate frames (batch, frames, samples) with themselves: (batch, frames, lags), 1 at lag 0."""
        frames = (frames - frames.mean(-1, keepdim=True)) * self.pitch_window
        bins = self.pitch_fft // self.pitch_decimation // 2 + 1
        if torch.compiler.is_compiling():
            power = fourier.power(frames, self.pitch_fft, bins)
            raw = fourier.correlation(power, 2 * (bins - 1), self.max_lag + 2)
        else:
            spectrum = torch.fft.rfft(frames, self.pitch_fft)[..., :bins]
            raw = torch.fft.irfft(_squared(spectrum))[..., : self.max_lag + 2]
        return raw / (raw[..., :1] + 1e-7) / self.pitch_decay.clamp_min(0.05)

    def _best_lag(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """The lag of the highest peak of (batch, frames, lags) and its height, both interpolated by a parabola.

        A shorter lag is preferred by 0.02 an octave: the double period of a pure tone peaks as high as the period.
        """
        middle = height[..., self.min_lag : self.max_lag + 1]
        before = height[..., self.min_lag - 1 : self.max_lag]
        after = height[..., self.min_lag + 1 : self.max_lag + 2]
        slope = before - after
        shift = (0.5 * slope / (before + after).sub_(2 * middle).clamp_max_(-1e-6)).clamp_(-0.5, 0.5)
        lags = torch.arange(self.min_lag, self.max_lag + 1, device=height.device)
        peaks = (middle >= before) & (middle >= after)
        top = middle - slope.mul_(0.25).mul_(shift)
        best = (top - 0.02 * torch.log2(lags / self.min_lag)).masked_fill_(~peaks, -torch.inf).argmax(-1, keepdim=True)
        strength = top.gather(-1, best).masked_fill_(~peaks.gather(-1, best), 0.0)[..., 0]
        return best[..., 0] + self.min_lag + shift.gather(-1, best)[..., 0], strength


def _chunks(frames: Tensor) -> Sequence[Tensor]:
    """Split (batch, frames, samples) into chunks of frames; an exported graph has no such loop."""
    if torch.compiler.is_compiling():
        return (frames,)
    return torch.split(frames, max(1, CHUNK_VALUES // (frames.shape[0] * frames.shape[-1])), 1)


def _squared(spectrum: Tensor) -> Tensor:
    """The squared magnitude of a complex spectrum."""
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


def sort(values: Tensor) -> Tensor:
    """Sort along the last axis. NumPy's vectorised sort is some twenty times as fast as torch's on a processor."""
    if torch.compiler.is_compiling() or values.device.type != "cpu" or values.requires_grad:
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.numpy(), -1))


def bins_below(cumulative: Tensor, quantiles: Sequence[float]) -> Tensor:
    """How many bins of rising values (…, bins) lie below each quantile: (…, quantiles)."""
    if torch.compiler.is_compiling():
        return torch.stack([(cumulative < quantile).sum(-1) for quantile in quantiles], -1)
    wanted = torch.tensor(quantiles, device=cumulative.device).expand(*cumulative.shape[:-1], -1)
    return torch.searchsorted(cumulative, wanted.contiguous())


def _median_of_five(five: Sequence[Tensor]) -> Tensor:
    if not torch.compiler.is_compiling():
        return torch.stack(list(five)).median(0).values
    # ONNX has no median: the larger minimum and the smaller maximum of two pairs leave three candidates.
    one, two, three, four, last = five
    low = torch.maximum(torch.minimum(one, two), torch.minimum(three, four))
    high = torch.minimum(torch.maximum(one, two), torch.maximum(three, four))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), last))


def dct_matrix(rows: int, columns: int) -> Tensor:
    """The orthonormal DCT-II as a matrix (rows, columns)."""
    angle = math.pi / columns * (torch.arange(columns)[None, :] + 0.5) * torch.arange(rows)[:, None]
    matrix = torch.cos(angle) * math.sqrt(2 / columns)
    matrix[0] /= math.sqrt(2)
    return matrix


def decibels(power: Tensor) -> Tensor:
    """Power in decibels, with a floor of -90."""
    if torch.compiler.is_compiling():
        # Vectorised and scalar logarithms may differ in the last digit: constant energy would get local maxima.
        return (10.0 * torch.log10(power.double() + FLOOR)).to(power.dtype)
    return 10.0 * torch.log10(power + FLOOR)


def neighbours(values: Tensor, counts: Tensor, width: int) -> list[Tensor]:
    """The values (batch, rows, frames) from `width` frames before each to `width` after: 2 * width + 1 of that shape.

    Beyond a clip's ends, counts (batch,), its first and last frame are repeated.
    """
    size = values.shape[-1]
    frames = torch.arange(-width, size + width, device=values.device)
    index = frames.clamp_min(0).minimum((counts - 1)[:, None])
    wide = values.gather(-1, index[:, None].expand(-1, values.shape[1], -1))
    return [wide[..., start : start + size] for start in range(2 * width + 1)]


def deltas(values: Tensor, counts: Tensor, width: int) -> Tensor:
    """The slope over `width` frames on either side (Furui 1986): (batch, rows, frames) → the same, per frame."""
    near = neighbours(values, counts, width)
    total = sum(step * (near[width + step] - near[width - step]) for step in range(1, width + 1))
    return torch.as_tensor(total) / (2 * sum(step * step for step in range(1, width + 1)))
