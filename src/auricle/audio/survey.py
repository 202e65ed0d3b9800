"""One look at every clip: decode it, say what is wrong with it, take its fingerprint.

In: an Index. Out, in the Index's order and with flat memory: what each clip is (Facts) and, when audio settings ask for
it, its sound as the model will hear it. Inspecting a corpus and preparing it for training are this same pass. Decoding
runs in threads, which scale because the decoders release the interpreter's lock.
"""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from auricle.audio import decode, faults, fingerprint
from auricle.audio.decode import Sound
from auricle.audio.faults import Finding
from auricle.corpus import tree
from auricle.corpus.clip import Clip
from auricle.errors import AudioError, DataError

Progress = Callable[[int, int], None]
_NO_PRINT = np.zeros(0, np.uint32)


@dataclass(frozen=True)
class Settings:
    """How a corpus is heard: the key of its decoded store. `sample_rate` in hertz, lengths in seconds."""

    sample_rate: int
    channels: int
    min_seconds: float
    max_seconds: float


@dataclass(frozen=True)
class Facts:
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
        return not any(finding.kind in faults.QUARANTINED for finding in self.findings)


@dataclass(frozen=True)
class Heard:
    """A clip's facts and its int16 samples (channels, frames) at the settings' rate; None when it is not usable."""

    facts: Facts
    samples: np.ndarray | None


@dataclass(frozen=True)
class Opened:
    """A decoded clip and what is wrong with it; `sound` is None where nothing could be decoded."""

    sound: Sound | None
    findings: tuple[Finding, ...]


def open_clip(clip: Clip, settings: Settings, content: bytes | None = None) -> Opened:
    """Decode one clip and look for faults. Never raises for a bad recording: the fault is in the findings.

    `content` stands for the source's bytes where they are already at hand.
    """
    name = clip.id.partition("#")[0]
    try:
        content = tree.read_bytes(clip.source) if content is None else content
        sound = decode.decode(content, start=clip.start, end=clip.end, max_seconds=settings.max_seconds, name=name)
    except AudioError as error:
        return Opened(None, (Finding(error.kind, error.detail),))
    except (OSError, DataError) as error:
        return Opened(None, (Finding("unreadable", f"the file cannot be opened: {error}"),))
    found = faults.find(sound, name=name, min_seconds=settings.min_seconds, max_seconds=settings.max_seconds)
    return Opened(sound, found)


def look(clip: Clip, settings: Settings, keep: bool) -> Heard:
    """Take the facts of one clip and, with `keep`, its samples as the model will hear them."""
    opened = open_clip(clip, settings)
    sound = opened.sound
    if sound is None:
        return Heard(Facts(clip.id, 0.0, 0, 0, "", opened.findings, "", _NO_PRINT), None)
    channels, frames = sound.samples.shape
    damaged = any(finding.kind == "nan" for finding in opened.findings)
    facts = Facts(
        id=clip.id,
        seconds=frames / sound.sample_rate,
        sample_rate=sound.sample_rate,
        channels=channels,
        container=sound.container,
        findings=opened.findings,
        sound_hash="" if damaged else faults.sound_hash(sound),
        fingerprint=_NO_PRINT if damaged else fingerprint.fingerprint(sound.samples, sound.sample_rate),
    )
    if not keep or not facts.usable:
        return Heard(facts, None)
    return Heard(facts, decode.resample(sound, settings.sample_rate, settings.channels))


def survey(clips: Iterable[Clip], settings: Settings, *, keep: bool, workers: int | None = None) -> Iterator[Heard]:
    """Look at all clips in threads; yields in order and holds at most a few clips per worker at a time."""
    workers = workers or cores()
    with ThreadPoolExecutor(workers, thread_name_prefix="auricle-look") as pool:
        pending: collections.deque[Future[Heard]] = collections.deque()
        remaining = iter(clips)
        try:
            for clip in itertools.islice(remaining, workers * 8):
                pending.append(pool.submit(look, clip, settings, keep))
            while pending:
                heard = pending.popleft().result()
                for clip in itertools.islice(remaining, 1):
                    pending.append(pool.submit(look, clip, settings, keep))
                yield heard
        finally:
            for future in pending:
                future.cancel()


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def commonest_rate(clips: list[Clip], settings: Settings, sample: int = 48) -> int:
    """The sample rate in hertz that most of `sample` evenly spaced clips have; ties go to the higher."""
    step = max(1, len(clips) // sample)
    rates = collections.Counter(
        heard.facts.sample_rate for heard in survey(clips[::step], settings, keep=False) if heard.facts.sample_rate
    )
    if not rates:
        return settings.sample_rate
    return max(rates, key=lambda rate: (rates[rate], rate))
