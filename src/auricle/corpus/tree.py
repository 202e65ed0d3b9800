"""The files of a corpus: in a folder, an archive, a single table, a glob pattern or a remote store.

In: a path or URL. Out: a Tree, which lists names and sizes in a fixed order and gives each name a `source`: a text that
`open_source` and `read_bytes` open later, from any process or thread. Archives are read in place, and no audio is
decoded. A folder and an archive of it look the same: hidden and system files are skipped, and folders that contain
everything are removed from the names.
"""

import functools
import glob
import io
import itertools
import os
import posixpath
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from auricle.corpus.archive import (
    MAX_MEMBER_BYTES,
    SUFFIXES,
    Archive,
    is_archive,
    open_archive,
    open_location,
    stamp,
)
from auricle.corpus.remote import filesystem_of, is_remote, listed
from auricle.errors import AudioError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

# What libsndfile and FFmpeg open, video with audio included.
_SUFFIXES = """.wav .wave .w64 .rf64 .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .caf .sph .m4a .m4b .aac .mp4
    .webm .wma .amr .3gp .mka .mkv .mov .avi"""
AUDIO_SUFFIXES = frozenset(_SUFFIXES.split())
_SKIPPED_NAMES = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini", "Icon\r"))
_CHECKSUM_BYTES = 4096
_SPOOL_BYTES = 16 << 20


@dataclass(frozen=True)
class Tree:
    """A listing of a corpus. `names` are posix paths below `prefix`, sorted; `sizes` are their bytes, in that order.

    `location` is the folder, the archive or the URL; `scheme` is "zip", "tar", "remote", "hub" (a name to look up)
    or "" for a folder. `missing` are the names that hold no content, such as links that lead nowhere, and why.
    `hidden` are hidden and system files, which are passed over, and `empty_folders` the folders that hold no other
    files, both below `location`. `note` says what was worked out about the names.
    """

    location: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    prefix: str = ""
    scheme: str = ""
    missing: tuple[tuple[str, str], ...] = ()
    hidden: tuple[str, ...] = ()
    empty_folders: tuple[str, ...] = ()
    note: str = ""

    @property
    def root(self) -> Path:
        """The folder that the names are relative to; for an archive, the archive."""
        return Path(self.location) if self.is_archive else Path(self.location) / self.prefix

    @property
    def is_archive(self) -> bool:
        return self.scheme in ("zip", "tar")

    @property
    def is_folder(self) -> bool:
        """Whether the files are local files."""
        return self.scheme == ""

    def source(self, name: str) -> str:
        """The text that `open_source` opens: a path, a URL, or "zip://MEMBER::ARCHIVE"."""
        if self.is_archive:
            return f"{self.scheme}://{self.prefix}{name}::{self.location}"
        if self.scheme == "remote":
            return f"{self.location.rstrip('/')}/{self.prefix}{name}"
        return os.path.join(self.location, *(self.prefix + name).split("/"))

    def open(self, name: str) -> BinaryIO:
        """Open a file of the tree. Raises AudioError("unreadable") if that fails."""
        return open_source(self.source(name))

    def read_text(self, name: str) -> str:
        """The content of a text file, as `decode_text` gives it."""
        return decode_text(read_bytes(self.source(name)), f"'{name}' in '{self.location}'")


def open_tree(data: str | Path) -> Tree:
    """List a folder, an archive, a single file, a glob pattern, or a remote folder or archive.

    Raises DataError for a path that is missing or empty and for an archive that is corrupt, encrypted or unsafe.
    """
    text = str(data)
    if not is_remote(text):
        text = os.path.abspath(os.path.expanduser(text))
    if is_archive(text) and (is_remote(text) or os.path.isfile(text)):
        archive = open_archive(text)
        files = ((name, member.size) for name, member in archive.members.items())
        return replace(_listing(text, files, archive.scheme, folders=archive.folders), note=archive.note)
    if is_remote(text):
        folder, found = listed(text)
        if folder != text:
            [(name, size)] = found
            return Tree(folder, (name,), (size,), scheme="remote")
        return _listing(text, found, "remote")
    if os.path.isdir(text):
        missing: list[tuple[str, str]] = []
        folders: list[str] = []
        return _listing(text, _walk(text, missing, folders), missing=missing, folders=folders)
    if os.path.isfile(text):
        return Tree(os.path.dirname(text), (os.path.basename(text),), (os.path.getsize(text),))
    check_exists(data)
    return _matched(text)


def check_exists(data: str | Path) -> None:
    """Raise DataError where there is nothing at a local path; patterns and URLs pass."""
    text = str(data)
    if not (is_remote(text) or glob.has_magic(text) or os.path.exists(os.path.expanduser(text))):
        raise DataError(
            f"There is no file or folder at '{data}'. Give a folder, an archive ({', '.join(SUFFIXES)}), a table, a "
            "quoted glob pattern, or the name of a Hugging Face dataset with `--reader hub`."
        )


def open_source(source: str) -> BinaryIO:
    """Open a `source`, seekable; archive members and rows are read into memory. Safe from several threads.

    Raises AudioError ("unreadable" or "truncated") if the recording is unavailable, DataError if its archive is.
    """
    if _scheme(source):
        return io.BytesIO(read_bytes(source))
    try:
        return open_location(source)
    except OSError as error:
        raise AudioError("unreadable", f"'{source}': {error.strerror or error}") from error


def open_stream(source: str) -> BinaryIO:
    """Open as `open_source` does, with constant memory: a large archive member is written to an unnamed file first."""
    if _scheme(source) in ("zip", "tar"):
        member, archive = _member(source)
        spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        for chunk in archive.chunks(member):
            spool.write(chunk)
        spool.seek(0)
        return cast(BinaryIO, spool)
    return open_source(source)


def size_of(source: str) -> int | None:
    """The size of a source in bytes; None where it is missing, or its size is unknown before it is read."""
    scheme = _scheme(source)
    try:
        if scheme == "arrow" or source == "-":
            return None
        if scheme:
            member, archive = _member(source)
            return archive.members[member].size
        if is_remote(source):
            filesystem, path = filesystem_of(source)
            return int(filesystem.size(path) or 0) or None
        return os.stat(source).st_size if os.path.isfile(source) else None
    except (OSError, AudioError, DataError):
        return None


def state_of(source: str) -> str:
    """A text that changes when a source does: size and modification time of a file, identity of an archive member.

    Faster than `identity`, because it reads nothing. Empty where the source is missing.
    """
    try:
        if _scheme(source) or is_remote(source):
            return identity(source)
        return "" if source == "-" else stamp(source)
    except (OSError, AudioError, DataError):
        return ""


def read_bytes(source: str, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
    """The content of a `source`. Errors as in `open_source`, and AudioError for one of more than `max_bytes`."""
    scheme = _scheme(source)
    if scheme == "arrow":
        return _read_row(source)
    if scheme:
        member, archive = _member(source)
        if archive.members[member].size > max_bytes:
            raise AudioError("unreadable", f"'{member}' is over {max_bytes} bytes")
        return archive.read(member)
    with open_source(source) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise AudioError("unreadable", f"'{source}' is over {max_bytes} bytes")
    return content


def identity(source: str) -> str:
    """A cheap text that changes when the content does and that does not depend on the corpus's location.

    Files: name, size, modification time and a checksum of three sections, because files of equal size written within
    one second are common. Archive members: checksum and size (zip), or the archive's state and the offset in it (tar).
    Raises AudioError or DataError if the source is missing.
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
        for offset in (0, state.st_size // 2, state.st_size - _CHECKSUM_BYTES):
            content.seek(max(0, offset))
            checksum = zlib.crc32(content.read(_CHECKSUM_BYTES), checksum)
    return f"file-{os.path.basename(source)}-{state.st_size}-{state.st_mtime_ns}-{checksum:08x}"


def decode_text(content: bytes, where: str) -> str:
    """UTF-8 text without its byte order mark. Raises DataError, which names the file by `where`, for other content."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def arrow_source(file: str, column: str, row: int) -> str:
    """The source of the audio in one row of an Arrow file that the `datasets` package wrote."""
    return f"arrow://{row}::{column}::{file}"


def is_audio(name: str) -> bool:
    """Whether a file is a recording, by its name."""
    return posixpath.splitext(name)[1].lower() in AUDIO_SUFFIXES


def printable(name: str) -> str:
    """A file name as text that can be written: bytes that are not UTF-8, surrogates in Python, are written as \\xe9."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")


def _listing(
    location: str,
    files: Iterable[tuple[str, int]],
    scheme: str = "",
    missing: Sequence[tuple[str, str]] = (),
    folders: Sequence[str] = (),
) -> Tree:
    found = sorted(files)
    listed = [(name, size) for name, size in found if not _is_skipped(name)]
    hidden = tuple(name for name, _ in found if _is_skipped(name))
    if not listed:
        why = "".join(f" '{name}' is {reason}." for name, reason in missing[:1])
        why = why or (f" {len(hidden)} are hidden, such as '{hidden[0]}'." if hidden else "")
        raise DataError(f"'{location}' has no files.{why} Give a folder or archive with recordings.")
    # What the first and the last of sorted names share, all of them share.
    ends = [name.split("/")[:-1] for name in (listed[0][0], listed[-1][0])]
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
    prefix = "".join(f"{part}/" for part, _ in shared)
    names = tuple(name[len(prefix) :] for name, _ in listed)
    sizes = tuple(size for _, size in listed)
    filled = {above for name, _ in listed for above in _folders_above(name)}
    folders = [*folders, *(above for name in hidden for above in _folders_above(name))]
    empty = tuple(sorted({folder for folder in folders if not _is_skipped(folder)} - filled))
    return Tree(location, names, sizes, prefix, scheme, tuple(sorted(missing)), hidden, empty)


def _folders_above(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def _is_skipped(name: str) -> bool:
    return any(part.startswith(".") or part in _SKIPPED_NAMES for part in name.split("/"))


def _walk(root: str, missing: list[tuple[str, str]], folders: list[str]) -> Iterator[tuple[str, int]]:
    """Names and sizes below a folder, those of hidden files 0; what has no content goes to `missing`, every folder to
    `folders`. Links never lead in a circle, and hidden ones are not followed.
    """
    pending = [("", frozenset({os.path.realpath(root)}))]
    while pending:
        below, above = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, below)))
        except OSError as error:
            if not below:
                raise DataError(f"'{root}' cannot be listed: {error.strerror}.") from error
            if not _is_skipped(below):
                missing.append((f"{below}/", f"a folder that cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=not _is_skipped(name)):
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in above:
                    pending.append((name, above | {real}))
                    folders.append(name)
            elif _is_skipped(name):
                yield name, 0
            elif entry.is_file():
                yield name, entry.stat().st_size
            elif is_audio(name):
                missing.append((name, _without_content(entry)))


def _without_content(entry: "os.DirEntry[str]") -> str:
    """Why an entry is neither a folder nor a file: a link that leads nowhere, or a pipe or device."""
    if not entry.is_symlink():
        return "not a file but a pipe or device"
    target = os.readlink(entry.path)
    fetch = ""
    if ".git/annex/" in target:
        fetch = "; fetch its content with `git annex get .`"
    elif ".dvc/" in target or "dvc/cache" in target:
        fetch = "; fetch its content with `dvc pull`"
    return f"a link to a file that is not there{fetch}"


def _matched(pattern: str) -> Tree:
    """The files that match a glob pattern, below the folder before its first wildcard."""
    paths = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not paths:
        raise DataError(f"The pattern '{pattern}' matches no file. Check it, and quote it on the command line.")
    parts = pattern.split(os.sep)
    first_wildcard = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = os.sep.join(parts[:first_wildcard]) or os.sep
    return _listing(root, ((Path(path).relative_to(root).as_posix(), os.path.getsize(path)) for path in paths))


def _scheme(source: str) -> str:
    """ "zip", "tar" or "arrow" for a source inside another file, else the empty text."""
    scheme, separator, _ = source.partition("://")
    return scheme if separator and scheme in ("zip", "tar", "arrow") else ""


def _member(source: str) -> tuple[str, Archive]:
    member, _, location = source.partition("://")[2].rpartition("::")
    archive = open_archive(location)
    if member not in archive.members:
        raise AudioError("unreadable", f"'{member}' is not, or no longer, in '{location}'")
    return member, archive


def _row(source: str) -> tuple[int, str, str]:
    row, column, file = source.partition("://")[2].split("::", 2)
    return int(row), column, file


def _read_row(source: str) -> bytes:
    row, column, file = _row(source)
    content = arrow_table(file, stamp(file))[column][row].as_py()
    content = content.get("bytes") if isinstance(content, dict) else content
    if not content:
        raise AudioError("unreadable", f"row {row} of '{file}' has no bytes in its column '{column}'")
    return bytes(content)


@functools.lru_cache(maxsize=64)
def arrow_table(file: str, state: str) -> "pa.Table":
    """A memory-mapped Arrow file, which stays open; `state` is its stamp. Rows are read from disk on access."""
    import pyarrow as pa

    try:
        mapped = pa.memory_map(file)
        try:
            return pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(mapped).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"'{file}' is not a readable Arrow file: {error}. Download the dataset again.") from error
