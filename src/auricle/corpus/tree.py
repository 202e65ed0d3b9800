"""The files of a corpus, wherever they lie: a folder, an archive, a single table, a glob pattern or a remote store.

In: a path or URL. Out: a Tree, which lists names and sizes in one fixed order and gives each name a `source`: a text
that `open_source` and `read_bytes` open later, from any process or thread. Archives are read in place, and no audio is
decoded. A folder and an archive of it look the same: hidden and system files are skipped, and folders around everything
are taken off the names.
"""

import functools
import glob
import io
import itertools
import os
import posixpath
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from auricle.corpus.archive import (
    MAX_MEMBER_BYTES,
    SUFFIXES,
    Archive,
    fsspec_module,
    is_archive,
    is_remote,
    open_archive,
    open_location,
    stamp,
)
from auricle.corpus.clip import Excluded
from auricle.errors import AudioError, DataError

# What libsndfile and FFmpeg open, films with sound included.
_SUFFIXES = """.wav .wave .w64 .rf64 .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .caf .sph .m4a .m4b .aac .mp4
    .webm .wma .amr .3gp .mka .mkv .mov .avi"""
AUDIO_SUFFIXES = frozenset(_SUFFIXES.split())
_SKIPPED_NAMES = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini", "Icon\r"))
_FOLDS = {
    "train": "train training tr",
    "valid": "valid validation val dev development",
    "test": "test testing tst eval evaluation",
}
_FOLD_OF_WORD = {word: fold for fold, words in _FOLDS.items() for word in words.split()}
_FINGERPRINT_BYTES = 4096
_SPOOL_BYTES = 16 << 20


@dataclass(frozen=True)
class Tree:
    """A listing of a corpus. `names` are posix paths below `prefix`, sorted; `sizes` are their bytes, in that order.

    `location` is the folder, the archive or the URL; `scheme` is "zip", "tar", "remote", "hub" (a name to be looked up)
    or "" for a folder.
    """

    location: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    prefix: str = ""
    scheme: str = ""

    @property
    def root(self) -> Path:
        """The folder that the names are relative to; for an archive, the archive."""
        return Path(self.location) if self.is_archive else Path(self.location) / self.prefix

    @property
    def is_archive(self) -> bool:
        return self.scheme in ("zip", "tar")

    @property
    def is_folder(self) -> bool:
        """Whether the files are plain files of this machine."""
        return self.scheme == ""

    def source(self, name: str) -> str:
        """The text by which `open_source` finds a file: a path, a URL, or "zip://MEMBER::ARCHIVE"."""
        if self.is_archive:
            return f"{self.scheme}://{self.prefix}{name}::{self.location}"
        if self.scheme == "remote":
            return f"{self.location.rstrip('/')}/{self.prefix}{name}"
        return os.path.join(self.location, *(self.prefix + name).split("/"))

    def open(self, name: str) -> BinaryIO:
        """Open a file of the tree. Raises AudioError("unreadable") if that fails."""
        return open_source(self.source(name))

    def read_text(self, name: str) -> str:
        """A text file's content; a byte order mark is dropped. Raises DataError if it is not UTF-8."""
        try:
            return read_bytes(self.source(name)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"'{name}' in '{self.location}' is not UTF-8 text ({error}). Save it as UTF-8.") from error


def open_tree(data: str | Path) -> Tree:
    """List a folder, an archive, a single file, a glob pattern, or a remote folder or archive.

    Raises DataError for a path that is missing or empty and for an archive that is corrupt, encrypted or unsafe.
    """
    text = str(data)
    if not is_remote(text):
        text = os.path.abspath(os.path.expanduser(text))
    if is_archive(text) and (is_remote(text) or os.path.isfile(text)):
        archive = open_archive(text)
        found = {name: member.size for name, member in archive.members.items()}
        return _listing(text, found.items(), archive.scheme)
    if is_remote(text):
        return _remote(text)
    if os.path.isdir(text):
        return _listing(text, _walk(text))
    if os.path.isfile(text):
        return Tree(os.path.dirname(text), (os.path.basename(text),), (os.path.getsize(text),))
    if glob.has_magic(text):
        return _matched(text)
    raise DataError(
        f"There is no file or folder at '{data}'. Give a folder, an archive ({', '.join(SUFFIXES)}), a table, a quoted "
        "glob pattern, or the name of a Hugging Face data set with --reader hub."
    )


def open_source(source: str) -> BinaryIO:
    """Open what a `source` names: seekable; archive members and rows are wholly in memory. Safe from several threads.

    Raises AudioError ("unreadable" or "truncated") when one recording cannot be had, DataError when its archive cannot.
    """
    if _scheme(source):
        return io.BytesIO(read_bytes(source))
    try:
        return open_location(source)
    except OSError as error:
        raise AudioError("unreadable", f"'{source}': {error.strerror or error}") from error


def open_stream(source: str) -> BinaryIO:
    """Open as `open_source` does, with constant memory: a large archive member is written to a nameless file first."""
    if _scheme(source) in ("zip", "tar"):
        member, archive = _member(source)
        spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        for piece in archive.pieces(member):
            spool.write(piece)
        spool.seek(0)
        return cast(BinaryIO, spool)
    return open_source(source)


def size_of(source: str) -> int | None:
    """The bytes that a source holds, None where that is not known before it is read, or it is not there."""
    scheme = _scheme(source)
    try:
        if scheme == "arrow" or source == "-":
            return None
        if scheme:
            member, archive = _member(source)
            return archive.members[member].size
        if is_remote(source):
            filesystem, path = fsspec_module().core.url_to_fs(source)
            return int(filesystem.size(path) or 0) or None
        return os.stat(source).st_size if os.path.isfile(source) else None
    except (OSError, AudioError, DataError):
        return None


def state_of(source: str) -> str:
    """A text that changes when a source does: of a file its size and time of change, of a member its identity.

    Quicker than `identity`, for nothing is read. Empty where there is no such source.
    """
    try:
        if _scheme(source) or is_remote(source):
            return identity(source)
        return "" if source == "-" else stamp(source)
    except (OSError, AudioError, DataError):
        return ""


def read_bytes(source: str, most: int = MAX_MEMBER_BYTES) -> bytes:
    """The bytes that a `source` names, at most 2 GiB or `most`. Errors as in `open_source`."""
    scheme = _scheme(source)
    if scheme == "arrow":
        return _read_row(source)
    if scheme:
        member, archive = _member(source)
        if archive.members[member].size > most:
            raise AudioError("unreadable", f"'{member}' is over {most} bytes")
        return archive.read(member)
    with open_source(source) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise AudioError("unreadable", f"'{source}' is over {most} bytes")
    return content


def identity(source: str) -> str:
    """A cheap text that changes when the content does and that does not depend on where the corpus lies.

    Files: name, size, time of change and a checksum of three stretches, for files of one length written within a
    second are common. Archive members: checksum and size (zip), or the archive's state and the place in it (tar).
    Raises AudioError or DataError when the source is not there.
    """
    scheme = _scheme(source)
    if scheme == "arrow":
        row, column, file = _row(source)
        return f"arrow-{stamp(file)}-{column}-{row}"
    if scheme:
        member, archive = _member(source)
        return archive.members[member].identity
    if is_remote(source):
        return f"remote-{stamp(source)}"
    checksum = 0
    with open_source(source) as content:
        state = os.fstat(content.fileno())
        for offset in (0, state.st_size // 2, state.st_size - _FINGERPRINT_BYTES):
            content.seek(max(0, offset))
            checksum = zlib.crc32(content.read(_FINGERPRINT_BYTES), checksum)
    return f"file-{os.path.basename(source)}-{state.st_size}-{state.st_mtime_ns}-{checksum:08x}"


def arrow_source(file: str, column: str, row: int) -> str:
    """The source of the audio in one row of an Arrow file that the `datasets` package wrote."""
    return f"arrow://{row}::{column}::{file}"


def is_audio(name: str) -> bool:
    """Whether a file is a recording by its name."""
    return posixpath.splitext(name)[1].lower() in AUDIO_SUFFIXES


def recordings(tree: Tree) -> tuple[list[str], list[Excluded]]:
    """The names of a tree that are recordings, and what else is there, summed up by kind of file."""
    others = Counter(posixpath.splitext(name)[1].lower() for name in tree.names if not is_audio(name))
    first = {posixpath.splitext(name)[1].lower(): name for name in reversed(tree.names)}
    excluded = []
    for suffix, count in sorted(others.items()):
        more = f" and {count - 1} more '{suffix}'" if count > 1 else ""
        excluded.append(Excluded(first[suffix] + more, "no recording, by its name"))
    return [name for name in tree.names if is_audio(name)], excluded


def unrepeated(names: Iterable[str]) -> tuple[list[str], list[Excluded]]:
    """Each file name once, whatever its folder and suffix: corpora come with copies as MP3 or in a second folder.

    An uncompressed copy goes before a compressed one, then the first by name.
    """
    kept: dict[str, str] = {}
    excluded = []
    ranks = {".wav": 0, ".flac": 1}
    for name in sorted(names, key=lambda name: (ranks.get(posixpath.splitext(name)[1].lower(), 2), name)):
        first = kept.setdefault(posixpath.splitext(posixpath.basename(name))[0], name)
        if first != name:
            excluded.append(Excluded(name, f"the same clip as '{first}'"))
    return sorted(kept.values()), excluded


def mostly(tree: Tree, pattern: re.Pattern[str]) -> bool:
    """Whether nine in ten of the recordings, and at least two, are named by a pattern (searched in the path)."""
    names = [name for name in tree.names if is_audio(name)]
    hits = sum(pattern.search(name) is not None for name in names)
    return hits >= 2 and hits >= 0.9 * len(names)


def named(
    tree: Tree, pattern: re.Pattern[str], expected: str
) -> tuple[list[tuple[str, re.Match[str]]], list[Excluded]]:
    """The recordings that a pattern matches, with the match, each file once; and what is left out, with its reason.

    `expected` says what the others are not: "EmoDB name, such as 03a01Fa.wav".
    """
    names, excluded = recordings(tree)
    names, copies = unrepeated(names)
    matches = [(name, pattern.search(name)) for name in names]
    others = [Excluded(name, f"no {expected}") for name, match in matches if match is None]
    return [(name, match) for name, match in matches if match is not None], [*excluded, *copies, *others]


def official_fold(word: str) -> str | None:
    """ "train", "valid" or "test" for the words that corpora use for them, else None."""
    return _FOLD_OF_WORD.get(word.strip().lower())


def _listing(location: str, found: Iterable[tuple[str, int]], scheme: str = "") -> Tree:
    kept = sorted((name, size) for name, size in found if not _is_skipped(name))
    if not kept:
        raise DataError(f"'{location}' holds no files. Give a folder or archive with recordings.")
    # The first and the last of sorted names differ where any two do.
    ends = [name.split("/")[:-1] for name in (kept[0][0], kept[-1][0])]
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
    prefix = "".join(f"{part}/" for part, _ in shared)
    names = tuple(name[len(prefix) :] for name, _ in kept)
    return Tree(location, names, tuple(size for _, size in kept), prefix, scheme)


def _is_skipped(name: str) -> bool:
    return any(part.startswith(".") or part in _SKIPPED_NAMES for part in name.split("/"))


def _walk(root: str) -> Iterator[tuple[str, int]]:
    """Names and sizes below a folder; linked folders are followed, but never round in a circle."""
    waiting = [("", frozenset({os.path.realpath(root)}))]
    while waiting:
        below, above = waiting.pop()
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if _is_skipped(entry.name):
                    continue
                if entry.is_dir():
                    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                    if real not in above:
                        waiting.append((name, above | {real}))
                elif entry.is_file():
                    yield name, entry.stat().st_size


def _matched(pattern: str) -> Tree:
    """The files that a glob pattern finds, below the folder before its first wildcard."""
    paths = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not paths:
        raise DataError(f"The pattern '{pattern}' matches no file. Quote it, so that the shell leaves it alone.")
    parts = pattern.split(os.sep)
    plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = os.sep.join(parts[:plain]) or os.sep
    return _listing(root, ((Path(path).relative_to(root).as_posix(), os.path.getsize(path)) for path in paths))


def _remote(url: str) -> Tree:
    filesystem, path = fsspec_module().core.url_to_fs(url)
    try:
        if filesystem.isfile(path):
            folder, _, name = url.rpartition("/")
            return Tree(folder, (name,), (int(filesystem.size(path) or 0),), scheme="remote")
        found = filesystem.find(path, detail=True)
    except OSError as error:
        raise DataError(f"'{url}' cannot be listed: {error}. Check the URL and your rights to it.") from error
    below = {posixpath.relpath(name, path): int(about.get("size") or 0) for name, about in found.items()}
    return _listing(url, below.items(), "remote")


def _scheme(source: str) -> str:
    """ "zip", "tar" or "arrow" for what lies inside another file, else nothing."""
    scheme, separator, _ = source.partition("://")
    return scheme if separator and scheme in ("zip", "tar", "arrow") else ""


def _member(source: str) -> tuple[str, Archive]:
    member, _, location = source.partition("://")[2].rpartition("::")
    archive = open_archive(location)
    if member not in archive.members:
        raise AudioError("unreadable", f"'{member}' is not in '{location}' (any more)")
    return member, archive


def _row(source: str) -> tuple[int, str, str]:
    row, column, file = source.partition("://")[2].split("::", 2)
    return int(row), column, file


def _read_row(source: str) -> bytes:
    row, column, file = _row(source)
    content = arrow_table(file, stamp(file))[column][row].as_py()
    if not isinstance(content, dict) or not content.get("bytes"):
        raise AudioError("unreadable", f"row {row} of '{file}' holds no bytes in its column '{column}'")
    return bytes(content["bytes"])


@functools.lru_cache(maxsize=64)
def arrow_table(file: str, state: str) -> pa.Table:
    """A memory-mapped Arrow file, kept open; `state` is its stamp. Rows are read from disk when they are asked for."""
    try:
        mapped = pa.memory_map(file)
        try:
            return pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(mapped).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"'{file}' is no readable Arrow file: {error}. Make or download the data set again.") from error
