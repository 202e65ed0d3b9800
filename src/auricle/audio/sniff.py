"""Detect the format of an audio file, and truncation, from its bytes, before anything is decoded.

In: the content of a file. Out: the container's name, by content and never by extension, and whether the content is
truncated, where the format shows it. Reads a few headers; never fails on damaged ones.
"""

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
    """Where a WAV file has its samples. `declared` is the data chunk's size, None from a streaming writer."""

    format_tag: int
    channels: int
    sample_rate: int
    block_align: int
    bits: int
    offset: int
    available: int
    declared: int | None

    @property
    def plain(self) -> bool:
        """Whether the samples are whole frames of 16-bit integers, which need no decoding."""
        whole = self.channels >= 1 and self.block_align == 2 * self.channels
        return self.format_tag == _PCM and self.bits == 16 and whole


def sniff(content: Content) -> str:
    """The container by its first bytes; an empty string for an unknown one."""
    head = content[:64]
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX"):
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12], "")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"OggS":
        return _OGG_CODECS.get(head[28:32], "ogg")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "m4a"
    named = next((name for start, name in _STARTS.items() if head.startswith(start)), None)
    return named or _mpeg(content)


def _mpeg(content: Content) -> str:
    """Distinguish mp3, raw AAC and FLAC behind an ID3 tag; empty for none of them."""
    at = _after_id3(content)
    if content[at : at + 4] == b"fLaC":
        return "flac"
    frame = content[at : at + 2]
    if len(frame) == 2 and frame[0] == 0xFF and frame[1] & 0xF6 == 0xF0:
        return "aac"
    if at > 0 or (len(frame) == 2 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0 and frame[1] & 0x06):
        return "mp3"
    return ""


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
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    (riff_size,) = struct.unpack("<I", content[4:8])
    form: tuple[int, ...] | None = None
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[at : at + 8])
        body = at + 8
        if name == b"fmt " and size >= 16 and body + 16 <= len(content):
            form = struct.unpack("<HHIIHH", content[body : body + 16])
            if form[0] == _EXTENSIBLE and size >= 40 and body + 26 <= len(content):
                form = (*struct.unpack("<H", content[body + 24 : body + 26]), *form[1:])
        if name == b"data":
            if form is None:
                return None
            tag, channels, rate, _, align, bits = form
            rest = len(content) - body
            streamed = size >= _STREAMED or (size == 0 and (riff_size == 0 or riff_size >= _STREAMED))
            declared = None if streamed else size
            available = rest if streamed else min(size, rest)
            return WavLayout(tag, channels, rate, align, bits, body, available, declared)
        at = body + size + (size & 1)
    return None


def cut_short(content: Content, container: str, frames: int) -> str | None:
    """The evidence that content of which `frames` were decoded is truncated; None where there is none."""
    if container == "wav":
        layout = wav_layout(content)
        return _missing(layout.declared, layout.available) if layout else None
    if container == "aiff":
        return _missing(struct.unpack(">I", content[4:8])[0], len(content) - 8)
    if container == "au" and len(content) >= 12:
        offset, size = struct.unpack(">II", content[4:12])
        return _missing(size, len(content) - offset)
    if container == "flac":
        return _flac_cut(content, frames)
    if container.startswith("ogg"):
        return _ogg_cut(content)
    if container == "mp3":
        return _mp3_cut(content)
    return None


def _missing(declared: int | None, available: int) -> str | None:
    if declared is None or declared >= _STREAMED or declared <= available + _SLACK_BYTES:
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
