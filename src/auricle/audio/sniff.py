"""Detect the format of an audio file, and truncation, from its bytes, before anything is decoded.

In: the content of a file. Out: the container's name, by content and never by extension, and whether the content is
truncated, where the format shows it. Reads a few headers; never fails on damaged ones.
"""

import codecs
import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

# Streaming writers cannot fill in a size afterwards: ffmpeg leaves 0xFFFFFFFF, sox 0x7FFFF000, others zero.
_STREAMED = 0x7FFFF000
# Some writers declare the size of the whole file, header included, as the size of its data.
_SLACK_BYTES = 64

_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_STARTS = {
    b"fLaC": "flac",
    b".snd": "au",
    b"caff": "caf",
    b"riff": "w64",
    b"NIST": "nist",
    b"Crea": "voc",
    b"\x1aE\xdf\xa3": "webm",
    b"\x30\x26\xb2\x75": "wma",
    b"#!AM": "amr",
    b"wvpk": "wavpack",
    b"MAC ": "ape",
    b"FLV\x01": "flv",
    b"\x0b\x77": "ac3",
}
_OGG_CODECS = {b"\x01vor": "ogg-vorbis", b"Opus": "ogg-opus", b"\x7fFLA": "ogg-flac", b"Spee": "ogg-speex"}


class LazyBytes:
    """A long file with the interface of bytes: only the requested slices are read. The file's position is restored."""

    _TAIL = 1 << 17

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        position = file.tell()
        self._size = file.seek(0, io.SEEK_END)
        file.seek(position)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        position = self._file.tell()
        self._file.seek(start)
        content = self._file.read(max(stop - start, 0))
        self._file.seek(position)
        return content

    def find(self, pattern: bytes, start: int, stop: int) -> int:
        offset = self[start:stop].find(pattern)
        return offset if offset < 0 else offset + start

    def rfind(self, pattern: bytes) -> int:
        start = max(self._size - self._TAIL, 0)
        offset = self[start:].rfind(pattern)
        return offset if offset < 0 else offset + start


Content = bytes | LazyBytes


@dataclass(frozen=True)
class WavLayout:
    """Where a WAV file has its samples. `declared` is the data chunk's size, None where no size was filled in.

    `unfinished`: the size is zero, as a recorder leaves it that was cut off, and there are samples. Where the header is
    unusual, `head` is one that makes a plain WAV file of the content from `offset` on.
    """

    format_tag: int
    channels: int
    sample_rate: int
    block_align: int
    bits: int
    offset: int
    available: int
    declared: int | None
    unfinished: bool = False
    head: bytes = b""

    @property
    def plain(self) -> bool:
        """Whether the samples are whole frames of 16-bit integers, which need no decoding."""
        whole = self.channels >= 1 and self.block_align == 2 * self.channels
        return self.format_tag == _PCM and self.bits == 16 and whole


def sniff(content: Content) -> str:
    """The container by its first bytes, behind an ID3 tag if there is one; an empty string for an unknown one."""
    start = _after_id3(content)
    head = content[start : start + 64]
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX"):
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12], "")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"OggS":
        return _OGG_CODECS.get(head[28:32], "ogg")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "m4a"
    named = next((name for start, name in _STARTS.items() if head.startswith(start)), None)
    return named or _mpeg(head[:2], tagged=start > 0)


def _mpeg(frame: bytes, *, tagged: bool) -> str:
    """Distinguish mp3 and raw AAC by a frame's first bytes; empty for neither. Unknown content with a tag is mp3."""
    if len(frame) == 2 and frame[0] == 0xFF and frame[1] & 0xF6 == 0xF0:
        return "aac"
    if tagged or (len(frame) == 2 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0 and frame[1] & 0x06):
        return "mp3"
    return ""


def unusable(content: Content, container: str) -> tuple[str, str] | None:
    """The kind and the detail of content that has a name and no decoder: what it is, and what to do. Else None."""
    head = content[:1024]
    if container == "nist" and b"embedded-" in head:
        coding = head.partition(b"sample_coding")[2].partition(b"\n")[0].split()[-1:]
        named = b"".join(coding).decode("ascii", "replace")
        return "unreadable", f"NIST SPHERE, compressed ('{named}'): convert it by `sph2pipe -f wav IN OUT`"
    if head.startswith(b"version https://git-lfs"):
        return "not_fetched", "a git-lfs pointer in place of the content: run `git lfs pull`"
    if container:
        return None
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head).strip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return None
    if text.lower().startswith(("<!doctype html", "<html")):
        return "unreadable", "an HTML page, not audio: download the recording again"
    first = text.partition("\n")[0].strip()[:40]
    return ("unreadable", f"a text file, not audio; it begins '{first}'") if first and first.isprintable() else None


def _after_id3(content: Content) -> int:
    """The offset at which an ID3v2 tag ends (its size is four bytes of seven bits); zero without one."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    size = 0
    for byte in content[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def wav_layout(content: Content) -> WavLayout | None:
    """Parse the chunks of a little-endian WAV file up to its data; None where anything is unusual."""
    start = _after_id3(content)
    if content[start : start + 4] != b"RIFF" or content[start + 8 : start + 12] != b"WAVE":
        return None
    form: tuple[int, ...] | None = None
    form_chunk = b""
    empty: WavLayout | None = None
    at = start + 12
    while at + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[at : at + 8])
        body = at + 8
        if name == b"fmt " and size >= 16 and body + 16 <= len(content):
            form, form_chunk = struct.unpack("<HHIIHH", content[body : body + 16]), content[at : body + size]
            if form[0] == _EXTENSIBLE and size >= 40 and body + 26 <= len(content):
                form = (*struct.unpack("<H", content[body + 24 : body + 26]), *form[1:])
        if name == b"data":
            if form is None:
                return None
            tag, channels, rate, _, align, bits = form
            rest = len(content) - body
            if size or not _only_chunks(content, body):
                streamed = size == 0 or size >= _STREAMED
                declared, available = (None, rest) if streamed else (size, min(size, rest))
                is_usual = size > 0 and start == 0 and empty is None
                head = b"" if is_usual else _plain_head(form_chunk, available)
                return WavLayout(tag, channels, rate, align, bits, body, available, declared, size == 0, head)
            empty = WavLayout(tag, channels, rate, align, bits, body, 0, 0)
        at = body + size
        # Some writers leave out the byte that pads an odd chunk.
        at += size & 1 if content[at : at + 4] != b"data" else 0
    return empty


def _plain_head(form_chunk: bytes, size: int) -> bytes:
    """The header of a WAV file with `size` bytes of samples; beyond 4 GB it declares a stream."""
    sizes = [min(total, 0xFFFFFFFF) for total in (4 + len(form_chunk) + 8 + size, size)]
    return b"RIFF%bWAVE%bdata%b" % (struct.pack("<I", sizes[0]), form_chunk, struct.pack("<I", sizes[1]))


def _chunks_end(content: Content, at: int) -> int:
    """Where the chunks from `at` on end: before a data chunk, before anything that is no chunk, or with the content."""
    while at + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[at : at + 8])
        is_chunk = all(32 <= byte < 127 for byte in name) and at + 8 + size <= len(content)
        if name == b"data" or not is_chunk:
            break
        at += 8 + size + (size & 1)
    return at


def _only_chunks(content: Content, at: int) -> bool:
    """Whether nothing but chunks lies behind an empty data chunk, so that it is empty indeed."""
    end = _chunks_end(content, at)
    return end >= len(content) or content[end : end + 4] == b"data"


def header_faults(content: Content, container: str) -> tuple[tuple[str, str], ...]:
    """The kind and the detail of what a header leaves out of a file that decodes."""
    declared, present = _sizes(content, container) or (None, 0)
    layout = wav_layout(content) if container == "wav" else None
    if layout is not None and layout.unfinished:
        return (("unfinished_header", "its header declares no audio; all that follows it was read"),)
    if declared is None:
        return ()
    beyond = present - declared
    if layout is not None and beyond > 0:
        end = layout.offset + declared
        end = max(_chunks_end(content, end), _chunks_end(content, end + (declared & 1)))
        beyond = 0 if content[end : end + 3] in (b"TAG", b"ID3") else len(content) - end
    if beyond <= _SLACK_BYTES:
        return ()
    return (("beyond_header", f"{beyond} bytes lie beyond the {declared} that its header declares, and were not read"),)


def cut_short(content: Content, container: str, frames: int) -> str | None:
    """The evidence that content of which `frames` were decoded is truncated; None where there is none."""
    sizes = _sizes(content, container)
    if sizes is not None:
        return _missing(*sizes)
    if container == "flac":
        return _flac_cut(content, frames)
    if container.startswith("ogg"):
        return _ogg_cut(content)
    if container == "mp3":
        return _mp3_cut(content)
    return None


def _sizes(content: Content, container: str) -> tuple[int | None, int] | None:
    """The bytes of audio that a header declares, None where it was written as a stream, and those in the file."""
    if container == "wav":
        layout = wav_layout(content)
        return (layout.declared, len(content) - layout.offset) if layout else None
    start = _after_id3(content)
    fields = content[start + 4 : start + 12]
    if container not in ("aiff", "au") or len(fields) < 8:
        return None
    first, second = struct.unpack(">II", fields)
    declared, behind = (first, 8) if container == "aiff" else (second, first)
    present = len(content) - start - behind
    return (None if declared >= _STREAMED else declared), present


def _missing(declared: int | None, available: int) -> str | None:
    if declared is None or declared <= available + _SLACK_BYTES:
        return None
    return f"its header declares {declared} bytes of audio, the file has {max(available, 0)}"


def _flac_cut(content: Content, frames: int) -> str | None:
    """STREAMINFO is the first block: its bits 108 to 143 count the samples, zero for unknown (RFC 9639, 8.2)."""
    at = content.find(b"fLaC", 0, 1 << 20)
    info = content[at + 8 : at + 26]
    if len(info) < 18:
        return None
    declared = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    if declared == 0 or frames >= declared:
        return None
    return f"its header declares {declared} samples, {frames} can be decoded"


def _ogg_cut(content: Content) -> str | None:
    """A complete stream ends with a complete page that carries the end-of-stream flag (RFC 3533, 6)."""
    at = content.rfind(b"OggS")
    page = content[at:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return "its last page is truncated"
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(page) < size:
        return "its last page is truncated"
    return None if page[5] & 4 else "its end-of-stream page is missing"


def _mp3_cut(content: Content) -> str | None:
    """The first frame may be a Xing header that counts the bytes of all frames, its own included."""
    start = _after_id3(content)
    at = content.find(b"Xing", start, start + 256)
    if at < 0:
        at = content.find(b"Info", start, start + 256)
    if at < 0 or len(content) < at + 16:
        return None
    (flags,) = struct.unpack(">I", content[at + 4 : at + 8])
    if not flags & 2:
        return None
    position = at + 8 + (4 if flags & 1 else 0)
    (declared,) = struct.unpack(">I", content[position : position + 4])
    return _missing(declared, len(content) - start)
