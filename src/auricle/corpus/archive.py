"""Archives read in place: zip and tar (plain, gzip, bzip2, xz), on this machine or on a remote store.

In: the location of an archive. Out: an Archive: its members by safe name, and `read(name)`. Nothing is ever unpacked.
Handles are cached per process, so the directory is parsed once; reads from several threads are safe. Random access is
cheap: gzip resumes from the nearest checkpoint; bzip2 and xz, which allow none, are decompressed once per process into
an unnamed temporary file.
"""

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
from typing import IO, BinaryIO, TypeVar, cast

from auricle.corpus.encodings import names_encoding
from auricle.corpus.remote import filesystem_of, is_remote, remote_stamp
from auricle.corpus.seekable_gzip import SeekableGzip
from auricle.errors import AudioError, DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Silence and text compress a thousandfold, whole corpora of audio hardly at all: an archive is refused only if it is
# both large and implausibly dense.
MAX_EXPANSION = 200
EXPANSION_FREE_BYTES = 1 << 30
# One hour of 48 kHz stereo float is 1.4 GB.
MAX_MEMBER_BYTES = 2 << 30
_CHUNK_BYTES = 1 << 20
_UTF8_FLAG = 0x800
# tarfile keeps bytes that are not UTF-8 as lone surrogates.
_SURROGATE = "[\udc80-\udcff]"
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Member:
    """One file in an archive: its size in bytes, and an identity: of its content in a zip, of its position in a tar."""

    size: int
    identity: str


@dataclass(frozen=True)
class Archive:
    """An open archive. `scheme` is "zip" or "tar"; `read` returns a member's bytes, `chunks` yields them by megabyte.

    Both raise AudioError where the member cannot be read. `note` says what was worked out about the members' names,
    `folders` are those that the archive lists.
    """

    scheme: str
    members: Mapping[str, Member]
    read: Callable[[str], bytes]
    chunks: Callable[[str], Iterator[bytes]]
    note: str = ""
    folders: tuple[str, ...] = ()


def is_archive(location: str) -> bool:
    """Whether a file is an archive, by its name."""
    return location.lower().endswith(SUFFIXES)


def open_archive(location: str) -> Archive:
    """Open an archive, or return the handle that this process has open already.

    Raises DataError for an archive that is missing, corrupt, encrypted or a decompression bomb, and for one with an
    unsafe member: '..', an absolute path, or a link that leads out of the archive.
    """
    return _archive(location, stamp(location), os.getpid())


def stamp(location: str) -> str:
    """Text that changes when a file does, without reading it. Raises DataError where the file is inaccessible."""
    if is_remote(location):
        return remote_stamp(location)
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
    filesystem, path = filesystem_of(location)
    return cast(BinaryIO, filesystem.open(path, "rb"))


# Keyed by process, because a forked child must not share its parent's file positions, and by state, because a rewritten
# archive must not be read by its old directory.
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
                opened = _tar(location, _decompressed(location, file, size, magic, closing), size, state)
        except _BROKEN as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"'{location}' is not a readable archive: {reason}. Download it again.") from error
        weakref.finalize(opened, closing.pop_all().close)
    return opened


def _zip(location: str, file: BinaryIO, size: int) -> Archive:
    archive = zipfile.ZipFile(file)
    # The library decodes names that declare no encoding as code page 437, which maps every byte.
    raw = [info.orig_filename.encode("cp437") for info in archive.infolist() if not info.flag_bits & _UTF8_FLAG]
    encoding = names_encoding(raw, location)
    opened = functools.partial(zipfile.ZipFile, metadata_encoding=encoding or None)
    archive = opened(file)
    folders = tuple(_safe_name(info.filename, location) for info in archive.infolist() if info.is_dir())
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        if info.flag_bits & 1:
            raise DataError(
                f"'{location}' is encrypted ('{info.filename}'). Unpack it with its password and give the folder."
            )
    _check_expansion(location, size, sum(info.file_size for info in infos))
    files, links = {}, {}
    for info in infos:
        name = _safe_name(info.filename, location)
        if stat.S_ISLNK(info.external_attr >> 16):
            _check_member(name, info.file_size, 1 << 12)
            links[name] = posixpath.join(posixpath.dirname(name), archive.read(info).decode("utf-8", "replace"))
        else:
            files[name] = info
    files |= _resolve_links(links, files, location)
    lock = threading.Lock()

    def read(name: str) -> bytes:
        # zipfile locks each read of the shared file itself; only its count of open members needs this lock, so several
        # threads decompress at once.
        info = files[name]
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

    def chunks(name: str) -> Iterator[bytes]:
        try:
            with (
                open_location(location) as own,
                zipfile.ZipFile(own, metadata_encoding=encoding or None).open(files[name]) as stream,
            ):
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except _BROKEN as error:
            raise AudioError("unreadable", f"'{name}' in '{location}': {error}") from error

    members = {name: Member(info.file_size, f"zip-{info.CRC:08x}-{info.file_size}") for name, info in files.items()}
    return Archive("zip", members, read, chunks, _names_note(encoding), folders)


def _tar(location: str, stream: IO[bytes], size: int, state: str) -> Archive:
    entries = _tar_entries(location, stream, size)
    raw = {name: os.fsencode(name) for name, *_ in entries if re.search(_SURROGATE, name)}
    encoding = names_encoding(raw.values(), location)

    def decoded(name: str) -> str:
        return os.fsencode(name).decode(encoding, "replace") if encoding else name

    extents: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for undecoded, target, extent in entries:
        name = _safe_name(decoded(undecoded) if undecoded in raw else undecoded, location)
        if extent is not None:
            extents[name] = extent
        else:
            links[name] = decoded(target) if re.search(_SURROGATE, target) else target
    extents |= _resolve_links(links, extents, location)
    lock = threading.Lock()

    def read_range(name: str, offset: int, length: int) -> bytes:
        try:
            with lock:
                stream.seek(offset)
                content = stream.read(length)
        except _BROKEN as error:
            raise AudioError("unreadable", f"'{name}' in '{location}': {error}") from error
        if len(content) != length:
            raise AudioError("truncated", f"'{name}' in '{location}': it has {len(content)} of {length} bytes")
        return content

    def read(name: str) -> bytes:
        _check_member(name, extents[name][1])
        return read_range(name, *extents[name])

    def chunks(name: str) -> Iterator[bytes]:
        offset, length = extents[name]
        for start in range(0, length, _CHUNK_BYTES):
            yield read_range(name, offset + start, min(_CHUNK_BYTES, length - start))

    members = {name: Member(length, f"tar-{state}-{offset}-{length}") for name, (offset, length) in extents.items()}
    return Archive("tar", members, read, chunks, _names_note(encoding))


def _tar_entries(location: str, stream: IO[bytes], size: int) -> list[tuple[str, str, tuple[int, int] | None]]:
    """The files and links of a tar: name, target of a link, and offset and length of a file. Raises EOFError if cut."""
    entries: list[tuple[str, str, tuple[int, int] | None]] = []
    declared = 0
    with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as archive:
        while (member := archive.next()) is not None:
            declared += member.size
            _check_expansion(location, size, declared)
            if member.issparse():
                raise DataError(f"'{location}' stores '{member.name}' as a sparse file. Unpack it and give the folder.")
            if member.issym():
                entries.append((member.name, posixpath.join(posixpath.dirname(member.name), member.linkname), None))
            elif member.islnk():
                entries.append((member.name, member.linkname, None))
            elif member.isreg():
                entries.append((member.name, "", (member.offset_data, member.size)))
            else:
                _safe_name(member.name, location)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header
        end = archive.offset
    # tarfile reads a damaged header as the end; the true end is a block of zeros.
    stream.seek(end)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise EOFError(f"a damaged header after {sum(extent is not None for *_, extent in entries)} files")
    return entries


def _decompressed(location: str, file: BinaryIO, size: int, magic: bytes, closing: contextlib.ExitStack) -> IO[bytes]:
    """The content of a tar as a seekable stream, whatever compresses it."""
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], SeekableGzip(file, spacing=max(1 << 17, size // 1024)))
    if magic[:3] == b"BZh":
        open_stream: Callable[[BinaryIO], IO[bytes]] = bz2.open
    elif magic == b"\xfd7zXZ\x00":
        open_stream = lzma.open
    else:
        return file
    spool = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - `closing` is its context
    with open_stream(file) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            spool.write(chunk)
            _check_expansion(location, size, spool.tell())
    spool.seek(0)
    return spool


def _names_note(encoding: str) -> str:
    return "" if encoding in ("", "utf-8") else f"the archive's names declare no encoding and were read as {encoding}"


def _safe_name(name: str, location: str) -> str:
    """A member's name in posix form. Raises DataError if it leads out of the archive."""
    posix = name.replace("\\", "/")
    if posix.startswith("/") or re.match(r"[A-Za-z]:/", posix) or ".." in posix.split("/") or "\0" in posix:
        raise DataError(
            f"'{location}' has a member with the unsafe name '{name}', which leads out of the archive: nothing in it "
            "is read. Create the archive again from a folder that you trust."
        )
    return posixpath.normpath(posix)


def _resolve_links(links: Mapping[str, str], files: Mapping[str, Entry], location: str) -> dict[str, Entry]:
    """The files that links in an archive lead to, dangling links dropped. Raises DataError if one leads out of it."""
    targets = {}
    for name, target in links.items():
        target = posixpath.normpath(target)
        if target.startswith(("/", "../")) or target == "..":
            raise DataError(
                f"'{location}' has '{name}', a link out of the archive to '{target}': nothing in it is read. Create "
                "the archive again without that link."
            )
        targets[name] = target
    return {name: files[target] for name, target in targets.items() if target in files}


def _check_expansion(location: str, size: int, declared: int) -> None:
    if declared > max(EXPANSION_FREE_BYTES, MAX_EXPANSION * size):
        raise DataError(
            f"'{location}' ({size} bytes) declares {declared} bytes of content, over {MAX_EXPANSION} times its size: "
            "it is not opened. If that is what you expect, unpack it and give the folder."
        )


def _check_member(name: str, size: int, limit: int = MAX_MEMBER_BYTES) -> None:
    if size > limit:
        raise AudioError("unreadable", f"'{name}' declares {size} bytes; at most {limit} are allowed")
