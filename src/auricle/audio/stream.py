"""A recording of any length as a stream of samples, never wholly in memory.

In: a source (a path, an archive's member, a URL, "-" for standard input), an open file, or raw samples. Out: int16
blocks in a model's form: the same decoders, mixing, resampling and rounding as `decode`. A fault in mid-stream ends
the stream and is one of its findings.
"""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, cast

import numpy as np
import soundfile

from auricle.audio.decode import convert
from auricle.audio.decoders import Decoder, check_format, open_decoders, stopped, whole_frames
from auricle.audio.quality import Finding, Meter, misnamed
from auricle.audio.settings import Settings
from auricle.audio.sniff import Content, LazyBytes, header_faults, sniff
from auricle.corpus import tree
from auricle.errors import AudioError

Encoding = Literal["s16le", "f32le"]
_DTYPES: dict[Encoding, str] = {"s16le": "<i2", "f32le": "<f4"}
# One block of samples at the recording's own rate: small enough for the processor's cache, no burden for Python.
_BLOCK_VALUES = 1 << 18
# A header, with the pictures that some writers put before the audio.
_HEAD_BYTES = 1 << 16
# Its index may stand at the end: a stream of it must be written to a file before it can be read.
_SPOOLED = frozenset({"m4a"})


def blocks(source: str | BinaryIO, settings: Settings, findings: list[Finding] | None = None) -> Iterator[np.ndarray]:
    """Decode to int16 (channels, samples) at the settings' rate, block after block, in constant memory.

    An open file need not be seekable; it is read from its beginning, if it can go there, and left open. `findings`
    receives what is wrong, at the end. With the first block raises AudioError ('unreadable', 'empty', 'truncated',
    'nan') where nothing can be decoded, or DataError for a broken archive.
    """
    findings = findings if findings is not None else []
    is_empty = True
    with contextlib.ExitStack() as closing:
        decoder, faults = _open(source, closing)
        meter = Meter(decoder.sample_rate, settings.sample_rate)
        decoded = _decoded(decoder, meter, findings)
        try:
            for block in convert(decoded, decoder.sample_rate, settings.sample_rate, settings.channels):
                is_empty = False
                meter.add_converted(block)
                yield block
        except AudioError as fault:
            findings.append(Finding(fault.kind, fault.detail))
    if is_empty:
        fault_found = findings[0] if findings else Finding("empty", "it holds no samples")
        raise AudioError(fault_found.kind, fault_found.detail)
    found = [] if any(finding.kind == "nan" for finding in findings) else meter.findings()
    findings += [*faults, *found]


def pcm(
    file: io.BufferedIOBase, sample_rate: int, channels: int, encoding: Encoding, settings: Settings
) -> Iterator[np.ndarray]:
    """Read raw interleaved samples as they come, to int16 (channels, samples) blocks at the settings' rate.

    A live stream waits for nothing. Raises AudioError 'unreadable' for an unbelievable rate, 'nan' for infinite floats.
    """
    check_format(sample_rate, channels)
    frames = whole_frames(iter(lambda: file.read1(1 << 16), b""), channels, _DTYPES[encoding])
    return convert(frames, sample_rate, settings.sample_rate, settings.channels)


class JoinedFile(io.RawIOBase):
    """Bytes that were read already, then the rest of a file that cannot go back."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = io.BytesIO(head), file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._head.read(size)
        if size < 0:
            return piece + self._file.read()
        return piece or self._file.read(size)


def _open(source: str | BinaryIO, closing: contextlib.ExitStack) -> tuple[Decoder, list[Finding]]:
    """Open a source, and find what its header and its name get wrong."""
    if not isinstance(source, str):
        file = source
    else:
        file = sys.stdin.buffer if source == "-" else closing.enter_context(tree.open_stream(source))
    if file.seekable():
        file.seek(0)
        content: Content = LazyBytes(file)
        container = sniff(content)
    else:
        content = first_bytes(file, _HEAD_BYTES)
        container = sniff(content)
        file = cast(BinaryIO, JoinedFile(content, file))
        if container in _SPOOLED:
            copy = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - `closing` is its context
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.seek(0)
            file = cast(BinaryIO, copy)
            content = LazyBytes(file)
    if not len(content):
        raise AudioError("empty", "the file has no bytes")
    decoder = next(open_decoders(file, content, container, closing))
    faults = [Finding(*fault) for fault in header_faults(content, decoder.container)]
    name = PurePosixPath(source).name if isinstance(source, str) else ""
    return decoder, [*faults, *misnamed(name, decoder.container)]


def _decoded(decoder: Decoder, meter: Meter, findings: list[Finding]) -> Iterator[np.ndarray]:
    """Measure a decoder's blocks and pass them on; at their end note why it came early, if it did."""
    frames = 0
    try:
        for block in decoder.blocks(0, max(1, _BLOCK_VALUES // decoder.channels)):
            frames += block.shape[1]
            meter.add_stored(block)
            yield block
        truncated = decoder.truncation(frames)
    except soundfile.LibsndfileError as error:
        truncated = stopped(frames / decoder.sample_rate, error)
    if truncated:
        findings.append(Finding("truncated", truncated))


def first_bytes(file: BinaryIO, size: int) -> bytes:
    """The first bytes of a stream, `size` at most, however small the pieces are in which they come."""
    content = b""
    while len(content) < size and (piece := file.read(size - len(content))):
        content += piece
    return content
