"""A recording as a page shows it: waveform, spectrogram, axes and a player, all as data URIs."""

from dataclasses import dataclass

import numpy as np
import soxr

from auricle.audio import image
from auricle.audio.mel import hz_to_mel

COLUMNS = 1000
LONG_RATE = 16000
FREQUENCIES = (500, 1000, 2000, 4000, 8000, 16000, 32000)
# A tick closer to the edge than this would be drawn over it.
MAX_TICK = 0.95
TIME_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
MAX_TICKS = 8

Ticks = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Waveform:
    """Spectrogram and audio as data URIs, the outline as SVG points, ticks as (position from 0 to 1, text).

    `audio` holds the first `playable_seconds` of the recording.
    """

    spectrogram: str
    audio: str
    outline: str
    seconds: float
    playable_seconds: float
    frequency_ticks: Ticks
    time_ticks: Ticks


def draw_waveform(mono: np.ndarray, sample_rate: int, max_samples: int | None = None) -> Waveform:
    """Draw and encode samples (frames,) float32 in [-1, 1]. The player holds at most `max_samples`.

    A longer recording is resampled to a lower rate first, and truncated only if it is still too long.
    """
    seconds = len(mono) / sample_rate
    playable, rate = mono, sample_rate
    if max_samples is not None and len(mono) > max_samples and rate > LONG_RATE:
        playable, rate = soxr.resample(mono[: max_samples * rate // LONG_RATE], rate, LONG_RATE), LONG_RATE
    playable = playable[:max_samples]
    return Waveform(
        spectrogram=image.spectrogram_uri(mono, sample_rate, columns=COLUMNS),
        audio=image.audio_uri(playable, rate),
        outline=_outline(mono),
        seconds=seconds,
        playable_seconds=len(playable) / rate,
        frequency_ticks=_frequency_ticks(sample_rate),
        time_ticks=time_ticks(seconds),
    )


def time_ticks(seconds: float) -> Ticks:
    """The ticks of a time axis; from a minute on they are written in minutes."""
    step = next((step for step in TIME_STEPS if seconds / step <= MAX_TICKS), TIME_STEPS[-1])
    return tuple(
        (number * step / seconds, format_time(number * step, seconds))
        for number in range(1, int(MAX_TICK * seconds / step) + 1)
    )


def format_time(time: float, seconds: float) -> str:
    """A time in a recording of this many seconds: '2.5 s', or '1:02:03' for a long one."""
    if seconds < 60:
        return f"{time:g} s"
    minutes, rest = divmod(round(time), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if seconds >= 3600 else f"{minutes}:{rest:02}"


def _outline(mono: np.ndarray) -> str:
    """The envelope of the samples as points of a polygon, x from 0 to COLUMNS, y from -100 to 100."""
    edges = np.linspace(0, len(mono), min(COLUMNS, len(mono)), endpoint=False).astype(int)
    scale = 100 / max(float(np.abs(mono).max()), 1e-4)
    upper, lower = np.maximum.reduceat(mono, edges) * scale, np.minimum.reduceat(mono, edges) * scale
    columns = np.linspace(0, COLUMNS, len(edges))
    x, y = np.concatenate([columns, columns[::-1]]), np.concatenate([upper, lower[::-1]])
    return " ".join(f"{column:.0f},{-level:.0f}" for column, level in zip(x, y, strict=True))


def _frequency_ticks(sample_rate: int) -> Ticks:
    top = float(hz_to_mel(sample_rate / 2))
    positions = ((float(hz_to_mel(frequency)) / top, frequency) for frequency in FREQUENCIES)
    return tuple(
        (position, f"{frequency / 1000:g} kHz" if frequency >= 1000 else f"{frequency} Hz")
        for position, frequency in positions
        if position < MAX_TICK
    )
