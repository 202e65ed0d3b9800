"""Inspect clips: decode each one, check its quality, compute its fingerprint.

In: clips. Out, in their order and with flat memory: a ClipInfo of each and, on request, its samples as a model's input.
Inspecting a corpus and preparing it for training are this same pass, in parallel processes.
"""

import collections
import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio import quality
from auricle.audio.decode import rate_of
from auricle.audio.quality import Finding
from auricle.audio.recordings import DecodedClip, Recording, decode_recording
from auricle.audio.settings import NO_FINGERPRINT, Settings
from auricle.corpus import tree
from auricle.corpus.clip import Clip
from auricle.errors import AudioError, DataError
from auricle.parallel import Progress, parallel_map

SHARD_CLIPS = 32
# The metadata with the declared number of frames of a clip.
DECLARED_FRAMES = "mel_len"


@dataclass(frozen=True)
class ClipInfo:
    """A description of one clip. `fingerprint` is empty and the numbers are zero where nothing could be decoded."""

    id: str
    seconds: float
    sample_rate: int
    channels: int
    container: str
    findings: tuple[Finding, ...]
    audio_hash: str
    fingerprint: np.ndarray

    @property
    def usable(self) -> bool:
        return not any(finding.kind in quality.QUARANTINED for finding in self.findings)


def open_clip(clip: Clip, settings: Settings) -> DecodedClip:
    """Decode one clip and check its quality. Never raises for a bad recording: the problem is among the findings."""
    declared_frames = clip.meta.get(DECLARED_FRAMES)
    return decode_recording(
        Recording(clip.id, clip.source, clip.start, clip.end, declared_frames=declared_frames), settings
    )


def inspect_clip(clip: Clip, settings: Settings, *, with_samples: bool) -> tuple[ClipInfo, np.ndarray | None]:
    """Decode one clip and describe it; `with_samples` adds its samples as a model's input, if it is usable."""
    decoded = open_clip(clip, settings)
    audio = decoded.audio
    if audio is None:
        return ClipInfo(clip.id, 0.0, 0, 0, "", decoded.findings, "", NO_FINGERPRINT), None
    digest, clip_fingerprint = settings.identify(audio, decoded.findings)
    info = ClipInfo(
        id=clip.id,
        seconds=audio.seconds,
        sample_rate=audio.sample_rate,
        channels=len(audio.samples) if settings.is_audio else 1,
        container=audio.container,
        findings=decoded.findings,
        audio_hash=digest,
        fingerprint=clip_fingerprint,
    )
    return info, decoded.samples if with_samples and info.usable else None


def inspect_clips(clips: Sequence[Clip], settings: Settings, progress: Progress) -> list[ClipInfo]:
    """Describe all clips, in order and in parallel; the samples are discarded at once, so memory stays flat."""
    shards = [clips[first : first + SHARD_CLIPS] for first in range(0, len(clips), SHARD_CLIPS)]
    infos: list[ClipInfo] = []
    for shard in parallel_map(functools.partial(_infos, settings=settings), shards):
        infos += shard
        progress(len(infos), len(clips))
    return infos


def most_common_rate(clips: Sequence[Clip], otherwise: int, sample: int = 48) -> int:
    """The sample rate in hertz that most of `sample` evenly spaced clips have; ties go to the higher."""
    rates: collections.Counter[int] = collections.Counter()
    for clip in clips[:: max(1, len(clips) // sample)]:
        with contextlib.suppress(AudioError, OSError, DataError):  # inspecting the clip finds why
            rates[rate_of(tree.read_bytes(clip.source))] += 1
    return max(rates, key=lambda rate: (rates[rate], rate), default=otherwise)


def _infos(clips: Sequence[Clip], settings: Settings) -> list[ClipInfo]:
    return [inspect_clip(clip, settings, with_samples=False)[0] for clip in clips]
