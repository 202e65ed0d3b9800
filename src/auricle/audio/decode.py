"""From the bytes of an audio file to samples.

In: the whole content of a file, whatever it is called. Out: a Sound, or an AudioError that names the fault. 16-bit PCM
is taken as it lies; libsndfile opens the other common formats (on ogg it is as fast as FFmpeg or faster, and its result
the same to 4e-7); FFmpeg, through PyAV, opens the rest. What a header declares is never trusted with memory.
"""

import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import soundfile
import soxr

from auricle.audio.containers import cut_short, sniff, wav_layout
from auricle.errors import AudioError

# Rates that recorders use reach from telephone sensors to ultrasound; anything else is a damaged header.
RATES = (1_000, 768_000)
# An hour in stereo at 48 kHz is 0.35e9 values. Beyond this, a file that decodes to silence could fill the memory.
MAX_VALUES = 1 << 29
# Floats may overshoot full scale, or hold 16-bit counts; far beyond that they are damage, and would overflow.
LOUDEST = 1e6
# One read of at most so many values, unless the content is long enough to hold more.
_BLOCK_VALUES = 1 << 20

_SNDFILE = frozenset(
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
# What PyAV raises for content that FFmpeg cannot follow.
_AV_ERRORS = (av.FFmpegError, ValueError)

# The seconds that are wanted, from and to, how many are allowed, and how many values of all channels.
_Window = tuple[float, float | None, float, int]


@dataclass(frozen=True, eq=False)
class Sound:
    """One decoded recording.

    samples: (channels, frames), int16 where that is exact, else float32 in [-1, 1]. `container` is what the content
    is, whatever its name says. `truncated` says why the content is judged cut short; None where it is whole, or where
    its format cannot tell.
    """

    samples: np.ndarray
    sample_rate: int
    container: str
    truncated: str | None = None

    @property
    def seconds(self) -> float:
        return float(self.samples.shape[1] / self.sample_rate)


@dataclass(frozen=True)
class _Stretch:
    """The frames that are wanted: [first, last), last None for the end, and no more than `limit` of them."""

    first: int
    last: int | None
    limit: int
    max_seconds: float

    def take(self, blocks: Iterator[np.ndarray], skip: int) -> list[np.ndarray]:
        """Keep what lies in the stretch of (channels, frames) blocks, whose first frame is number `skip`."""
        kept: list[np.ndarray] = []
        at, count = skip, 0
        for block in blocks:
            piece = block[:, max(self.first - at, 0) : None if self.last is None else max(self.last - at, 0)]
            at += block.shape[1]
            count += piece.shape[1]
            if count > self.limit:
                raise AudioError("long", f"it lasts more than the {self.max_seconds:g} s that are allowed")
            if piece.shape[1]:
                kept.append(piece)
            if self.last is not None and at >= self.last:
                break
        return kept

    def filled_by(self, frames: int) -> bool:
        return self.last is not None and frames >= self.last - self.first


def decode(
    content: bytes,
    *,
    start: float | None = None,
    end: float | None = None,
    max_seconds: float = 3600,
    max_values: int = MAX_VALUES,
    name: str = "",
) -> Sound:
    """Decode a file's content, or the stretch from `start` to `end` seconds of it.

    `max_seconds` bounds what is decoded, `max_values` the samples of all channels together; `name` is only used in
    messages. A cut file gives what is left of it, with `truncated` set, unless the stretch lies before the cut.
    Threads scale: the decoders release the interpreter lock.

    Raises AudioError: 'unreadable', 'empty' (no samples), 'truncated' (a header and nothing behind it) or 'long'.
    """
    try:
        return _decode(content, (start or 0.0, end, max_seconds, max_values))
    except AudioError as error:
        raise AudioError(error.kind, f"'{name}': {error.detail}" if name else error.detail) from error.__cause__


def _decode(content: bytes, window: _Window) -> Sound:
    if not content:
        raise AudioError("empty", "the file has no bytes")
    if not content.strip(b"\0"):
        raise AudioError("unreadable", f"all of its {len(content)} bytes are zero")
    start, end, *_ = window
    if not 0.0 <= start < (math.inf if end is None else end):
        raise AudioError(
            "empty", f"nothing lies from {start:g} s to {end} s; give a start of 0 or more and a later end"
        )
    container = sniff(content)
    sound = _plain_wav(content, window) if container == "wav" else None
    if sound is None and container in _SNDFILE:
        sound = _with_sndfile(content, container, window)
    if sound is None:
        sound = _with_av(content, container, window)
    if sound.samples.shape[1] == 0:
        if sound.truncated:
            raise AudioError("truncated", sound.truncated)
        raise AudioError("empty", "it holds no samples" + (f" after {start:g} s" if start else ""))
    return sound


def _stretch(window: _Window, sample_rate: int, channels: int) -> _Stretch:
    """Turn seconds into frames, once the rate and the channels are known and believable."""
    if not RATES[0] <= sample_rate <= RATES[1] or channels < 1:
        raise AudioError(
            "unreadable",
            f"it declares {channels} channels at {sample_rate} Hz; rates from {RATES[0]} to {RATES[1]} Hz are allowed",
        )
    start, end, max_seconds, max_values = window
    limit = min(int(max_seconds * sample_rate), max_values // channels)
    last = None if end is None else round(end * sample_rate)
    return _Stretch(round(start * sample_rate), last, limit, min(max_seconds, limit / sample_rate))


def _sound(
    content: bytes, container: str, pieces: list[np.ndarray], stretch: _Stretch, sample_rate: int, cut: str | None
) -> Sound:
    samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
    whole = stretch.filled_by(samples.shape[1])
    return Sound(np.ascontiguousarray(samples), sample_rate, container, None if whole else cut)


def _plain_wav(content: bytes, window: _Window) -> Sound | None:
    """Take 16-bit PCM as it lies in the file; None where a decoder must look."""
    layout = wav_layout(content)
    if layout is None or not layout.plain:
        return None
    stretch = _stretch(window, layout.sample_rate, layout.channels)
    frames = layout.available // layout.block_align
    flat = np.frombuffer(content, "<i2", frames * layout.channels, layout.offset)
    block = flat.reshape(frames, layout.channels).T
    pieces = stretch.take(iter([block]), 0) or [block[:, :0]]
    return _sound(content, "wav", pieces, stretch, layout.sample_rate, cut_short(content, "wav", frames))


class _Content(io.BytesIO):
    """Bytes that stay where they are when a damaged header sends libsndfile to a place before their beginning.

    soundfile calls `seek` from C, where an exception can only be printed.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _with_sndfile(content: bytes, container: str, window: _Window) -> Sound | None:
    """Decode with libsndfile; None where it cannot open the content, which FFmpeg may."""
    if container == "mp3" and cut_short(content, container, 0):
        return None  # libsndfile's mp3 decoder writes about such files to the terminal
    try:
        file = soundfile.SoundFile(_Content(content))
    except soundfile.LibsndfileError:
        return None
    with file:
        stretch = _stretch(window, file.samplerate, file.channels)
        dtype = "int16" if file.subtype in _EXACT_IN_16 else "float32"
        try:
            if stretch.first >= file.frames > 0:
                return Sound(np.zeros((file.channels, 0), dtype), file.samplerate, container, None)
            first = file.seek(stretch.first) if stretch.first else 0
            pieces = stretch.take(_sndfile_blocks(file, dtype, len(content), stretch.limit), first)
        except soundfile.LibsndfileError:
            return None
        frames = first + sum(piece.shape[1] for piece in pieces)
        pieces = pieces or [np.zeros((file.channels, 0), dtype)]
        return _sound(content, container, pieces, stretch, file.samplerate, cut_short(content, container, frames))


def _sndfile_blocks(file: soundfile.SoundFile, dtype: str, size: int, limit: int) -> Iterator[np.ndarray]:
    """Read (channels, frames) to the real end. Most files are one block; a header that lies costs one block.

    No block is longer than `limit` frames and the one by which a file shows that it has too many.
    """
    frames = max(1, min(file.frames, limit + 1, max(_BLOCK_VALUES, 32 * size) // file.channels))
    while True:
        block = file.read(frames, dtype=dtype, always_2d=True)
        if not len(block):
            return
        yield block.T


def _with_av(content: bytes, container: str, window: _Window) -> Sound:
    """Decode the first sound track with FFmpeg. An error in mid-stream ends the sound there."""
    try:
        with av.open(
            io.BytesIO(content), metadata_errors="ignore", container_options={"format_whitelist": _DEMUXERS}
        ) as file:
            return _av_sound(content, container or file.format.name.split(",")[0], file, window)
    except _AV_ERRORS as error:
        cut = cut_short(content, container, 0)
        if cut:
            raise AudioError("truncated", f"{cut}; what is left cannot be decoded") from error
        what = f"its content begins like {container}, but" if container else "its content is no sound that is known:"
        raise AudioError("unreadable", f"{what} FFmpeg says '{_reason(error)}'") from error


def _av_sound(content: bytes, container: str, file: av.container.InputContainer, window: _Window) -> Sound:
    if not file.streams.audio:
        raise AudioError("unreadable", f"it holds no sound track (it is {file.format.long_name})")
    track = file.streams.audio[0]
    broken: list[str] = []
    blocks = _av_blocks(file, track, broken)
    first = next(blocks, None)
    if first is None:
        raise AudioError("unreadable", broken[0] if broken else "no frame of its sound track can be decoded")
    stretch = _stretch(window, track.sample_rate, len(first))
    pieces = stretch.take(itertools.chain([first], blocks), 0) or [first[:, :0]]
    frames = stretch.first + sum(piece.shape[1] for piece in pieces)
    cut = broken[0] if broken else cut_short(content, container, frames) or _av_cut(file, track, frames)
    return _sound(content, container, pieces, stretch, track.sample_rate, cut)


def _av_blocks(file: Any, track: Any, broken: list[str]) -> Iterator[np.ndarray]:
    """Yield the track as (channels, frames) blocks; say in `broken` why it ends early, if it does."""
    form: tuple[int, int] | None = None
    frames = 0
    try:
        for frame in file.decode(track):
            form = form or (frame.sample_rate, frame.layout.nb_channels)
            if (frame.sample_rate, frame.layout.nb_channels) != form:
                broken.append(f"its rate or channels change after {frames / form[0]:.2f} s")
                return
            frames += frame.samples
            yield _planar(frame)
    except _AV_ERRORS as error:
        seconds = frames / form[0] if form else 0.0
        broken.append(f"decoding stops after {seconds:.2f} s: {_reason(error)}")


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


def _av_cut(file: Any, track: Any, frames: int) -> str | None:
    """Compare with the declared duration, where the format has one."""
    if not _TIMED.intersection(file.format.name.split(",")):
        return None
    if track.duration is not None:
        declared = float(track.duration * track.time_base)
    elif file.duration is not None and len(file.streams) == 1:
        declared = file.duration / av.time_base
    else:
        return None
    found = frames / track.sample_rate
    if found >= declared - _DURATION_SLACK:
        return None
    return f"its header declares {declared:.2f} s, {found:.2f} s can be decoded"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def resample(sound: Sound, sample_rate: int, channels: int) -> np.ndarray:
    """Bring a sound to one rate and channel count: (1 or 2, frames) int16, rounded and clipped.

    `channels` 1 takes the mean of all channels. 2 keeps mono and stereo as they are; more than two are mixed to mono,
    as nothing tells which is left. 16-bit sound that is already there passes through exactly. Resampling is soxr's HQ
    (20-bit precision, linear phase), outside the interpreter lock.

    Raises AudioError 'nan' for samples that are no numbers, or absurdly large.
    """
    samples = sound.samples
    if samples.size and not (samples.min() > -LOUDEST and samples.max() < LOUDEST):
        raise AudioError("nan", f"some samples are no finite numbers, or beyond {LOUDEST:g} times full scale")
    if len(samples) > channels or len(samples) > 2:
        samples = samples.mean(axis=0, keepdims=True, dtype=np.float32)
    elif samples.dtype == np.int16 and sound.sample_rate == sample_rate:
        return samples
    scaled = samples.astype(np.float32) if sound.samples.dtype == np.int16 else samples * np.float32(32768.0)
    if sound.sample_rate != sample_rate:
        scaled = soxr.resample(scaled.T, sound.sample_rate, sample_rate, quality="HQ").T
    return np.ascontiguousarray(np.clip(np.rint(scaled), -32768.0, 32767.0).astype(np.int16))
