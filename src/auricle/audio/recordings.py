"""The one reader of recordings: files, folders, archives, globs and lists to samples in a model's form.

In: names, in order. Out, in that order: decoded recordings, read ahead in threads; short ones whole, in chunks, a long
one as a stream of blocks. Memory is bounded by the seconds decoded at a time, whatever the length and the number of
the files. A recording that cannot be decoded comes with its error.
"""

import collections
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from auricle.audio import frames, quality, stream
from auricle.audio.decode import DecodedAudio, decode
from auricle.audio.quality import Finding
from auricle.audio.settings import Settings
from auricle.corpus import tree
from auricle.corpus.archive import is_archive
from auricle.errors import AudioError, DataError, UsageError
from auricle.parallel import cores

MAX_SECONDS = 6 * 3600.0
CHUNK_SECONDS = 600.0
CHUNK_FILES = 256
# A recording that is no longer is decoded and classified whole.
WHOLE_SECONDS = 600.0
# What is larger is not read at once. Ten minutes of MP3 are smaller.
WHOLE_BYTES = 12 << 20
# Files that are read ahead for each core.
_AHEAD = 2
# These faults leave nothing to classify; a recording with any other fault is classified, with a warning.
FATAL = frozenset({"unreadable", "not_fetched", "empty", "nan"})


@dataclass(frozen=True)
class Recording:
    """A recording: its name, the source that opens it, and the seconds in it, None for its two ends.

    `content` has the source's bytes where they are in memory; `declared_frames` is the corpus's number of frames.
    """

    name: str
    source: str
    start: float | None = None
    end: float | None = None
    content: bytes | None = None
    declared_frames: str | None = None


@dataclass(frozen=True)
class DecodedClip:
    """A decoded clip, what is wrong with it, and its samples in a model's form.

    `audio` is None where nothing could be decoded, `samples` also where they are not finite.
    """

    audio: DecodedAudio | None
    findings: tuple[Finding, ...]
    samples: np.ndarray | None = None


@dataclass(eq=False)
class DecodedRecording:
    """A recording in a model's form: blocks of int16 (channels, samples), or of float32 (num_features, frames).

    A whole recording is one block. One that `is_long` may have many, which are decoded once, as they are taken; its
    `seconds` and `warnings` are complete when the blocks are at their end. `error` says why there are no samples.
    """

    name: str
    blocks: Iterable[np.ndarray]
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str | None = None
    is_long: bool = False

    @property
    def samples(self) -> np.ndarray:
        """The samples of a recording that was decoded whole."""
        (samples,) = self.blocks
        return samples


def whole_recording(
    name: str, samples: np.ndarray, settings: Settings, warnings: tuple[str, ...] = ()
) -> DecodedRecording:
    """A recording in memory, in the settings' form; without samples the warnings are its error."""
    if not samples.shape[-1]:
        return DecodedRecording(name, (), error="; ".join(warnings) or "empty: no samples")
    seconds = samples.shape[-1] / settings.sample_rate
    is_long = settings.is_audio and seconds > WHOLE_SECONDS
    return DecodedRecording(name, (samples,), seconds, warnings, is_long=is_long)


def recordings(inputs: Iterable[str]) -> Iterator[Recording]:
    """Expand files, folders, archives, globs and '-' (a recording on standard input) into recordings.

    A .json file lists utterances. A name that does not exist is passed on: its prediction has the error.
    """
    for name in inputs:
        path = Path(name)
        if name == "-":
            yield Recording("-", "-")
        elif path.is_dir() or is_archive(name) or (any(mark in name for mark in "*?[") and not path.exists()):
            try:
                listed = tree.open_tree(name)
            except DataError as error:
                raise UsageError(str(error)) from error
            members = [member for member in listed.names if tree.is_audio(member)]
            members = members or [member for member in listed.names if member.endswith(frames.SUFFIX)]
            if not members:
                raise UsageError(f"'{name}' holds no audio files. Give files, folders, archives or globs that do.")
            for member in members:
                yield Recording(tree.printable(f"{name.rstrip('/')}/{member}"), listed.source(member))
        elif path.suffix == ".json":
            yield from listed_utterances(path)
        else:
            yield Recording(tree.printable(name), name)


def listed_utterances(path: Path) -> Iterator[Recording]:
    """Read the utterances that a testdata.json lists, in its order. Raises UsageError for files elsewhere."""
    example = '{"utterances": [{"feature_path": "uttr-….pt"}, …]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [row["feature_path"] for row in content["utterances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{path}' is no list of utterances ({error!r}). It needs {example}.") from error
    for name in names:
        relative = PurePosixPath(name) if isinstance(name, str) else None
        if relative is None or relative.is_absolute() or ".." in relative.parts:
            raise UsageError(f"'{path}' lists {name!r}. Files in its own folder are allowed: {example}.")
        yield Recording(name, str(path.parent / relative))


def read_recordings(
    recordings: Iterable[Recording], settings: Settings, *, whole: bool = False, first: int = 0
) -> Iterator[list[DecodedRecording]]:
    """Decode recordings in order, in chunks that are bounded in seconds and in number.

    A chunk ends with every CHUNK_FILES-th recording; `first` is the number of the first one among all of a job.
    A long recording is a chunk of its own, and is decoded while its blocks are taken: take all of them before the next
    chunk. With `whole` every recording is decoded whole, as precomputed features always are.
    """
    chunk: list[DecodedRecording] = []
    seconds = 0.0
    for number, recording in enumerate(_in_order(recordings, settings, whole), start=first + 1):
        if recording.is_long and not whole:
            if chunk:
                yield chunk
            chunk, seconds = [], 0.0
            yield [recording]
            continue
        chunk.append(recording)
        seconds += recording.seconds
        if seconds >= CHUNK_SECONDS or number % CHUNK_FILES == 0:
            yield chunk
            chunk, seconds = [], 0.0
    if chunk:
        yield chunk


def decode_recording(recording: Recording, settings: Settings) -> DecodedClip:
    """Decode a recording, or its section, and look for faults. A bad one never raises: it has findings."""
    try:
        return _decode(recording, settings)
    except AudioError as error:
        return DecodedClip(None, (Finding(error.kind, error.detail),))
    except (OSError, DataError) as error:
        return DecodedClip(None, (Finding("unreadable", f"the file cannot be opened: {error}"),))


def _decode(recording: Recording, settings: Settings) -> DecodedClip:
    content, name, max_seconds = recording.content, recording.name.partition("#")[0], settings.max_seconds
    if settings.num_features is not None:
        bounds = (settings.num_features, settings.sample_rate, max_seconds)
        if content is None:
            # A file that is too large is not read.
            content = tree.read_bytes(recording.source, frames.max_bytes(*bounds))
        features = frames.open_features(content, *bounds)
        faults = frames.check(features, declared=recording.declared_frames, min_seconds=settings.min_seconds)
        return DecodedClip(features, faults, features.samples)
    content = tree.read_bytes(recording.source) if content is None else content
    try:
        audio = decode(content, start=recording.start, end=recording.end, max_seconds=max_seconds)
    except AudioError as error:
        if name.endswith(frames.SUFFIX) and error.kind == "unreadable":
            hint = f"{error.detail}; a .pt file may hold precomputed features, and audio is needed here"
            raise AudioError(error.kind, hint) from error
        raise
    return check_clip(audio, name, settings)


def check_clip(audio: DecodedAudio, name: str, settings: Settings) -> DecodedClip:
    """Look for faults in decoded audio, as it is stored and in a model's form; `name` is the file's."""
    if not audio.samples.shape[1]:
        return DecodedClip(audio, (Finding("empty", "it holds no samples"),))
    try:
        samples = settings.convert(audio)
    except AudioError:  # 'nan', which the check counts
        samples = None
    bounds = {"min_seconds": settings.min_seconds, "max_seconds": settings.max_seconds}
    rate = settings.sample_rate or audio.sample_rate
    return DecodedClip(audio, quality.check(audio, samples, name=name, rate=rate, **bounds), samples)


def convert_clip(name: str, clip: DecodedClip, settings: Settings) -> DecodedRecording:
    """A decoded clip as a recording; its findings become warnings, or its error."""
    warnings = tuple(f"{finding.kind}: {finding.detail}" for finding in clip.findings)
    if clip.samples is None or any(finding.kind in FATAL for finding in clip.findings):
        return whole_recording(name, np.zeros((1, 0), np.int16), settings, warnings)
    return whole_recording(name, clip.samples, settings, warnings)


def _in_order(recordings: Iterable[Recording], settings: Settings, whole: bool) -> Iterator[DecodedRecording]:
    """Read ahead what is short; what turns out to be long is streamed when it is next."""
    with ThreadPoolExecutor(cores(), thread_name_prefix="auricle-decode") as pool:
        remaining = iter(recordings)
        pending: collections.deque[tuple[Recording, Future[DecodedRecording | BinaryIO | str]]] = collections.deque()
        for recording in itertools.islice(remaining, cores() * _AHEAD):
            pending.append((recording, pool.submit(_read_ahead, recording, settings, whole)))
        while pending:
            recording, future = pending.popleft()
            result = future.result()
            for following in itertools.islice(remaining, 1):
                pending.append((following, pool.submit(_read_ahead, following, settings, whole)))
            yield result if isinstance(result, DecodedRecording) else _streamed(recording.name, result, settings)


def _read_ahead(recording: Recording, settings: Settings, whole: bool) -> DecodedRecording | BinaryIO | str:
    """Decode the recording, if it is short; else return what it can be streamed from."""
    source: BinaryIO | str = recording.source
    content = None
    if whole or not settings.is_audio or recording.start is not None or recording.end is not None:
        content = sys.stdin.buffer.read() if source == "-" else None
        clip = decode_recording(replace(recording, content=content), settings)
        return convert_clip(recording.name, clip, settings)
    if source == "-":
        content = stream.first_bytes(sys.stdin.buffer, WHOLE_BYTES + 1)
        if len(content) > WHOLE_BYTES:
            return cast(BinaryIO, stream.JoinedFile(content, sys.stdin.buffer))
        source = io.BytesIO(content)
    elif (tree.size_of(recording.source) or 0) > WHOLE_BYTES:
        return source
    clip = decode_recording(replace(recording, content=content), replace(settings, max_seconds=WHOLE_SECONDS))
    is_long = clip.audio is None and any(finding.kind == "long" for finding in clip.findings)
    return source if is_long else convert_clip(recording.name, clip, settings)


def _streamed(name: str, source: BinaryIO | str, settings: Settings) -> DecodedRecording:
    """Stream a recording; one that proves to be short, or cannot be decoded, comes whole."""
    findings: list[Finding] = []
    blocks = stream.blocks(source, settings, findings)
    first: collections.deque[np.ndarray] = collections.deque()
    count = 0
    try:
        for block in blocks:
            first.append(block)
            count += block.shape[1]
            if count > WHOLE_SECONDS * settings.sample_rate:
                recording = DecodedRecording(name, (), is_long=True)
                recording.blocks = _watched(recording, itertools.chain(_drained(first), blocks), settings, findings)
                return recording
    except AudioError as error:
        return DecodedRecording(name, (), error=f"{error.kind}: {error.detail}")
    except (OSError, DataError) as error:
        return DecodedRecording(name, (), error=f"unreadable: the file cannot be opened: {error}")
    return convert_clip(name, DecodedClip(None, tuple(findings), np.concatenate(first, axis=1)), settings)


def _drained(first: collections.deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The first blocks, none of them held any longer than it is needed."""
    while first:
        yield first.popleft()


def _watched(
    recording: DecodedRecording, blocks: Iterable[np.ndarray], settings: Settings, findings: list[Finding]
) -> Iterator[np.ndarray]:
    """Pass blocks on and complete the recording at their end. A source that breaks off ends there."""
    count = 0
    try:
        for block in blocks:
            count += block.shape[1]
            yield block
    except (OSError, AudioError, DataError) as error:
        findings.append(Finding("truncated", f"reading stops after {count / settings.sample_rate:.2f} s: {error}"))
    recording.seconds = count / settings.sample_rate
    recording.warnings = tuple(f"{finding.kind}: {finding.detail}" for finding in findings)
