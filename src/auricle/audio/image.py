"""A spectrogram and a playable excerpt for a page, as data URIs: nothing is written to disk, nothing is fetched.

In: one channel of samples. Out: a mel spectrogram as PNG, and the audio in the smallest encoding available.
"""

import base64
import io
import math

import numpy as np
import soundfile
import soxr
from PIL import Image

from auricle.audio.mel import mel_filters

RANGE_DB = 70.0
NUM_MELS = 64
COLUMNS = 400
# Frames are transformed in chunks of this many samples, which fit the processor's cache.
CACHED_SAMPLES = 2**18
MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Smallest first; libsndfile before 1.1 writes no MP3.
ENCODINGS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("OGG", "VORBIS", "audio/ogg"), ("WAV", "PCM_16", "audio/wav"))
# From dark to bright with evenly growing lightness: louder is lighter, also for colour-blind readers.
COLOURS = ((11, 12, 38), (50, 24, 96), (124, 34, 112), (196, 56, 92), (240, 112, 68), (252, 184, 84), (252, 248, 196))


def spectrogram_uri(mono: np.ndarray, sample_rate: int, *, columns: int = COLUMNS) -> str:
    """A mel spectrogram (64 bands, low ones below) as an indexed PNG; colour spans 70 dB below the loudest cell.

    mono: (frames,) float32 in [-1, 1]. Short clips have a column for each 10 ms, long ones about `columns` in all.
    """
    hop = max(sample_rate // 100, len(mono) // columns, 1)
    n_fft = max(2 ** math.ceil(math.log2(0.04 * sample_rate)), hop)
    decibels = 10 * np.log10(np.maximum(_mel_power(mono, sample_rate, n_fft, hop), 1e-10))
    loudest = max(float(decibels.max()), RANGE_DB - 100)  # silence stays dark
    levels = np.clip((decibels - loudest) / RANGE_DB + 1, 0, 1)
    image = Image.fromarray(np.flipud(levels * 255).astype(np.uint8))
    stops = np.linspace(0, 1, len(COLOURS))
    palette = [np.interp(np.linspace(0, 1, 256), stops, channel) for channel in np.transpose(COLOURS)]
    image.putpalette(np.stack(palette, 1).round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def _mel_power(mono: np.ndarray, sample_rate: int, n_fft: int, hop: int) -> np.ndarray:
    """(samples,) → (bands, 1 + samples // hop), a few frames at a time; both ends are padded with zeros."""
    padded = np.pad(mono.astype(np.float32, copy=False), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    filters = mel_filters(sample_rate, n_fft, NUM_MELS, 0.0, sample_rate / 2)
    chunk = max(1, CACHED_SAMPLES // n_fft)
    parts = [
        np.abs(np.fft.rfft(frames[first : first + chunk] * window)).astype(np.float32) ** 2 @ filters
        for first in range(0, len(frames), chunk)
    ]
    return np.concatenate(parts).T


def audio_uri(mono: np.ndarray, sample_rate: int) -> str:
    """The audio, (frames,) float32 in [-1, 1], in the smallest encoding that this libsndfile writes."""
    available = soundfile.available_formats()
    name, subtype, mime = next(encoding for encoding in ENCODINGS if encoding[0] in available)
    rate = next((rate for rate in MPEG_RATES if rate >= sample_rate), MPEG_RATES[-1])
    if rate != sample_rate:
        mono = soxr.resample(mono, sample_rate, rate)
    file = io.BytesIO()
    options = {} if name == "WAV" else {"compression_level": 0.4}
    soundfile.write(file, mono, rate, format=name, subtype=subtype, **options)
    return _uri(mime, file.getvalue())


def _uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
