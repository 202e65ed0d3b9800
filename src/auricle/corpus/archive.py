"""Archives read where they lie: zip and tar (plain, gzip, bzip2, xz), on this machine or on a remote store.

In: the location of an archive. Out: an Archive: its members by safe name, and `read(name)`. Nothing is ever unpacked.
Handles are kept per process, so that ten thousand reads parse the directory once; reads from several threads are safe.
Any order of reading is cheap: gzip is re-entered at marks, at most a stride of output away; bzip2 and xz, which allow
no marks, are decompressed once for each process into an unnamed temporary file.
"""

import bisect
import bz2
import contextlib
import functools
import io
import lzma
import os
import posixpath
import re
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import IO, BinaryIO, TypeVar, cast

from auricle.errors import AudioError, DataError, MissingExtra

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Silence and text shrink a thousandfold, whole corpora of sound hardly at all: only what is both large and absurdly
# dense is refused.
MAX_EXPANSION = 200
EXPANSION_FREE_BYTES = 1 << 30
# One hour of 48 kHz stereo float is 1.4 GB.
MAX_MEMBER_BYTES = 2 << 30
_PIECE_BYTES = 1 << 20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)

Place = TypeVar("Place")


@dataclass(frozen=True)
class Member:
    """One file in an archive: its size in bytes, and an identity that its content decides, if cheaply known."""

    size: int
    identity: str


@dataclass(frozen=True)
class Archive:
    """An open archive. `scheme` is "zip" or "tar"; `read` gives a member's bytes and raises AudioError if it cannot.

    `pieces` gives them a megabyte at a time, however many there are.
    """

    scheme: str
    members: Mapping[str, Member]
    read: Callable[[str], bytes]
    pieces: Callable[[str], Iterator[bytes]]


def is_archive(location: str) -> bool:
    """Whether a file is an archive by its name."""
    return location.lower().endswith(SUFFIXES)


def is_remote(location: str) -> bool:
    """Whether a location is a URL for fsspec, such as s3://bucket/corpus.zip."""
    return re.match(r"[a-z][a-z0-9+.-]+://", location) is not None


def open_archive(location: str) -> Archive:
    """Open an archive, or take the handle that this process already holds.

    Raises DataError for a missing, corrupt, encrypted, absurdly expanding or unsafe archive: one whose members would
    leave it ('..', absolute names, links outwards) is refused as a whole.
    """
    return _archive(location, stamp(location), os.getpid())


def close_archives() -> None:
    """Let go of every open archive of this process."""
    _archive.cache_clear()


def stamp(location: str) -> str:
    """What tells one state of a file from another without reading it. Raises DataError when it cannot be asked."""
    if is_remote(location):
        return _remote_stamp(location)
    try:
        state = os.stat(location)
    except OSError as error:
        raise DataError(
            f"'{location}' cannot be opened: {error.strerror}. Check the path and its permissions."
        ) from error
    return f"{state.st_size}-{state.st_mtime_ns}"


def open_location(location: str) -> BinaryIO:
    """Open a file on this machine, or a URL through fsspec. Raises OSError, or MissingExtra without fsspec."""
    if not is_remote(location):
        return open(location, "rb")
    return cast(BinaryIO, fsspec_module().open(location, "rb").open())


def fsspec_module() -> ModuleType:
    """The fsspec package, or MissingExtra."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtra("Reading from a remote store", "train") from error
    return cast(ModuleType, fsspec)


@functools.lru_cache(maxsize=4096)
def _remote_stamp(location: str) -> str:
    filesystem, path = fsspec_module().core.url_to_fs(location)
    try:
        about = filesystem.info(path)
    except OSError as error:
        raise DataError(f"'{location}' cannot be opened: {error}. Check the URL and your rights to it.") from error
    version = about.get("ETag") or about.get("etag") or about.get("mtime") or about.get("LastModified") or ""
    return f"{about.get('size')}-{version}"


# Keyed by process, for a forked child must not share its parent's file positions, and by state, for an archive that
# was written anew must not be read by its old directory.
@functools.lru_cache(maxsize=32)
def _archive(location: str, state: str, process: int) -> Archive:
    try:
        file = open_location(location)
    except OSError as error:
        raise DataError(f"'{location}' cannot be opened: {error}. Check the path and its permissions.") from error
    with contextlib.ExitStack() as closing:
        closing.callback(file.close)
        try:
            magic = file.read(6)
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if magic[:2] == b"PK":
                opened = _zip(location, file, size)
            else:
                opened = _tar(location, _inflated(location, file, size, magic, closing), size, state)
        except _BROKEN as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"'{location}' is no readable archive: {reason}. Make or download it again.") from error
        weakref.finalize(opened, closing.pop_all().close)
    return opened


def _zip(location: str, file: BinaryIO, size: int) -> Archive:
    archive = zipfile.ZipFile(file)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        if info.flag_bits & 1:
            raise DataError(
                f"'{location}' is encrypted ('{info.filename}'). Unpack it with its password and give the folder."
            )
    _check_expansion(location, size, sum(info.file_size for info in infos))
    found, links = {}, {}
    for info in infos:
        name = safe_name(info.filename, location)
        if stat.S_ISLNK(info.external_attr >> 16):
            _check_member(name, info.file_size, 1 << 12)
            links[name] = posixpath.join(posixpath.dirname(name), archive.read(info).decode("utf-8", "replace"))
        else:
            found[name] = info
    found |= _followed(links, found, location)
    lock = threading.Lock()

    def read(name: str) -> bytes:
        # zipfile guards each read of the shared file itself; only its count of open members needs the lock. So
        # several threads inflate at once.
        info = found[name]
        _check_member(name, info.file_size)
        try:
            with lock:
                stream = archive.open(info)
            try:
                return stream.read()
            finally:
                with lock:
                    stream.close()
        except _BROKEN as error:
            raise AudioError("unreadable", f"'{name}' in '{location}': {error}") from error

    def pieces(name: str) -> Iterator[bytes]:
        try:
            with open_location(location) as own, zipfile.ZipFile(own).open(found[name]) as stream:
                while piece := stream.read(_PIECE_BYTES):
                    yield piece
        except _BROKEN as error:
            raise AudioError("unreadable", f"'{name}' in '{location}': {error}") from error

    members = {name: Member(info.file_size, f"zip-{info.CRC:08x}-{info.file_size}") for name, info in found.items()}
    return Archive("zip", members, read, pieces)


def _tar(location: str, stream: IO[bytes], size: int, state: str) -> Archive:
    places: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    declared = 0
    with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as archive:
        while (member := archive.next()) is not None:
            declared += member.size
            _check_expansion(location, size, declared)
            name = safe_name(member.name, location)
            if member.issparse():
                raise DataError(f"'{location}' holds '{member.name}' as a sparse file. Unpack it and give the folder.")
            if member.issym():
                links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
            elif member.islnk():
                links[name] = member.linkname
            elif member.isreg():
                places[name] = (member.offset_data, member.size)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
        end = archive.offset
    # tarfile takes a damaged header for the end; the true end is a block of zeros.
    stream.seek(end)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise EOFError(f"a damaged header after {len(places)} files")
    places |= _followed(links, places, location)
    lock = threading.Lock()

    def part(name: str, offset: int, length: int) -> bytes:
        try:
            with lock:
                stream.seek(offset)
                content = stream.read(length)
        except _BROKEN as error:
            raise AudioError("unreadable", f"'{name}' in '{location}': {error}") from error
        if len(content) != length:
            raise AudioError("truncated", f"'{name}' in '{location}': {len(content)} of {length} bytes are there")
        return content

    def read(name: str) -> bytes:
        _check_member(name, places[name][1])
        return part(name, *places[name])

    def pieces(name: str) -> Iterator[bytes]:
        offset, length = places[name]
        for at in range(0, length, _PIECE_BYTES):
            yield part(name, offset + at, min(_PIECE_BYTES, length - at))

    members = {name: Member(length, f"tar-{state}-{offset}-{length}") for name, (offset, length) in places.items()}
    return Archive("tar", members, read, pieces)


def _inflated(location: str, file: BinaryIO, size: int, magic: bytes, closing: contextlib.ExitStack) -> IO[bytes]:
    """A tar's content as a stream to seek in, whatever compresses it."""
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], MarkedGzip(file, stride=max(1 << 17, size // 1024)))
    if magic[:3] == b"BZh":
        open_stream: Callable[[BinaryIO], IO[bytes]] = bz2.open
    elif magic == b"\xfd7zXZ\x00":
        open_stream = lzma.open
    else:
        return file
    spool = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - `closing` is its context
    with open_stream(file) as stream:
        while piece := stream.read(1 << 20):
            spool.write(piece)
            _check_expansion(location, size, spool.tell())
    spool.seek(0)
    return spool


def safe_name(name: str, location: str) -> str:
    """A member's name in posix form. Raises DataError when it would lead out of the archive."""
    posix = name.replace("\\", "/")
    if posix.startswith("/") or re.match(r"[A-Za-z]:/", posix) or ".." in posix.split("/") or "\0" in posix:
        raise DataError(
            f"'{location}' holds the unsafe name '{name}', which leads out of the archive: nothing in it is read. "
            "Make the archive again from a folder that you trust."
        )
    return posixpath.normpath(posix)


def _followed(links: Mapping[str, str], found: Mapping[str, Place], location: str) -> dict[str, Place]:
    """Where links inside an archive end; those that end nowhere are dropped. Raises DataError if one leads out."""
    targets = {}
    for name, target in links.items():
        target = posixpath.normpath(target)
        if target.startswith(("/", "../")) or target == "..":
            raise DataError(
                f"'{location}' holds '{name}', a link out of the archive to '{target}': nothing in it is read."
            )
        targets[name] = target
    return {name: found[target] for name, target in targets.items() if target in found}


def _check_expansion(location: str, size: int, declared: int) -> None:
    if declared > max(EXPANSION_FREE_BYTES, MAX_EXPANSION * size):
        raise DataError(
            f"'{location}' ({size} bytes) declares {declared} bytes of content, over {MAX_EXPANSION} times its size: "
            "it is not opened. Unpack it yourself and give the folder if it is what you expect."
        )


def _check_member(name: str, size: int, limit: int = MAX_MEMBER_BYTES) -> None:
    if size > limit:
        raise AudioError("unreadable", f"'{name}' declares {size} bytes; at most {limit} are read")


class MarkedGzip(io.RawIOBase):
    """A gzip stream that can be entered anywhere: a copy of the decompressor is kept every `stride` bytes of output.

    zlib's own state is some 40 kB a mark, so that a gigabyte costs some 40 MB at most. Not safe from several threads.
    """

    _CHUNK = 1 << 14
    _MAX_MARKS = 1024

    def __init__(self, file: BinaryIO, stride: int) -> None:
        self._file = file
        self._stride = stride
        self._at = 0  # where the reader stands in the output
        self._block, self._block_start = b"", 0  # the output made last
        self._taken = 0  # bytes of input behind the decompressor
        self._between = True  # whether it stands where a gzip member may begin
        self._inflate = zlib.decompressobj(wbits=31)
        self._marks = [(0, 0, True, self._inflate.copy())]  # output, input, between, decompressor

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a gzip stream is not known before it is reached")
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            raise io.UnsupportedOperation("a gzip stream is read in pieces of known size")
        pieces: list[bytes] = []
        while size:
            self._go_to(self._at)
            begin = self._at - self._block_start
            piece = self._block[begin : begin + size]
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def _go_to(self, offset: int) -> None:
        """Bring the block that holds `offset` into memory, from the nearest mark or from where the stream stands."""
        made = self._block_start + len(self._block)
        nearest = self._marks[bisect.bisect_right(self._marks, offset, key=lambda mark: mark[0]) - 1]
        if offset < self._block_start or nearest[0] > made:
            self._block, self._block_start = b"", nearest[0]
            self._taken, self._between, self._inflate = nearest[1], nearest[2], nearest[3].copy()
        while offset >= self._block_start + len(self._block):
            if not self._inflate_more():
                return

    def _inflate_more(self) -> bool:
        """Make the next block of output. False at the end; raises EOFError where the stream is cut short."""
        self._file.seek(self._taken)
        chunk = self._file.read(self._CHUNK)
        if not chunk.strip(b"\0") and self._between:  # the end, or padding that some writers add
            return False
        if not chunk:
            raise EOFError("the gzip stream is cut short")
        output = self._inflate.decompress(chunk)
        self._block_start += len(self._block)
        self._block = output
        self._taken += len(chunk) - len(self._inflate.unused_data)
        self._between = self._inflate.eof
        if self._between:  # gzip files may be several, one after another
            self._inflate = zlib.decompressobj(wbits=31)
        self._mark()
        return True

    def _mark(self) -> None:
        made = self._block_start + len(self._block)
        if made < self._marks[-1][0] + self._stride:
            return
        self._marks.append((made, self._taken, self._between, self._inflate.copy()))
        if len(self._marks) > self._MAX_MARKS:
            self._marks = self._marks[::2]
            self._stride *= 2
