"""One clip as a piece of a page: what it is, what it looks like, and its sound.

In: a Clip, which is decoded here and now, and what is remarked on it. Out: HTML that holds picture and sound as data
URIs, so that no file of the corpus is copied or served. Names and labels are strangers' text: Jinja escapes them. A
recording that cannot be heard is shown with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jinja2
import numpy as np
import torch

from auricle.audio.decode import resample
from auricle.audio.survey import Settings, open_clip
from auricle.corpus.clip import Clip
from auricle.errors import AudioError
from auricle.evaluation import excerpt
from auricle.models.front_end import hz_to_mel
from auricle.serving.choosing import Remark

# Judging a label takes seconds, and what a browser is sent stays under a megabyte.
HEARD_SECONDS = 60.0
COLUMNS = 1000
PITCHES = (500, 1000, 2000, 4000, 8000, 16000, 32000)
# Lines this near the upper edge would be drawn over it.
TOP_SHARE = 0.95
TIME_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
MOST_TICKS = 8


@dataclass(frozen=True)
class Shown:
    """The start of a clip: picture and sound as data URIs, `wave` as SVG points, ticks as (share of the side, text)."""

    picture: str
    audio: str
    wave: str
    seconds: float
    whole: bool
    sample_rate: int
    channels: int
    pitches: tuple[tuple[float, str], ...]
    times: tuple[tuple[float, str], ...]


def card(clip: Clip, remarks: Sequence[Remark], group_name: str) -> str:
    """The HTML of one clip; never raises for a bad recording."""
    try:
        heard, reason = hear(clip), ""
    except AudioError as error:
        heard, reason = None, str(error)
    return _template().render(clip=clip, remarks=remarks, group_name=group_name, heard=heard, reason=reason)


def hear(clip: Clip) -> Shown:
    """Decode the first minute of a clip, mixed to one channel. Raises AudioError where there is nothing to hear."""
    start = clip.start or 0.0
    last = start + HEARD_SECONDS
    cut = clip.end is None or clip.end > last
    # A clip that a recipe calls too short or too long can be heard all the same.
    bounds = Settings(sample_rate=0, channels=1, min_seconds=0.0, max_seconds=2 * HEARD_SECONDS)
    opened = open_clip(replace(clip, end=last) if cut else clip, bounds)
    sound = opened.sound
    if sound is None:
        raise AudioError(opened.findings[0].kind, opened.findings[0].detail)
    mono = resample(sound, sound.sample_rate, 1)[0].astype(np.float32) / 32768
    return Shown(
        picture=excerpt.picture(mono, sound.sample_rate, columns=COLUMNS),
        audio=excerpt.player(mono, sound.sample_rate),
        wave=_wave(mono),
        seconds=sound.seconds,
        whole=not cut or sound.seconds < HEARD_SECONDS,
        sample_rate=sound.sample_rate,
        channels=len(sound.samples),
        pitches=_pitches(sound.sample_rate),
        times=_times(sound.seconds),
    )


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
    top = float(hz_to_mel(torch.tensor(sample_rate / 2.0)))
    shares = ((float(hz_to_mel(torch.tensor(float(pitch)))) / top, pitch) for pitch in PITCHES)
    return tuple(
        (share, f"{pitch / 1000:g} kHz" if pitch >= 1000 else f"{pitch} Hz")
        for share, pitch in shares
        if share < TOP_SHARE
    )


def _times(seconds: float) -> tuple[tuple[float, str], ...]:
    step = next((step for step in TIME_STEPS if seconds / step <= MOST_TICKS), TIME_STEPS[-1])
    return tuple(
        (number * step / seconds, f"{number * step:g} s") for number in range(1, int(TOP_SHARE * seconds / step) + 1)
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("auricle.serving"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("clip.html")
