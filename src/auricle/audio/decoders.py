"""Open audio with libsndfile or FFmpeg and yield its samples in one form.

In: a file and its content, or as much of that as is there. Out: Decoders, whose blocks are (channels, frames), int16
where that is exact, else float32 in [-1, 1]. A file in memory and a stream of any length go through the same Decoder.
"""

import contextlib
import io
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from auricle.audio.sniff import Content, WavLayout, cut_short, unusable, wav_layout
from auricle.errors import AudioError

# Rates that recorders use reach from telephone sensors to ultrasound; anything else is a damaged header.
RATES = (1_000, 768_000)
# Floats may overshoot full scale, or hold 16-bit counts; far beyond that they are damage, and would overflow.
LOUDEST = 1e6

SNDFILE = frozenset(
    {"wav", "flac", "ogg-vorbis", "ogg-opus", "ogg-flac", "mp3", "aiff", "au", "caf", "w64", "nist", "voc"}
)
# Every sample of these is exact in 16 bits; the others need floats.
_EXACT_IN_16 = frozenset({"PCM_16", "PCM_U8", "PCM_S8", "ULAW", "ALAW"})
# The demuxers that FFmpeg may try. Playlists (hls, concat) are not among them: they open other files and addresses.
_DEMUXERS = (
    "mov,matroska,asf,aac,mp3,wav,avi,flac,ogg,aiff,au,caf,w64,amr,amrnb,amrwb,ac3,eac3,"
    "flv,mpegts,mpeg,ape,wv,tta,mpc,mpc8,dts,xwma,voc,rm"
)
# These declare their tracks' true durations. Elsewhere FFmpeg estimates them.
_TIMED = frozenset({"mov", "asf", "matroska"})
_DURATION_SLACK = 0.25
# FFmpeg decodes some thousand samples at a time; its frames are joined until they last so long.
_JOINED_SECONDS = 1.0


class Decoder(Protocol):
    """An opened recording."""

    container: str
    sample_rate: int
    channels: int

    def blocks(self, first: int, frames: int) -> Iterator[np.ndarray]:
        """Yield (channels, frames) from frame `first` to the end, at most `frames` at a time.

        Raises LibsndfileError where libsndfile gives up; FFmpeg may then decode what libsndfile cannot.
        """

    def truncation(self, frames: int) -> str | None:
        """Say why the content was cut short, once `frames` were decoded; None if it is complete or cannot tell."""


def open_decoders(file: BinaryIO, content: Content, container: str, closing: contextlib.ExitStack) -> Iterator[Decoder]:
    """Open a file with each decoder that can, the most exact one first. `closing` closes them.

    `content` is all of a file that can seek, else its beginning; a file that cannot seek is opened once. Raises
    AudioError 'unreadable' or 'truncated' where FFmpeg, the last one, cannot open it, or 'not_fetched'.
    """
    if (fault := unusable(content, container)) is not None:
        raise AudioError(*fault)
    layout = wav_layout(content) if container == "wav" else None
    if layout is not None and layout.plain:
        yield _PlainWav(file, content, layout)
    if container in SNDFILE and file.seekable():
        # libsndfile's mp3 decoder writes about truncated files to the terminal.
        if not (container == "mp3" and cut_short(content, container, 0)):
            with contextlib.suppress(soundfile.LibsndfileError):
                steady = _SteadyFile(file, layout.head, layout.offset) if layout and layout.head else _SteadyFile(file)
                opened = closing.enter_context(soundfile.SoundFile(steady))
                yield _Sndfile(opened, content, container)
        file.seek(0)
    yield _Ffmpeg(file, content, container, closing)


class _PlainWav:
    """16-bit PCM, taken as it lies in the file."""

    container = "wav"

    def __init__(self, file: BinaryIO, content: Content, layout: WavLayout) -> None:
        check_format(layout.sample_rate, layout.channels)
        self.sample_rate, self.channels = layout.sample_rate, layout.channels
        self._file, self._content, self._layout = file, content, layout
        self._missing = 0.0

    def blocks(self, first: int, frames: int) -> Iterator[np.ndarray]:
        layout = self._layout
        if self._file.seekable():
            skipped = min(first * layout.block_align, layout.available)
            self._file.seek(layout.offset + skipped)
            self._missing = layout.available - skipped
        else:
            self._file.read(layout.offset)
            self._missing = float("inf") if layout.declared is None else layout.declared
        yield from whole_frames(self._pieces(frames * layout.block_align), self.channels, "<i2")

    def _pieces(self, size: int) -> Iterator[bytes]:
        while self._missing > 0 and (piece := self._file.read(int(min(size, self._missing)))):
            self._missing -= len(piece)
            yield piece

    def truncation(self, frames: int) -> str | None:
        if self._file.seekable():
            return cut_short(self._content, self.container, frames)
        is_missing = 0 < self._missing < float("inf")
        return f"its header declares {self._missing:.0f} bytes more" if is_missing else None


def whole_frames(pieces: Iterator[bytes], channels: int, dtype: str) -> Iterator[np.ndarray]:
    """Yield interleaved samples as (channels, frames); half a frame at the end is dropped."""
    width = np.dtype(dtype).itemsize * channels
    rest = b""
    for piece in pieces:
        piece = rest + piece if rest else piece
        end = len(piece) - len(piece) % width
        rest = piece[end:]
        if end:
            yield np.frombuffer(piece, dtype, end // width * channels).reshape(-1, channels).T


class _Sndfile:
    """What libsndfile decodes."""

    def __init__(self, file: soundfile.SoundFile, content: Content, container: str) -> None:
        check_format(file.samplerate, file.channels)
        self.container, self.sample_rate, self.channels = container, int(file.samplerate), int(file.channels)
        self._file, self._content = file, content
        self._is_past_end = False

    def blocks(self, first: int, frames: int) -> Iterator[np.ndarray]:
        declared = int(self._file.frames)
        self._is_past_end = first >= declared > 0
        if self._is_past_end:
            return
        if first:
            self._file.seek(first)
        # Most files are one block. A header that lies about its length costs one block.
        frames = max(1, min(frames, declared))
        dtype = "int16" if self._file.subtype in _EXACT_IN_16 else "float32"
        while len(block := self._file.read(frames, dtype=dtype, always_2d=True)):
            yield block.T

    def truncation(self, frames: int) -> str | None:
        return None if self._is_past_end else cut_short(self._content, self.container, frames)


class _Ffmpeg:
    """The first audio track of what FFmpeg opens. An error in mid-stream ends it there."""

    def __init__(self, file: BinaryIO, content: Content, container: str, closing: contextlib.ExitStack) -> None:
        import av

        try:
            options = {"format_whitelist": _DEMUXERS}
            self._opened = closing.enter_context(av.open(file, metadata_errors="ignore", container_options=options))
            if not self._opened.streams.audio:
                raise AudioError("unreadable", f"it holds no audio track (it is {self._opened.format.long_name})")
            self._track = self._opened.streams.audio[0]
        except _av_errors() as error:
            raise _not_opened(content, container, error) from error
        self.container = container or self._opened.format.name.split(",")[0]
        # Of a pipe only the beginning is there to be looked at.
        self._content = content if file.seekable() else None
        self._error: str | None = None
        self._decoded = self._decode()
        block = next(self._decoded, None)
        if block is None:
            raise AudioError("unreadable", self._error or "no frame of its audio track can be decoded")
        self.sample_rate, self.channels = int(self._track.sample_rate), len(block)
        check_format(self.sample_rate, self.channels)
        self._decoded = itertools.chain([block], self._decoded)

    def blocks(self, first: int, frames: int) -> Iterator[np.ndarray]:
        frames = max(1, min(frames, round(_JOINED_SECONDS * self.sample_rate)))
        waiting: list[np.ndarray] = []
        for block in self._decoded:
            skipped = min(first, block.shape[1])
            first -= skipped
            waiting.append(block[:, skipped:])
            if sum(each.shape[1] for each in waiting) >= frames:
                yield np.concatenate(waiting, axis=1)
                waiting = []
        if waiting:
            yield np.concatenate(waiting, axis=1)

    def truncation(self, frames: int) -> str | None:
        cut = cut_short(self._content, self.container, frames) if self._content is not None else None
        return self._error or cut or _av_cut(self._opened, self._track, frames)

    def _decode(self) -> Iterator[np.ndarray]:
        """Yield FFmpeg's frames; `_error` says why they end early, if they do."""
        form: tuple[int, int] | None = None
        frames = 0
        try:
            for frame in self._opened.decode(self._track):
                form = form or (frame.sample_rate, frame.layout.nb_channels)
                if (frame.sample_rate, frame.layout.nb_channels) != form:
                    self._error = f"its rate or channels change after {frames / form[0]:.2f} s"
                    return
                frames += frame.samples
                yield _planar(frame)
        except _av_errors() as error:
            self._error = stopped(frames / form[0] if form else 0.0, error)


class _SteadyFile(io.RawIOBase):
    """A file that stays put where a damaged header sends libsndfile, whose calls from C can only print exceptions.

    With a `head`, its bytes stand in place of those before `offset`.
    """

    def __init__(self, file: BinaryIO, head: bytes = b"", offset: int = 0) -> None:
        self._file, self._head, self._shift = file, head, offset - len(head)
        self._at = 0

    def readinto(self, buffer: Any, /) -> int:
        if self._at < len(self._head):
            piece = self._head[self._at : self._at + len(buffer)]
            buffer[: len(piece)] = piece
            count = len(piece)
        else:
            self._file.seek(self._at + self._shift)
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]  # every binary file that is open has it
        self._at += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            offset += self._file.seek(0, io.SEEK_END) - self._shift
        elif whence == io.SEEK_CUR:
            offset += self._at
        self._at = offset if offset >= 0 else self._at
        return self._at


def check_format(sample_rate: int, channels: int) -> None:
    """Raise AudioError 'unreadable' for a rate or a number of channels that only a damaged header declares."""
    if not RATES[0] <= sample_rate <= RATES[1] or channels < 1:
        raise AudioError(
            "unreadable",
            f"it declares {channels} channels at {sample_rate} Hz; rates from {RATES[0]} to {RATES[1]} Hz are allowed",
        )


def _not_opened(content: Content, container: str, error: Exception) -> AudioError:
    cut = cut_short(content, container, 0)
    if cut:
        return AudioError("truncated", f"{cut}; what is left cannot be decoded")
    what = f"its content begins like {container}, but" if container else "its content is no audio format that is known:"
    return AudioError("unreadable", f"{what} FFmpeg reports '{_reason(error)}'")


def stopped(seconds: float, error: Exception) -> str:
    """Say where decoding came to its end, and why."""
    return f"decoding stops after {seconds:.2f} s: {_reason(error)}"


def _planar(frame: Any) -> np.ndarray:
    """One FFmpeg frame as (channels, frames): int16 stays, the rest becomes float32 in [-1, 1]."""
    values: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        return np.left_shift(values.astype(np.int16) - 128, 8)
    if values.dtype == np.int32:
        return (values * 2.0**-31).astype(np.float32)
    return values if values.dtype == np.int16 else values.astype(np.float32, copy=False)


def _av_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for content that FFmpeg cannot follow. It is imported where a file needs FFmpeg."""
    import av

    return (av.FFmpegError, ValueError)


def _av_cut(file: Any, track: Any, frames: int) -> str | None:
    if not _TIMED.intersection(file.format.name.split(",")):
        return None
    if track.duration is not None:
        declared = float(track.duration * track.time_base)
    elif file.duration is not None and len(file.streams) == 1:
        declared = file.duration / 1e6  # FFmpeg counts microseconds
    else:
        return None
    decoded = frames / track.sample_rate
    if decoded >= declared - _DURATION_SLACK:
        return None
    return f"its header declares {declared:.2f} s, {decoded:.2f} s can be decoded"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
