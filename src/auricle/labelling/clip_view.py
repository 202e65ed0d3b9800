"""One clip as HTML: its metadata, waveform, spectrogram and a player.

Image and audio are data URIs: no file of the corpus is copied or served. Names and labels are untrusted text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from auricle.audio import FULL_SCALE
from auricle.audio.decode import resample
from auricle.audio.inspect import open_clip
from auricle.audio.quality import Finding
from auricle.audio.settings import Settings
from auricle.corpus.clip import Clip
from auricle.errors import AudioError
from auricle.evaluation import html
from auricle.serving.waveform import Waveform, draw_waveform

# Checking a label takes seconds, and a minute of audio is less than a megabyte to send.
PREVIEW_SECONDS = 60.0


@dataclass(frozen=True)
class Preview:
    """The start of a clip, and its recording's format. `complete`: it is the whole clip."""

    waveform: Waveform
    complete: bool
    sample_rate: int
    channels: int


def fill(template: str, **values: object) -> str:
    """The HTML of a template, with every value escaped."""
    return html.environment("auricle.labelling", "auricle.serving").get_template(template).render(values)


def render_clip(clip: Clip, notes: Sequence[Finding], group_name: str) -> str:
    """The HTML of one clip; never raises for a bad recording."""
    try:
        preview, reason = load_preview(clip), ""
    except AudioError as error:
        # A note of this kind gives the reason already.
        preview, reason = None, "" if any(note.kind == error.kind for note in notes) else str(error)
    return fill("clip.html", clip=clip, notes=notes, group_name=group_name, preview=preview, reason=reason)


def load_preview(clip: Clip) -> Preview:
    """Decode the first minute of a clip, mixed to one channel. Raises AudioError if it cannot be decoded."""
    start = clip.start or 0.0
    end = start + PREVIEW_SECONDS
    truncated = clip.end is None or clip.end > end
    # A clip that is too short or too long for a recipe can still be played.
    bounds = Settings(sample_rate=0, channels=1, min_seconds=0.0, max_seconds=2 * PREVIEW_SECONDS)
    decoded = open_clip(replace(clip, end=end) if truncated else clip, bounds)
    audio = decoded.audio
    if audio is None:
        raise AudioError(decoded.findings[0].kind, decoded.findings[0].detail)
    mono = resample(audio, audio.sample_rate, 1)[0].astype(np.float32) / FULL_SCALE
    return Preview(
        waveform=draw_waveform(mono, audio.sample_rate),
        complete=not truncated or audio.seconds < PREVIEW_SECONDS,
        sample_rate=audio.sample_rate,
        channels=len(audio.samples),
    )
