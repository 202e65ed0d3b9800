"""What is to be answered for, and how a model hears it.

In: files, folders, archives, globs, lists. Out: their samples as a model of some settings hears them, in order, decoded
ahead in threads; one that cannot be heard comes with the reason. Memory is bounded by the seconds decoded at a time,
not by the number of files.
"""

import collections
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from auricle.audio.frames import SUFFIX as FRAMES_SUFFIX
from auricle.audio.inspect import DecodedClip, as_heard, open_clip
from auricle.audio.settings import Settings
from auricle.corpus import tree
from auricle.corpus.archive import is_archive
from auricle.corpus.clip import Clip
from auricle.errors import DataError, UsageError
from auricle.parallel import cores

MAX_SECONDS = 6 * 3600.0
CHUNK_SECONDS = 600.0
CHUNK_FILES = 256


@dataclass(frozen=True)
class Recording:
    """A file to be answered for: its name, the source that opens it, and the seconds in it, None for its two ends."""

    name: str
    source: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """A recording as a model hears it: int16 samples (channels, frames), none where `notes` say that it is deaf."""

    name: str
    samples: np.ndarray
    notes: tuple[str, ...]

    @property
    def error(self) -> str | None:
        return None if self.samples.shape[-1] else ("; ".join(self.notes) or "empty: no samples")


def recordings(inputs: Iterable[str]) -> Iterator[Recording]:
    """Expand files, folders, archives, globs and '-' (a recording on standard input) into what is to be answered.

    A list of utterances (a .json file that has them) gives these, by the names that it has for them. A name that does
    not exist is passed on: it gets an answer that says so.
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
            found = [member for member in listed.names if tree.is_audio(member)]
            found = found or [member for member in listed.names if member.endswith(FRAMES_SUFFIX)]
            if not found:
                raise UsageError(f"'{name}' holds no audio files. Give files, folders, archives or globs that do.")
            yield from (Recording(f"{name.rstrip('/')}/{member}", listed.source(member)) for member in found)
        elif path.suffix == ".json":
            yield from listed_utterances(path)
        else:
            yield Recording(name, name)


def listed_utterances(path: Path) -> Iterator[Recording]:
    """The utterances that a testdata.json lists, in its order; their files lie beside it.

    Raises UsageError for a file that is no such list, or names files elsewhere.
    """
    wanted = '{"utterances": [{"feature_path": "uttr-….pt"}, …]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [row["feature_path"] for row in content["utterances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{path}' is no list of utterances ({error!r}). It needs {wanted}.") from error
    for name in names:
        place = PurePosixPath(name) if isinstance(name, str) else None
        if place is None or place.is_absolute() or ".." in place.parts:
            raise UsageError(f"'{path}' lists {name!r}, and files beside it are allowed: {wanted}.")
        yield Recording(name, str(path.parent / place))


def hear(recordings: Iterable[Recording], settings: Settings) -> Iterator[list[Heard]]:
    """Decode many files, in order, in chunks that are bounded in seconds and in number."""
    chunk: list[Heard] = []
    seconds = 0.0
    for recording, opened in _opened(recordings, settings):
        chunk.append(heard_of(recording.name, opened, settings))
        seconds += chunk[-1].samples.shape[-1] / settings.sample_rate
        if seconds >= CHUNK_SECONDS or len(chunk) >= CHUNK_FILES:
            yield chunk
            chunk, seconds = [], 0.0
    if chunk:
        yield chunk


# With these there is nothing to be heard; a clip with any other fault is answered, with a warning.
DEAF = frozenset({"unreadable", "empty", "nan"})


def heard_of(name: str, opened: DecodedClip, settings: Settings) -> Heard:
    notes = tuple(f"{finding.kind}: {finding.detail}" for finding in opened.findings)
    if opened.sound is None or any(finding.kind in DEAF for finding in opened.findings):
        return Heard(name, np.zeros((1, 0), np.int16), notes)
    return Heard(name, as_heard(opened.sound, settings), notes)


def _opened(recordings: Iterable[Recording], settings: Settings) -> Iterator[tuple[Recording, DecodedClip]]:
    """Decode ahead in threads, a few files per core at a time, in order."""
    workers = cores()
    with ThreadPoolExecutor(workers, thread_name_prefix="auricle-open") as pool:
        pending: collections.deque[tuple[Recording, Future[DecodedClip]]] = collections.deque()
        remaining = iter(recordings)
        for recording in itertools.islice(remaining, workers * 4):
            pending.append((recording, pool.submit(_open, recording, settings)))
        while pending:
            recording, future = pending.popleft()
            opened = future.result()
            for following in itertools.islice(remaining, 1):
                pending.append((following, pool.submit(_open, following, settings)))
            yield recording, opened


def _open(recording: Recording, settings: Settings) -> DecodedClip:
    clip = Clip(recording.name, recording.source, "", start=recording.start, end=recording.end)
    return open_clip(clip, settings, content=sys.stdin.buffer.read() if recording.source == "-" else None)
