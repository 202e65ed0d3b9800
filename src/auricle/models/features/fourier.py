"""The Fourier transform as a matrix product, for exported graphs.

In: waveforms or frames. Out: their power spectra. ONNX's transforms are slow or missing; short frames times an exact
matrix are as fast as any other product. Everywhere else torch's own transform is faster.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def dft_matrix(size: int, n_fft: int, bins: int) -> Tensor:
    """Cosines, then sines, of the first `bins` frequencies of a transform of n_fft: (size, 2 * bins) float64."""
    # NumPy, because what torch computes while it is traced would be computed again at every call of the graph. Full
    # rotations are subtracted before the cosine, which loses digits at large angles.
    steps = (np.arange(size)[:, None] * np.arange(bins)[None, :]) % n_fft
    angle = steps * (2.0 * np.pi / n_fft)
    return torch.tensor(np.concatenate([np.cos(angle), np.sin(angle)], 1))


def framed_power(waveform: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Power of the windowed frames of (batch, samples): (batch, bins, frames), len(window) // 2 + 1 bins."""
    n_fft = len(window)
    kernels = (dft_matrix(n_fft, n_fft, n_fft // 2 + 1).to(window) * window[:, None]).T[:, None]
    return _power(F.conv1d(waveform[:, None], kernels, stride=hop_length), 1)


def power(frames: Tensor, n_fft: int, bins: int) -> Tensor:
    """Power of the first `bins` frequencies of frames (…, size), as of a transform of n_fft: (…, bins)."""
    return _power(frames @ dft_matrix(frames.shape[-1], n_fft, bins).to(frames), -1)


def correlation(spectrum: Tensor, n_fft: int, lags: int) -> Tensor:
    """The first `lags` values of the inverse transform of n_fft of a real spectrum (…, n_fft // 2 + 1): (…, lags)."""
    bins = n_fft // 2 + 1
    # Every frequency counts for itself and its mirror image, the first and the last only for themselves.
    weights = torch.tensor([1.0, *[2.0] * (bins - 2), 1.0]) / n_fft
    return spectrum @ (dft_matrix(lags, n_fft, bins)[:, :bins] * weights).T.to(spectrum)


def _power(parts: Tensor, axis: int) -> Tensor:
    cosines, sines = parts.chunk(2, axis)
    return cosines.square() + sines.square()
