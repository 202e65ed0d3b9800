"""The Fourier transform as a product with a matrix, for graphs that run without torch.

In: waveforms or frames. Out: their power spectra. The transforms of exchange formats are slow where there are any at
all; short frames times an exact matrix are as fast as all other products. torch's own transform stays the faster one
everywhere else.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def matrix(size: int, n_fft: int, bins: int) -> Tensor:
    """Cosines, then sines, of the first `bins` frequencies of a transform of n_fft: (size, 2 * bins) float64."""
    # By NumPy: what torch computes while it is traced would be computed again at every call of the graph. Whole turns
    # are left out before the cosine, which of large angles loses digits.
    turns = (np.arange(size)[:, None] * np.arange(bins)[None, :]) % n_fft
    angle = turns * (2.0 * np.pi / n_fft)
    return torch.tensor(np.concatenate([np.cos(angle), np.sin(angle)], 1))


def framed_power(waveform: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Power of the windowed frames of (batch, samples): (batch, bins, frames), len(window) // 2 + 1 bins."""
    n_fft = len(window)
    kernels = (matrix(n_fft, n_fft, n_fft // 2 + 1).to(window) * window[:, None]).T[:, None]
    return _power(F.conv1d(waveform[:, None], kernels, stride=hop_length), 1)


def power(frames: Tensor, n_fft: int, bins: int) -> Tensor:
    """Power of the first `bins` frequencies of frames (…, size), as of a transform of n_fft: (…, bins)."""
    return _power(frames @ matrix(frames.shape[-1], n_fft, bins).to(frames), -1)


def correlation(spectrum: Tensor, n_fft: int, lags: int) -> Tensor:
    """The first `lags` values of the inverse transform of n_fft of a real spectrum (…, n_fft // 2 + 1): (…, lags)."""
    bins = n_fft // 2 + 1
    # Every frequency stands for itself and its mirror image, the first and the last but for themselves.
    weights = torch.tensor([1.0, *[2.0] * (bins - 2), 1.0]) / n_fft
    return spectrum @ (matrix(lags, n_fft, bins)[:, :bins] * weights).T.to(spectrum)


def _power(both: Tensor, axis: int) -> Tensor:
    cosines, sines = both.chunk(2, axis)
    return cosines.square() + sines.square()
