"""A stretch of sound as a page shows it: waveform, spectrogram, scales, and the sound itself.

In: one channel of samples. Out: a Sight, which holds picture and sound as data URIs, so that nothing is written or
fetched. Two pages draw it: the one where labels are judged, and the one where a model is asked.
"""

from dataclasses import dataclass

import numpy as np
import soxr

from auricle.audio import image
from auricle.audio.mel import hz_to_mel

COLUMNS = 1000
LONG_RATE = 16000
PITCHES = (500, 1000, 2000, 4000, 8000, 16000, 32000)
# Lines this near the upper edge would be drawn over it.
TOP_SHARE = 0.95
TIME_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
MOST_TICKS = 8


@dataclass(frozen=True)
class Sight:
    """Picture and sound as data URIs, `wave` as SVG points, ticks as (share of the side, text).

    `played` is how many of the seconds `audio` holds.
    """

    picture: str
    audio: str
    wave: str
    seconds: float
    played: float
    pitches: tuple[tuple[float, str], ...]
    times: tuple[tuple[float, str], ...]


def sight(mono: np.ndarray, sample_rate: int, played: int | None = None) -> Sight:
    """Draw and encode samples (frames,) float32 in [-1, 1]; at most `played` of them can be heard.

    What is longer is heard at a lower rate first, and cut only then.
    """
    seconds = len(mono) / sample_rate
    heard, rate = mono, sample_rate
    if played is not None and len(mono) > played and rate > LONG_RATE:
        heard, rate = soxr.resample(mono[: played * rate // LONG_RATE], rate, LONG_RATE), LONG_RATE
    heard = heard[:played]
    return Sight(
        picture=image.picture(mono, sample_rate, columns=COLUMNS),
        audio=image.player(heard, rate),
        wave=_wave(mono),
        seconds=seconds,
        played=len(heard) / rate,
        pitches=_pitches(sample_rate),
        times=times(seconds),
    )


def times(seconds: float) -> tuple[tuple[float, str], ...]:
    """The ticks of a time axis; an end of a minute or more is counted in minutes."""
    step = next((step for step in TIME_STEPS if seconds / step <= MOST_TICKS), TIME_STEPS[-1])
    return tuple(
        (number * step / seconds, clock(number * step, seconds))
        for number in range(1, int(TOP_SHARE * seconds / step) + 1)
    )


def clock(at: float, seconds: float) -> str:
    """A place in a recording of so many seconds: '2.5 s', or '1:02:03' where there are minutes."""
    if seconds < 60:
        return f"{at:g} s"
    minutes, rest = divmod(round(at), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if seconds >= 3600 else f"{minutes}:{rest:02}"


def _wave(mono: np.ndarray) -> str:
    """The outline of the samples' extremes as points of a polygon, x from 0 to COLUMNS, y from -100 to 100."""
    edges = np.linspace(0, len(mono), min(COLUMNS, len(mono)), endpoint=False).astype(int)
    scale = 100 / max(float(np.abs(mono).max()), 1e-4)
    upper, lower = np.maximum.reduceat(mono, edges) * scale, np.minimum.reduceat(mono, edges) * scale
    places = np.linspace(0, COLUMNS, len(edges))
    there = [f"{place:.0f},{-level:.0f}" for place, level in zip(places, upper, strict=True)]
    back = [f"{place:.0f},{-level:.0f}" for place, level in zip(places[::-1], lower[::-1], strict=True)]
    return " ".join(there + back)


def _pitches(sample_rate: int) -> tuple[tuple[float, str], ...]:
    top = float(hz_to_mel(sample_rate / 2))
    shares = ((float(hz_to_mel(pitch)) / top, pitch) for pitch in PITCHES)
    return tuple(
        (share, f"{pitch / 1000:g} kHz" if pitch >= 1000 else f"{pitch} Hz")
        for share, pitch in shares
        if share < TOP_SHARE
    )
