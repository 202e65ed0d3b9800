"""The log-mel inputs of pretrained encoders, computed where the model is, with the settings of their own extractor.

In: waveforms (batch, samples) in [-1, 1] and their lengths. Out: the frames that the extractor of transformers computes
for each clip alone. Those extractors loop over clips in Python; here a batch is one transform, on any device.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, window_function

from auricle.models.features import fourier
from auricle.models.layers import masking

FRAME, HOP, N_FFT = 400, 160, 512
PREEMPHASIS = 0.97
FLOOR = 1.192092955078125e-07


def normalize(values: Tensor, lengths: Tensor) -> Tensor:
    """Bring the real samples of each clip to zero mean and unit variance; zero beyond (Wav2Vec2's normalisation)."""
    real = masking.real(lengths, values.shape[-1])
    count = lengths[:, None].to(torch.float64)
    # Sums over minutes of samples lose digits in float32.
    mean = values.masked_fill(~real, 0.0).sum(-1, keepdim=True, dtype=torch.float64) / count
    centred = (values - mean.to(values.dtype)).masked_fill(~real, 0.0)
    variance = centred.square().sum(-1, keepdim=True, dtype=torch.float64) / count
    return centred * torch.rsqrt(variance + 1e-7).to(values.dtype)


def kaldi_frames(samples: Tensor) -> Tensor:
    """The number of Kaldi's frames in so many samples: complete ones only."""
    return (samples - FRAME).div(HOP, rounding_mode="floor") + 1


def ast_filters(extractor: Any) -> tuple[np.ndarray, np.ndarray]:
    """AST's window (400,) and mel filters (257, mels): its extractor has none where torchaudio is installed."""
    rate = extractor.sampling_rate
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=extractor.num_mel_bins,
        min_frequency=20,
        max_frequency=rate // 2,
        sampling_rate=rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return window_function(FRAME, "hann", periodic=False), filters


def kaldi_log_mel(values: Tensor, window: np.ndarray, filters: np.ndarray, scale: float = 1.0) -> Tensor:
    """Log-mel as in Kaldi, by a window (400,) and mel filters (257, mels): (batch, samples) → (batch, frames, mels)."""
    taper = torch.as_tensor(window, dtype=values.dtype, device=values.device)
    bank = torch.as_tensor(filters, dtype=values.dtype, device=values.device)
    frames = (values * scale).unfold(-1, FRAME, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    windowed = (frames - PREEMPHASIS * previous) * taper
    if torch.compiler.is_compiling():
        power = fourier.power(windowed, N_FFT, N_FFT // 2 + 1)
    else:
        power = torch.fft.rfft(windowed, N_FFT).abs().square()
    return (power @ bank).clamp_min(FLOOR).log()


def normalize_bins(values: Tensor, lengths: Tensor) -> Tensor:
    """Standardise every mel bin over each clip's real frames, with the divisor n - 1; zero beyond (SeamlessM4T)."""
    real = masking.real(lengths, values.shape[1])[..., None]
    count = lengths[:, None, None].to(values.dtype)
    mean = values.masked_fill(~real, 0.0).sum(1, keepdim=True) / count
    centred = (values - mean).masked_fill(~real, 0.0)
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
    return centred * torch.rsqrt(variance + 1e-7)


def whisper_log_mel(values: Tensor, extractor: Any) -> Tensor:
    """Whisper's log-mel of clips padded to its fixed length: (batch, n_samples) → (batch, mels, frames)."""
    window = torch.hann_window(extractor.n_fft, device=values.device)
    filters = torch.as_tensor(extractor.mel_filters, dtype=torch.float32, device=values.device)
    if torch.compiler.is_compiling():
        half = extractor.n_fft // 2
        reflected = F.pad(values[:, None], (half, half), mode="reflect")[:, 0]
        power = fourier.framed_power(reflected, window, extractor.hop_length)[..., :-1]
    else:
        spectrum = torch.stft(values, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
    logs = (filters.T @ power).clamp_min(1e-10).log10()
    logs = torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0)
    return (logs + 4.0) / 4.0


def pad_or_cut(values: Tensor, samples: int) -> Tensor:
    """Cut or pad with zeros to so many samples."""
    return F.pad(values, (0, samples - values.shape[-1]))


def padded_size(samples: int, min_samples: int) -> int:
    """The samples to which a batch is padded, so that the shortest clip has the `min_samples` that it needs."""
    return samples + 2 * min_samples if torch.compiler.is_compiling() else max(samples, min_samples)
