"""From waveform to log-mel frames, inside the model.

In: float32 waveforms in [-1, 1]. Out: (batch, channels, mels, frames). Frames at the edge of a clip see zeros, never
reflected samples, so padding on the right changes no real frame. The mel settings are constructor arguments that a
family keeps in its config; the statistics of the training split are buffers, saved with the weights.
"""

import math

import torch
from torch import Tensor, nn


def hz_to_mel(hz: Tensor) -> Tensor:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998)."""
    linear = hz * 3.0 / 200.0
    logarithmic = 15.0 + torch.log(hz.clamp_min(1e-9) / 1000.0) * (27.0 / math.log(6.4))
    return torch.where(hz < 1000.0, linear, logarithmic)


def mel_to_hz(mel: Tensor) -> Tensor:
    """The inverse of `hz_to_mel`."""
    linear = mel * 200.0 / 3.0
    logarithmic = 1000.0 * torch.exp((mel - 15.0) * (math.log(6.4) / 27.0))
    return torch.where(mel < 15.0, linear, logarithmic)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Triangular filters of unit area on Slaney's scale, as `librosa.filters.mel` makes them: (n_fft // 2 + 1, n_mels)."""
    edges = mel_to_hz(
        torch.linspace(
            hz_to_mel(torch.tensor(f_min, dtype=torch.float64)),
            hz_to_mel(torch.tensor(f_max, dtype=torch.float64)),
            n_mels + 2,
            dtype=torch.float64,
        )
    )
    bins = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    width = edges[1:] - edges[:-1]
    slopes = edges[None, :] - bins[:, None]
    rising = -slopes[:, :-2] / width[:-1]
    falling = slopes[:, 2:] / width[1:]
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))).to(torch.float32)


class MelSpectrogram(nn.Module):
    """Mel power: (batch, [channels,] samples) → (batch, [channels,] mels, 1 + samples // hop_length)."""

    def __init__(
        self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
    ) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        filters = mel_filters(sample_rate, n_fft, n_mels, f_min, f_max or sample_rate / 2)
        self.register_buffer("filters", filters, persistent=False)

    def frames(self, samples: Tensor) -> Tensor:
        """How many frames a clip of so many samples has."""
        return 1 + samples // self.hop_length

    def forward(self, waveform: Tensor) -> Tensor:
        flat = waveform.reshape(-1, waveform.shape[-1])
        spectrum = torch.stft(
            flat, self.n_fft, self.hop_length, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        mel = torch.matmul(self.filters.T, power)
        return mel.reshape(*waveform.shape[:-1], *mel.shape[-2:])


class LogMel(nn.Module):
    """Mel power in nats, standardised per mel band by the statistics of the training split.

    The floor keeps digital silence finite. `calibrate` is called once before training; a fresh front end passes its
    input through unscaled.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mel: MelSpectrogram, floor: float = 1e-6) -> None:
        super().__init__()
        self.mel = mel
        self.floor = floor
        n_mels = mel.filters.shape[1]
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("deviation", torch.ones(n_mels))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel without standardisation: (batch, [channels,] samples) → (batch, [channels,] mels, frames)."""
        return torch.log(self.mel(waveform) + self.floor)

    def forward(self, waveform: Tensor) -> Tensor:
        return (self.log_mel(waveform) - self.mean[:, None]) / self.deviation[:, None]
