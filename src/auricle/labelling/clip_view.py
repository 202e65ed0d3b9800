"""One clip as a piece of a page: what it is, what it looks like, and its sound.

In: a Clip, which is decoded here and now, and what is remarked on it. Out: HTML that holds picture and sound as data
URIs, so that no file of the corpus is copied or served. Names and labels are strangers' text: Jinja escapes them. A
recording that cannot be heard is shown with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from auricle.audio.decode import resample
from auricle.audio.inspect import open_clip
from auricle.audio.settings import Settings
from auricle.corpus.clip import Clip
from auricle.errors import AudioError
from auricle.labelling.selection import Remark
from auricle.serving.fragments import template
from auricle.serving.waveform import Sight, sight

# Judging a label takes seconds, and what a browser is sent stays under a megabyte.
HEARD_SECONDS = 60.0


@dataclass(frozen=True)
class Shown:
    """The start of a clip, and how it was recorded."""

    sight: Sight
    whole: bool
    sample_rate: int
    channels: int


def card(clip: Clip, notes: Sequence[Remark], group_name: str) -> str:
    """The HTML of one clip; never raises for a bad recording."""
    try:
        heard, reason = hear(clip), ""
    except AudioError as error:
        heard, reason = None, str(error)
    return template("clip.html").render(clip=clip, notes=notes, group_name=group_name, heard=heard, reason=reason)


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
        sight=sight(mono, sound.sample_rate),
        whole=not cut or sound.seconds < HEARD_SECONDS,
        sample_rate=sound.sample_rate,
        channels=len(sound.samples),
    )
