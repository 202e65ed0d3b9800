"""A recording of any length as a stream of samples, never wholly in memory.

In: a source (a path, an archive's member, a URL, "-" for standard input) or an open file. Out: int16 blocks, as a model
of some settings hears them: the same decoders, mixing and rounding as `decode`. A fault in mid-stream ends the stream
and is named among its findings.
"""

import contextlib
import io
import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import soundfile
import soxr

from auricle.audio import decoders
from auricle.audio.quality import Finding
from auricle.audio.settings import Settings
from auricle.audio.sniff import Content, LazyBytes, cut_short, sniff, wav_layout
from auricle.corpus import tree
from auricle.errors import AudioError

Form = Literal["s16le", "f32le"]
# One block of samples at the recording's own rate: small enough for the processor's cache, no burden for Python.
_BLOCK_SECONDS = 1.0
_BLOCK_VALUES = 1 << 18
# A header, with the pictures that some writers put before the sound.
_HEAD_BYTES = 1 << 16
# Its index may stand at the end: a stream of it must be written down before it can be read.
_SPOOLED = frozenset({"m4a"})


def blocks(source: str | BinaryIO, settings: Settings, findings: list[Finding] | None = None) -> Iterator[np.ndarray]:
    """Decode to int16 (channels, samples) at the settings' rate, block after block, in constant memory.

    An open file need not be seekable; it is read from its beginning, if it can go there, and left open. `findings`
    receives what is wrong with the recording, once its end is reached. The first block is made when it is asked for;
    then raises AudioError ('unreadable', 'empty', 'truncated', 'nan') where nothing can be decoded, or DataError for a
    broken archive.
    """
    found = findings if findings is not None else []
    with contextlib.ExitStack() as closing:
        file = _opened(source, closing)
        any_given = False
        for block in _decoded(file, settings, closing, found):
            any_given = True
            yield block
        if not any_given:
            fault = found[0] if found else Finding("empty", "it holds no samples")
            raise AudioError(fault.kind, fault.detail)


def pcm(
    file: io.BufferedIOBase, sample_rate: int, channels: int, form: Form, settings: Settings
) -> Iterator[np.ndarray]:
    """Read raw interleaved samples as they come, to int16 (channels, samples) blocks at the settings' rate.

    A block is whatever is there to be read, so that a live stream waits for nothing. Raises AudioError 'unreadable' for
    an unbelievable rate, 'nan' for floats that are no numbers.
    """
    decoders.believable(sample_rate, channels)
    return _heard(_frames(_pieces(file), channels, form), sample_rate, settings)


def _pieces(file: io.BufferedIOBase) -> Iterator[bytes]:
    while piece := file.read1(1 << 16):
        yield piece


def _frames(pieces: Iterable[bytes], channels: int, form: Form) -> Iterator[np.ndarray]:
    """Whole frames (channels, frames) of interleaved samples; half a frame at the end is dropped."""
    dtype = np.dtype("<i2" if form == "s16le" else "<f4")
    width = dtype.itemsize * channels
    rest = b""
    for piece in pieces:
        piece = rest + piece
        whole = len(piece) - len(piece) % width
        rest = piece[whole:]
        if whole:
            yield np.frombuffer(piece[:whole], dtype).reshape(-1, channels).T


class Joined(io.RawIOBase):
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


def _opened(source: str | BinaryIO, closing: contextlib.ExitStack) -> BinaryIO:
    if not isinstance(source, str):
        return source
    return sys.stdin.buffer if source == "-" else closing.enter_context(tree.open_stream(source))


def _decoded(
    file: BinaryIO, settings: Settings, closing: contextlib.ExitStack, found: list[Finding]
) -> Iterator[np.ndarray]:
    """Choose the decoder by the content."""
    if file.seekable():
        file.seek(0)
        content: Content = LazyBytes(file)
        head = content[:64]
        container = sniff(content)
        joined = file
    else:
        head = content = _head(file)
        container = sniff(head)
        joined = cast(BinaryIO, Joined(head, file))
        if container in _SPOOLED:
            joined = _spooled(joined, closing)
            content = LazyBytes(joined)
    if not head:
        raise AudioError("empty", "the file has no bytes")
    raw = _raw_wav(joined, content, settings, found) if container == "wav" else None
    if raw is not None:
        return raw
    if container in decoders.SNDFILE and joined.seekable():
        opened = decoders.open_sndfile(joined, content, container)
        if opened is not None:
            return _with_sndfile(closing.enter_context(opened), content, container, settings, found)
        joined.seek(0)
    return _with_av(joined, content, container, settings, closing, found)


def _head(file: BinaryIO) -> bytes:
    """The first bytes of a stream, however small the pieces are in which they come."""
    head = b""
    while len(head) < _HEAD_BYTES and (piece := file.read(_HEAD_BYTES - len(head))):
        head += piece
    return head


def _spooled(file: BinaryIO, closing: contextlib.ExitStack) -> BinaryIO:
    copy = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - `closing` is its context
    while piece := file.read(1 << 20):
        copy.write(piece)
    copy.seek(0)
    return cast(BinaryIO, copy)


def _raw_wav(file: BinaryIO, content: Content, settings: Settings, found: list[Finding]) -> Iterator[np.ndarray] | None:
    """Take 16-bit PCM as it lies in the file; None where a decoder must look."""
    layout = wav_layout(content)
    if layout is None or not layout.plain:
        return None
    decoders.believable(layout.sample_rate, layout.channels)
    if file.seekable():
        file.seek(layout.offset)
        left: float = layout.available
    else:
        file.read(layout.offset)
        left = float("inf") if layout.declared is None else layout.declared

    def pieces(left: float) -> Iterator[bytes]:
        size = _BLOCK_VALUES * 2
        while left > 0 and (piece := file.read(int(min(size, left)))):
            left -= len(piece)
            yield piece
        cut = cut_short(content, "wav", 0) if file.seekable() else None
        if cut or (not file.seekable() and 0 < left < float("inf")):
            found.append(Finding("truncated", cut or f"its header declares {left:.0f} bytes more"))

    return _heard(_frames(pieces(left), layout.channels, "s16le"), layout.sample_rate, settings, found)


def _with_sndfile(
    file: soundfile.SoundFile, content: Content, container: str, settings: Settings, found: list[Finding]
) -> Iterator[np.ndarray]:
    decoders.believable(file.samplerate, file.channels)

    def read() -> Iterator[np.ndarray]:
        frames = 0
        try:
            for block in decoders.sndfile_blocks(file, max(1, _BLOCK_VALUES // file.channels)):
                frames += block.shape[1]
                yield block
        except soundfile.LibsndfileError as error:
            found.append(Finding("truncated", decoders.stopped(frames / file.samplerate, error)))
            return
        if cut := cut_short(content, container, frames):
            found.append(Finding("truncated", cut))

    return _heard(read(), file.samplerate, settings, found)


def _with_av(
    file: BinaryIO,
    content: Content,
    container: str,
    settings: Settings,
    closing: contextlib.ExitStack,
    found: list[Finding],
) -> Iterator[np.ndarray]:
    try:
        opened = closing.enter_context(decoders.open_av(file))
        track = decoders.sound_track(opened)
    except decoders.AV_ERRORS as error:
        raise decoders.not_opened(content, container, error) from error
    broken: list[str] = []
    decoded = decoders.av_blocks(opened, track, broken)
    first = next(decoded, None)
    if first is None:
        raise AudioError("unreadable", broken[0] if broken else "no frame of its sound track can be decoded")
    decoders.believable(track.sample_rate, len(first))

    def read() -> Iterator[np.ndarray]:
        frames = 0
        for block in itertools.chain([first], decoded):
            frames += block.shape[1]
            yield block
        # Of a stream only the head is there to be looked at.
        cut = cut_short(content, container, frames) if isinstance(content, LazyBytes) else None
        if cut := broken[0] if broken else cut or decoders.av_cut(opened, track, frames):
            found.append(Finding("truncated", cut))

    frames = max(1, min(round(_BLOCK_SECONDS * track.sample_rate), _BLOCK_VALUES // len(first)))
    return _heard(_grouped(read(), frames), track.sample_rate, settings, found)


def _grouped(decoded: Iterator[np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """Join small blocks until there are so many frames."""
    kept: list[np.ndarray] = []
    for block in decoded:
        kept.append(block)
        if sum(each.shape[1] for each in kept) >= frames:
            yield np.concatenate(kept, axis=1)
            kept = []
    if kept:
        yield np.concatenate(kept, axis=1)


def _heard(
    decoded: Iterator[np.ndarray], sample_rate: int, settings: Settings, found: list[Finding] | None = None
) -> Iterator[np.ndarray]:
    """Mix, resample and round blocks as `decode.resample` does with a whole sound; empty blocks are left out."""
    resampler: Any = None
    channels = 1
    for block in decoded:
        try:
            samples = decoders.mixed(block, settings.channels)
        except AudioError as fault:
            if found is None:
                raise
            found.append(Finding(fault.kind, fault.detail))
            break
        if sample_rate == settings.sample_rate and samples.dtype == np.int16:
            whole = samples
        elif sample_rate == settings.sample_rate:
            whole = decoders.rounded(decoders.scaled(samples, block.dtype))
        else:
            channels = len(samples)
            resampler = resampler or soxr.ResampleStream(sample_rate, settings.sample_rate, channels, "float32", "HQ")
            values = np.ascontiguousarray(decoders.scaled(samples, block.dtype).T)
            whole = decoders.rounded(resampler.resample_chunk(values).T)
        if whole.shape[1]:
            yield whole
    if resampler is not None:
        whole = decoders.rounded(resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True).T)
        if whole.shape[1]:
            yield whole
