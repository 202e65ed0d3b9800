"""One look at every clip: decode it, say what is wrong with it, take its fingerprint.

In: clips. Out, in their order and with flat memory: what each clip is (Facts) and, where it is to be kept, its sound as
the model will hear it. Inspecting a corpus and preparing it for training are this same pass, spread over processes.
"""

import collections
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio import fingerprint, frames, quality
from auricle.audio.quality import Finding
from auricle.audio.recordings import DecodedClip, decode_source, model_input
from auricle.audio.settings import Settings
from auricle.corpus.clip import Clip
from auricle.parallel import Progress, parallel_map

PART_CLIPS = 32
_NO_PRINT = np.zeros(0, np.uint32)
# The metadata by which a corpus promises how many frames a clip has.
DECLARED_FRAMES = "mel_len"


@dataclass(frozen=True)
class ClipInfo:
    """What one clip is. `fingerprint` is empty and the numbers are zero where nothing could be decoded."""

    id: str
    seconds: float
    sample_rate: int
    channels: int
    container: str
    findings: tuple[Finding, ...]
    sound_hash: str
    fingerprint: np.ndarray

    @property
    def usable(self) -> bool:
        return not any(finding.kind in quality.QUARANTINED for finding in self.findings)


@dataclass(frozen=True)
class Heard:
    """A clip's facts and its samples at the settings' rate; None when it is not usable.

    samples: int16 (channels, frames), or float32 (bands, frames) of precomputed features.
    """

    facts: ClipInfo
    samples: np.ndarray | None


def open_clip(clip: Clip, settings: Settings) -> DecodedClip:
    """Decode one clip and look for faults. Never raises for a bad recording: the fault is in the findings."""
    return decode_source(
        clip.source,
        settings,
        name=clip.id.partition("#")[0],
        start=clip.start,
        end=clip.end,
        declared_frames=clip.meta.get(DECLARED_FRAMES),
    )


def look(clip: Clip, settings: Settings, keep: bool) -> Heard:
    """Take the facts of one clip and, with `keep`, its samples as the model will hear them."""
    opened = open_clip(clip, settings)
    sound = opened.audio
    if sound is None:
        return Heard(ClipInfo(clip.id, 0.0, 0, 0, "", opened.findings, "", _NO_PRINT), None)
    damaged = any(finding.kind == "nan" for finding in opened.findings)
    if settings.num_features is not None:
        sound_hash, print_ = frames.content_hash(sound), _NO_PRINT
    elif damaged:
        sound_hash, print_ = "", _NO_PRINT
    else:
        sound_hash = quality.sound_hash(sound)
        print_ = fingerprint.fingerprint(sound.samples, sound.sample_rate)
    facts = ClipInfo(
        id=clip.id,
        seconds=sound.seconds,
        sample_rate=sound.sample_rate,
        channels=1 if settings.num_features is not None else len(sound.samples),
        container=sound.container,
        findings=opened.findings,
        sound_hash=sound_hash,
        fingerprint=print_,
    )
    if not keep or not facts.usable:
        return Heard(facts, None)
    return Heard(facts, model_input(sound, settings))


def survey(clips: Iterable[Clip], settings: Settings, *, keep: bool) -> Iterator[Heard]:
    """Look at clips one after the other, in this process."""
    return (look(clip, settings, keep) for clip in clips)


def inspect_clips(clips: Sequence[Clip], settings: Settings, progress: Progress) -> list[ClipInfo]:
    """The facts of all clips, in order; the sound itself is let go at once, so memory stays flat."""
    parts = [clips[first : first + PART_CLIPS] for first in range(0, len(clips), PART_CLIPS)]
    facts: list[ClipInfo] = []
    for found in parallel_map(functools.partial(_facts, settings=settings), parts):
        facts += found
        progress(len(facts), len(clips))
    return facts


def _facts(clips: Sequence[Clip], settings: Settings) -> list[ClipInfo]:
    return [heard.facts for heard in survey(clips, settings, keep=False)]


def commonest_rate(clips: list[Clip], settings: Settings, sample: int = 48) -> int:
    """The sample rate in hertz that most of `sample` evenly spaced clips have; ties go to the higher."""
    step = max(1, len(clips) // sample)
    rates = collections.Counter(
        heard.facts.sample_rate for heard in survey(clips[::step], settings, keep=False) if heard.facts.sample_rate
    )
    if not rates:
        return settings.sample_rate
    return max(rates, key=lambda rate: (rates[rate], rate))
