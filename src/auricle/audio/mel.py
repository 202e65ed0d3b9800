"""Slaney's mel scale in NumPy, shared by the models' front end and by spectrogram images.

In: frequencies in hertz. Out: mel values, and the filters that sum a power spectrum into mel bands.
"""

import math

import numpy as np


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998)."""
    hz = np.asarray(hz, np.float64)
    logarithmic = 15.0 + np.log(np.maximum(hz, 1e-9) / 1000.0) * (27.0 / math.log(6.4))
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, logarithmic)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    logarithmic = 1000.0 * np.exp((mel - 15.0) * (math.log(6.4) / 27.0))
    return np.where(mel < 15.0, mel * 200.0 / 3.0, logarithmic)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Triangular filters of unit area, as `librosa.filters.mel`: (n_fft // 2 + 1, n_mels) float32."""
    edges = mel_to_hz(np.linspace(hz_to_mel(f_min), hz_to_mel(f_max), n_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    width = edges[1:] - edges[:-1]
    slopes = edges[None, :] - bins[:, None]
    rising = -slopes[:, :-2] / width[:-1]
    falling = slopes[:, 2:] / width[1:]
    triangles = np.maximum(np.minimum(rising, falling), 0.0)
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2])), np.float32)
