"""From waveform to log-mel frames, inside the model.

In: float32 waveforms in [-1, 1]. Out: (batch, channels, mels, frames). Frames at the edge of a clip see zeros, never
reflected samples, so padding on the right changes no real frame. The mel settings are constructor arguments that a
family keeps in its config; the statistics of the training split are buffers, saved with the weights.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor

from auricle.audio.mel import mel_filters
from auricle.models.features import fourier

Count = TypeVar("Count", int, Tensor)

CACHED_SAMPLES = 2**18


def waveforms_as_they_are(sample_rate: int) -> Wav2Vec2FeatureExtractor:
    """The feature extractor of a model that has its front end inside: it names the rate and changes nothing."""
    return Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=sample_rate, do_normalize=False, return_attention_mask=True
    )


class MelSpectrogram(nn.Module):
    """Mel power: (batch, [channels,] samples) → (batch, [channels,] mels, 1 + samples // hop_length).

    Window and filters follow from the settings, so they are not saved; `reset` makes them anew, which a family calls
    from `_init_weights`, because `from_pretrained` builds models without memory for what no file holds.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max or sample_rate / 2
        self.register_buffer("window", torch.empty(n_fft), persistent=False)
        self.register_buffer("filters", torch.empty(n_fft // 2 + 1, n_mels), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Fill window and filters from the settings."""
        with torch.device("cpu"):
            self.window.copy_(torch.hann_window(self.n_fft))
            filters = mel_filters(self.sample_rate, self.n_fft, self.n_mels, self.f_min, self.f_max)
            self.filters.copy_(torch.from_numpy(filters))

    def frames(self, samples: Count) -> Count:
        """How many frames a clip of so many samples has."""
        return 1 + samples // self.hop_length

    def forward(self, waveform: Tensor) -> Tensor:
        """Transform a few clips at a time: frames that stay in the processor's cache take half the time."""
        flat = waveform.reshape(-1, waveform.shape[-1])
        if torch.compiler.is_compiling():
            whole = self._exported(flat)
            return whole.reshape(*waveform.shape[:-1], *whole.shape[-2:])
        few = max(1, CACHED_SAMPLES // max(1, flat.shape[-1]))
        power = torch.cat([self._power(part) for part in torch.split(flat, few)])
        return power.reshape(*waveform.shape[:-1], *power.shape[-2:])

    def _exported(self, flat: Tensor) -> Tensor:
        """What `_power` gives, for a graph: without a loop over its batch and without a transform."""
        padded = nn.functional.pad(flat, (self.n_fft // 2, self.n_fft // 2))
        return torch.matmul(self.filters.T, fourier.framed_power(padded, self.window, self.hop_length))

    def _power(self, waveform: Tensor) -> Tensor:
        """(..., samples) → (..., mels, frames). Framed by hand: `torch.stft` copies to put frames last."""
        padded = nn.functional.pad(waveform, (self.n_fft // 2, self.n_fft // 2))
        spectrum = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop_length) * self.window)
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        # Under bf16 autocast a matrix product would keep three digits of the power.
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.matmul(power, self.filters).transpose(-1, -2)


class LogMel(nn.Module):
    """Mel power in nats, standardised per mel band by the statistics of the training split.

    The floor keeps digital silence finite; `range_db` also lifts what lies further than that below the clip's loudest
    cell. `calibrate` is called once before training; a fresh front end passes its input through unscaled.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mel: MelSpectrogram, floor: float = 1e-6, range_db: float | None = None) -> None:
        super().__init__()
        self.mel = mel
        self.floor = floor
        self.range_db = range_db
        self.register_buffer("mean", torch.zeros(mel.n_mels))
        self.register_buffer("deviation", torch.ones(mel.n_mels))

    def log_mel(self, waveform: Tensor, real: Tensor | None = None) -> Tensor:
        """Log-mel without standardisation: (batch, [channels,] samples) → (batch, [channels,] mels, frames).

        real (batch, frames) marks the frames among which the loudest cell is sought, and only so many frames are kept;
        None is all of them.
        """
        power = self.mel(waveform) if real is None else self.mel(waveform)[..., : real.shape[-1]]
        log = torch.log(power + self.floor)
        if self.range_db is None:
            return log
        heard = log if real is None else log.masked_fill(~_beside(real, log), -torch.inf)
        loudest = heard.amax(tuple(range(1, log.dim())), keepdim=True)
        return torch.maximum(log, loudest - self.range_db * math.log(10.0) / 10.0)

    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take mean and deviation of each mel band over the real frames of (waveform, real) batches."""
        _set_statistics(self, ((self.log_mel(waveform, real), real) for waveform, real in batches))

    def forward(self, waveform: Tensor, real: Tensor | None = None) -> Tensor:
        """Standardised log-mel; with real (batch, frames), all other frames are zero, the training split's mean."""
        log = self.log_mel(waveform, real)
        standard = (log - self.mean[:, None]) / self.deviation[:, None]
        return standard if real is None else standard * _beside(real, log)


class PrecomputedFeatures(nn.Module):
    """Frames that a corpus brings along, standardised per band by the statistics of the training split."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))

    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take mean and deviation of each band over the real frames of (frames, real) batches."""
        _set_statistics(self, batches)

    def forward(self, frames: Tensor, real: Tensor | None = None) -> Tensor:
        """Standardise (batch, bands, frames); frames that real (batch, frames) does not mark are zero."""
        standard = (frames - self.mean[:, None]) / self.deviation[:, None]
        return standard if real is None else standard.masked_fill(~real[:, None], 0.0)


def _set_statistics(front_end: LogMel | PrecomputedFeatures, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set mean and deviation of each band from the real frames of (batch, [channels,] bands, frames) and real."""
    num_features = len(front_end.mean)
    count, total, squares = 0.0, torch.zeros(()), torch.zeros(())
    for values, real in batches:
        wide = values.double().reshape(len(values), -1, num_features, real.shape[-1])
        weight = real[:, None, None, :].double()
        count += float(weight.sum()) * wide.shape[1]
        total = total + (wide * weight).sum((0, 1, 3))
        squares = squares + (wide.square() * weight).sum((0, 1, 3))
    mean = total / count
    # A band that never changes (above the recordings' own bandwidth) must not be blown up.
    deviation = (squares / count - mean.square()).clamp_min(0.0).sqrt().clamp_min(0.1)
    front_end.mean.copy_(mean)
    front_end.deviation.copy_(deviation)


def _beside(real: Tensor, spectrogram: Tensor) -> Tensor:
    """Give (batch, frames) as many dimensions as (batch, [channels,] mels, frames) has."""
    return real.reshape(real.shape[0], *[1] * (spectrogram.dim() - 2), real.shape[1])
