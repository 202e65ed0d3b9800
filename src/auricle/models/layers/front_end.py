"""The first layer of a network: standardised log-mel of waveforms, or standardised precomputed features.

In: float32 waveforms in [-1, 1], or features. Out: (batch, channels, features, frames). Frames at the edge of a clip
see zeros, never reflected samples, so padding on the right changes no real frame. The settings are in the model's
config; the statistics of the training split are buffers, saved with the weights.
"""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor

from auricle.audio.mel import mel_filters
from auricle.models.features import fourier
from auricle.models.layers import masking

Count = TypeVar("Count", int, Tensor)

CACHED_SAMPLES = 2**18
# Of stored log power, in a nat: int16 reaches from -32 to 32 nats, 278 dB.
STEPS = 1024


def passthrough_extractor(sample_rate: int) -> Wav2Vec2FeatureExtractor:
    """The feature extractor of a model with its front end inside: it states the sample rate and changes nothing."""
    return Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=sample_rate, do_normalize=False, return_attention_mask=True
    )


class MelSpectrogram(nn.Module):
    """Mel power: (batch, [channels,] samples) → (batch, [channels,] mels, 1 + samples // hop_length).

    Window and filters are not saved: a model's `_init_weights` calls `reset`, because `from_pretrained` leaves them
    open.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.register_buffer("window", torch.empty(n_fft), persistent=False)
        self.register_buffer("filters", torch.empty(n_fft // 2 + 1, n_mels), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Compute window and filters from the settings."""
        with torch.device("cpu"):
            self.window.copy_(torch.hann_window(self.n_fft))
            filters = mel_filters(self.sample_rate, self.n_fft, self.n_mels, 0.0, self.sample_rate / 2)
            self.filters.copy_(torch.from_numpy(filters))

    def frames(self, samples: Count) -> Count:
        """The number of frames of a clip of so many samples."""
        return 1 + samples // self.hop_length

    def forward(self, waveform: Tensor) -> Tensor:
        """Transform a few clips at a time: frames that stay in the processor's cache take half the time."""
        flat = waveform.reshape(-1, waveform.shape[-1])
        if torch.compiler.is_compiling():
            # An exported graph has no loop over the batch and no Fourier transform.
            padded = nn.functional.pad(flat, (self.n_fft // 2, self.n_fft // 2))
            power = torch.matmul(self.filters.T, fourier.framed_power(padded, self.window, self.hop_length))
        else:
            clips = max(1, CACHED_SAMPLES // max(1, flat.shape[-1]))
            power = torch.cat([self._power(part) for part in torch.split(flat, clips)])
        return power.reshape(*waveform.shape[:-1], *power.shape[-2:])

    def _power(self, waveform: Tensor) -> Tensor:
        """(..., samples) → (..., mels, frames). Framed by hand: `torch.stft` copies to put frames last."""
        padded = nn.functional.pad(waveform, (self.n_fft // 2, self.n_fft // 2))
        spectrum = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop_length) * self.window)
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        # Under bf16 autocast a matrix product would keep three digits of the power.
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.matmul(power, self.filters).transpose(-1, -2)


class LogMel(nn.Module):
    """Log-mel in nats, standardised per mel band with the statistics of the training split.

    `mel_floor` keeps silence finite; `top_db` raises every value to at most that far below the clip's loudest. A clip
    of more than `channels` channels is averaged. `whole_hops` drops the last, half-empty frame.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        mel: MelSpectrogram,
        mel_floor: float = 1e-6,
        top_db: float | None = None,
        channels: int = 1,
        whole_hops: bool = False,
    ) -> None:
        super().__init__()
        self.mel = mel
        self.mel_floor = mel_floor
        self.top_db = top_db
        self.channels = channels
        self.whole_hops = whole_hops
        self.register_buffer("mean", torch.zeros(mel.n_mels))
        self.register_buffer("deviation", torch.ones(mel.n_mels))

    def mix(self, waveform: Tensor) -> Tensor:
        """Average (batch, channels, samples) to one channel if it has more than the network takes."""
        if waveform.shape[1] > self.channels:
            return waveform.mean(1, keepdim=True)
        if self.training and waveform.shape[1] == 2 and torch.equal(waveform[:, 0], waveform[:, 1]):
            return waveform[:, :1]
        return waveform

    def real_frames(self, lengths: Tensor, samples: int) -> Tensor:
        """Mark the real frames of clips of lengths (batch,) in a batch of so many samples: (batch, frames) bool."""
        size = samples // self.mel.hop_length if self.whole_hops else self.mel.frames(samples)
        return masking.real(self.mel.frames(lengths), size)

    @property
    def log_floor(self) -> float:
        """The log power of silence, in nats."""
        return math.log(self.mel_floor)

    def extract(self, waveform: Tensor, real: Tensor) -> Tensor:
        """Log power before `limit`: (batch, channels, samples) → (batch, channels, mels, frames of real)."""
        return torch.log(self.mel(waveform)[..., : real.shape[-1]] + self.mel_floor)

    def limit(self, log: Tensor, real: Tensor) -> Tensor:
        """Raise log power to at most `top_db` below the loudest value that real (batch, frames) marks."""
        if self.top_db is None:
            return log
        loudest = log.masked_fill(~masking.unsqueezed(real, log), -torch.inf).amax((1, 2, 3), keepdim=True)
        return torch.maximum(log, loudest - self.top_db * math.log(10.0) / 10.0)

    def amplify(self, log: Tensor, decibels: Tensor) -> Tensor:
        """The log power of waveforms that are so many decibels (batch,) louder; the floor stays where it is."""
        factor = (10.0 ** (decibels / 10.0))[:, None, None, None]
        return torch.log((log.exp() - self.mel_floor).clamp_min(0.0) * factor + self.mel_floor)

    def standardize(self, log: Tensor, real: Tensor) -> Tensor:
        """Standardise limited log power; frames that real does not mark are zero, the training split's mean."""
        standard = (self.limit(log, real) - self.mean[:, None]) / self.deviation[:, None]
        if self.training and bool(real.all()):
            return standard
        return standard * masking.unsqueezed(real, log)

    def forward(self, waveform: Tensor, real: Tensor) -> Tensor:
        """Standardised log-mel of waveforms (batch, channels, samples)."""
        return self.standardize(self.extract(waveform, real), real)

    def pack(self, log: Tensor) -> Tensor:
        """Log power as rows (batch, frames, channels * mels) int16, within half a step of 1 / STEPS nats."""
        wide = log.expand(-1, self.channels, -1, -1).permute(0, 3, 1, 2).flatten(2)
        return (wide * STEPS).round().to(torch.int16)

    def unpack(self, rows: Tensor) -> Tensor:
        """Log power (batch, channels, mels, frames) float32 of what `pack` gave; equal channels become one."""
        log = rows.reshape(*rows.shape[:2], self.channels, -1)
        if self.channels == 2 and torch.equal(log[:, :, 0], log[:, :, 1]):
            log = log[:, :, :1]
        # Mels before frames as int16, of which a copy costs half.
        power: Tensor = log.permute(0, 2, 3, 1).contiguous() * (1.0 / STEPS)
        return power


class PrecomputedFeatures(nn.Module):
    """Precomputed features, standardised per feature with the statistics of the training split; methods as LogMel's."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))

    def mix(self, features: Tensor) -> Tensor:
        return features

    def real_frames(self, lengths: Tensor, frames: int) -> Tensor:
        return masking.real(lengths, frames)

    def extract(self, features: Tensor, real: Tensor) -> Tensor:
        return features[:, None]

    def limit(self, features: Tensor, real: Tensor) -> Tensor:
        return features

    def amplify(self, features: Tensor, decibels: Tensor) -> Tensor:
        return features * (10.0 ** (decibels / 20.0))[:, None, None, None]

    def standardize(self, features: Tensor, real: Tensor) -> Tensor:
        """Standardise (batch, 1, features, frames); frames beyond `real` are zero."""
        standard = (features - self.mean[:, None]) / self.deviation[:, None]
        return standard.masked_fill(~masking.unsqueezed(real, standard), 0.0)

    def forward(self, features: Tensor, real: Tensor) -> Tensor:
        """(batch, features, frames) → (batch, 1, features, frames)."""
        return self.standardize(self.extract(features, real), real)


def front_end(config: Any, *, channels: int) -> LogMel | PrecomputedFeatures:
    """The front end of a SpectrogramConfig whose network takes so many channels."""
    if config.num_features is not None:
        return PrecomputedFeatures(config.num_features)
    mel = MelSpectrogram(config.sample_rate, config.n_fft, config.hop_length, config.n_mels)
    return LogMel(mel, config.mel_floor, config.top_db, channels, whole_hops=config.fixed_seconds is not None)


def fit_statistics(front_end: LogMel | PrecomputedFeatures, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set mean and deviation per feature over the real frames of (batch, [channels,] features, frames) batches."""
    num_features = len(front_end.mean)
    count, total, squares = 0.0, torch.zeros(()), torch.zeros(())
    for values, real in batches:
        wide = values.double().reshape(len(values), -1, num_features, real.shape[-1])
        weight = real[:, None, None, :].double()
        count += float(weight.sum()) * wide.shape[1]
        total = total + (wide * weight).sum((0, 1, 3))
        squares = squares + (wide.square() * weight).sum((0, 1, 3))
    mean = total / count
    # A band that never changes (above the recordings' own bandwidth) must not be amplified.
    deviation = (squares / count - mean.square()).clamp_min(0.0).sqrt().clamp_min(0.1)
    front_end.mean.copy_(mean)
    front_end.deviation.copy_(deviation)
