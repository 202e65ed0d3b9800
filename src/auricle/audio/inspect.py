"""Inspect clips: decode each one, check its quality, compute its fingerprint.

In: clips. Out, in their order and with flat memory: a ClipInfo of each and, on request, its samples as a model's input.
Inspecting a corpus and preparing it for training are this same pass, in parallel processes.
"""

import collections
import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from auricle.audio import quality
from auricle.audio.decode import rate_of
from auricle.audio.quality import Finding
from auricle.audio.recordings import DecodedClip, Recording, decode_recording
from auricle.audio.settings import NO_FINGERPRINT, Settings
from auricle.corpus import tree
from auricle.corpus.clip import Clip
from auricle.corpus.remote import is_remote
from auricle.errors import AudioError, DataError
from auricle.parallel import Progress, parallel_map

SHARD_CLIPS = 32
# Remote clips that a process fetches at a time.
AHEAD = 8
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


def open_clip(clip: Clip, settings: Settings, content: bytes | None = None) -> DecodedClip:
    """Decode one clip, whose `content` may be here already, and check its quality.

    Never raises for a bad recording: the problem is among the findings.
    """
    span = (clip.start, clip.end, content, clip.meta.get(DECLARED_FRAMES))
    return decode_recording(Recording(clip.id, clip.source, *span), settings)


def inspected(
    clips: Sequence[Clip], settings: Settings, *, with_samples: bool
) -> Iterator[tuple[ClipInfo, np.ndarray | None]]:
    """Decode clips and describe them, in order; `with_samples` adds the samples of usable ones as a model's input."""
    for clip, content in read_ahead(clips):
        yield inspect_clip(clip, settings, with_samples=with_samples, content=content)


def read_ahead(clips: Sequence[Clip]) -> Iterator[tuple[Clip, bytes | None]]:
    """The clips, with the content of remote ones, of which AHEAD are fetched while one is decoded.

    None is the content of a local clip, and of one whose fetching failed: decoding finds why.
    """
    if not any(is_remote(clip.source) for clip in clips):
        yield from ((clip, None) for clip in clips)
        return
    remaining = iter(clips)
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="auricle-fetch") as pool:
        pending = collections.deque((clip, pool.submit(_fetched, clip)) for clip in itertools.islice(remaining, AHEAD))
        while pending:
            clip, content = pending.popleft()
            yield clip, content.result()
            pending.extend((later, pool.submit(_fetched, later)) for later in itertools.islice(remaining, 1))


def _fetched(clip: Clip) -> bytes | None:
    if not is_remote(clip.source):
        return None
    with contextlib.suppress(AudioError, OSError, DataError):
        return tree.read_bytes(clip.source)
    return None


def inspect_clip(
    clip: Clip, settings: Settings, *, with_samples: bool, content: bytes | None = None
) -> tuple[ClipInfo, np.ndarray | None]:
    """Decode one clip and describe it; `with_samples` adds its samples as a model's input, if it is usable."""
    decoded = open_clip(clip, settings, content)
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
    for clip, content in read_ahead(clips[:: max(1, len(clips) // sample)]):
        with contextlib.suppress(AudioError, OSError, DataError):  # inspecting the clip finds why
            rates[rate_of(tree.read_bytes(clip.source) if content is None else content)] += 1
    return max(rates, key=lambda rate: (rates[rate], rate), default=otherwise)


def _infos(clips: Sequence[Clip], settings: Settings) -> list[ClipInfo]:
    return [info for info, _ in inspected(clips, settings, with_samples=False)]
