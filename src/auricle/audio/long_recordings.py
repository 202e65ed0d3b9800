"""Recordings of every length, as they are to be answered: short ones whole and in chunks, a long one as a stream.

In: recordings, in order. Out, in that order: chunks of recordings that were decoded ahead in threads, and, between
them, each Long. Memory is bounded by the seconds decoded at a time, whatever the length and the number of the files.
"""

import collections
import io
import itertools
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

import numpy as np

from auricle.audio import quality, stream
from auricle.audio.decode import Sound
from auricle.audio.inspect import DecodedClip, open_clip
from auricle.audio.quality import Finding
from auricle.audio.recordings import CHUNK_FILES, CHUNK_SECONDS, Heard, Recording, heard_of
from auricle.audio.settings import Settings
from auricle.corpus import tree
from auricle.corpus.clip import Clip
from auricle.errors import AudioError, DataError
from auricle.parallel import cores

# What is no longer is answered whole.
WHOLE_SECONDS = 600.0
# What is larger is not read at once. Ten minutes of MP3 are smaller.
WHOLE_BYTES = 12 << 20
# Files that are read ahead for each core.
_AHEAD = 2


@dataclass(eq=False)
class Long:
    """A recording of more than WHOLE_SECONDS; `blocks` are its samples, int16 (channels, samples), once.

    When they are at their end, `seconds` is how long it is, and `notes` say what is wrong with it.
    """

    name: str
    blocks: Iterator[np.ndarray]
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())


def hear_all(recordings: Iterable[Recording], settings: Settings) -> Iterator[list[Heard] | Long]:
    """Decode recordings of any length, in order. A Long must be read to its end before the next is asked for.

    Precomputed features are answered whole, however long they are.
    """
    chunk: list[Heard] = []
    seconds = 0.0
    for heard in _in_order(recordings, settings):
        if isinstance(heard, Long):
            if chunk:
                yield chunk
            chunk, seconds = [], 0.0
            yield heard
            continue
        chunk.append(heard)
        seconds += heard.samples.shape[-1] / settings.sample_rate
        if seconds >= CHUNK_SECONDS or len(chunk) >= CHUNK_FILES:
            yield chunk
            chunk, seconds = [], 0.0
    if chunk:
        yield chunk


def _in_order(recordings: Iterable[Recording], settings: Settings) -> Iterator[Heard | Long]:
    """Read ahead what is short; what turns out to be long is streamed when its turn comes."""
    with ThreadPoolExecutor(cores(), thread_name_prefix="auricle-hear") as pool:
        remaining = iter(recordings)
        pending: collections.deque[tuple[Recording, Future[Heard | BinaryIO | str]]] = collections.deque()
        for recording in itertools.islice(remaining, cores() * _AHEAD):
            pending.append((recording, pool.submit(_look, recording, settings)))
        while pending:
            recording, future = pending.popleft()
            found = future.result()
            for following in itertools.islice(remaining, 1):
                pending.append((following, pool.submit(_look, following, settings)))
            yield found if isinstance(found, Heard) else _streamed(recording.name, found, settings)


def _look(recording: Recording, settings: Settings) -> Heard | BinaryIO | str:
    """The recording, if it is short; else where it can be streamed from."""
    clip = Clip(recording.name, recording.source, "", start=recording.start, end=recording.end)
    if settings.num_features is not None or recording.start is not None or recording.end is not None:
        content = sys.stdin.buffer.read() if recording.source == "-" else None
        return heard_of(recording.name, open_clip(clip, settings, content), settings)
    if recording.source == "-":
        content = _start(sys.stdin.buffer)
        if len(content) > WHOLE_BYTES:
            return cast(BinaryIO, stream.Joined(content, sys.stdin.buffer))
        source: BinaryIO | str = io.BytesIO(content)
    else:
        content, source = None, recording.source
        if (tree.size_of(recording.source) or 0) > WHOLE_BYTES:
            return source
    opened = open_clip(clip, replace(settings, max_seconds=WHOLE_SECONDS), content)
    is_long = opened.sound is None and any(finding.kind == "long" for finding in opened.findings)
    return source if is_long else heard_of(recording.name, opened, settings)


def _start(file: BinaryIO) -> bytes:
    """The first bytes of a pipe, one more than WHOLE_BYTES at most."""
    content = b""
    while len(content) <= WHOLE_BYTES and (piece := file.read(WHOLE_BYTES + 1 - len(content))):
        content += piece
    return content


def _streamed(name: str, source: BinaryIO | str, settings: Settings) -> Heard | Long:
    """Stream a recording; one that proves to be short, or cannot be heard, is Heard."""
    found: list[Finding] = []
    blocks = stream.blocks(source, settings, found)
    first: collections.deque[np.ndarray] = collections.deque()
    count = 0
    try:
        for block in blocks:
            first.append(block)
            count += block.shape[1]
            if count > WHOLE_SECONDS * settings.sample_rate:
                long = Long(name, iter(()))
                long.blocks = _followed(long, _joined(first, blocks), settings, found)
                return long
    except AudioError as error:
        return Heard(name, np.zeros((1, 0), np.int16), (f"{error.kind}: {error.detail}",))
    except (OSError, DataError) as error:
        return Heard(name, np.zeros((1, 0), np.int16), (f"unreadable: the file cannot be opened: {error}",))
    sound = Sound(np.concatenate(first, axis=1), settings.sample_rate, "", None)
    levels = quality.find(sound, name="", min_seconds=0.0, max_seconds=WHOLE_SECONDS)
    return heard_of(name, DecodedClip(sound, (*found, *levels)), settings)


def _joined(first: collections.deque[np.ndarray], blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The first blocks, each of them let go, and those that follow."""
    while first:
        yield first.popleft()
    yield from blocks


def _followed(
    long: Long, blocks: Iterable[np.ndarray], settings: Settings, found: list[Finding]
) -> Iterator[np.ndarray]:
    """Pass blocks on and say at the end what was seen of them. A source that breaks off ends there."""
    count, peak = 0, 0
    try:
        for block in blocks:
            count += block.shape[1]
            peak = max(peak, int(block.max()), -int(block.min()))
            yield block
    except (OSError, AudioError, DataError) as error:
        found.append(Finding("truncated", f"reading stops after {count / settings.sample_rate:.2f} s: {error}"))
    if peak < quality.SILENT_PEAK * 32768:
        found.append(Finding("silent", "nothing in it is louder than -80 dBFS"))
    long.seconds = count / settings.sample_rate
    long.notes = tuple(f"{finding.kind}: {finding.detail}" for finding in found)
