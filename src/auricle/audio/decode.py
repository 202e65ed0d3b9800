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

import numpy as np
import soundfile
import soxr

from auricle.audio import decoders
from auricle.audio.sniff import cut_short, sniff, wav_layout
from auricle.errors import AudioError

# An hour in stereo at 48 kHz is 0.35e9 values. Beyond this, a file that decodes to silence could fill the memory.
MAX_VALUES = 1 << 29
# One read of at most so many values, unless the content is long enough to hold more.
_BLOCK_VALUES = 1 << 20

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
    if sound is None and container in decoders.SNDFILE:
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
    decoders.believable(sample_rate, channels)
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


def _with_sndfile(content: bytes, container: str, window: _Window) -> Sound | None:
    """Decode with libsndfile; None where it cannot open the content, which FFmpeg may."""
    file = decoders.open_sndfile(io.BytesIO(content), content, container)
    if file is None:
        return None
    with file:
        stretch = _stretch(window, file.samplerate, file.channels)
        dtype = decoders.sndfile_dtype(file)
        try:
            if stretch.first >= file.frames > 0:
                return Sound(np.zeros((file.channels, 0), dtype), file.samplerate, container, None)
            first = file.seek(stretch.first) if stretch.first else 0
            pieces = stretch.take(
                decoders.sndfile_blocks(file, _block_frames(file, len(content), stretch.limit)), first
            )
        except soundfile.LibsndfileError:
            return None
        frames = first + sum(piece.shape[1] for piece in pieces)
        pieces = pieces or [np.zeros((file.channels, 0), dtype)]
        return _sound(content, container, pieces, stretch, file.samplerate, cut_short(content, container, frames))


def _block_frames(file: soundfile.SoundFile, size: int, limit: int) -> int:
    """Frames of one read. Most files are one block; a header that lies costs one block.

    No block is longer than `limit` frames and the one by which a file shows that it has too many.
    """
    return max(1, min(int(file.frames), limit + 1, max(_BLOCK_VALUES, 32 * size) // int(file.channels)))


def _with_av(content: bytes, container: str, window: _Window) -> Sound:
    """Decode the first sound track with FFmpeg. An error in mid-stream ends the sound there."""
    try:
        with decoders.open_av(io.BytesIO(content)) as file:
            return _av_sound(content, container or file.format.name.split(",")[0], file, window)
    except decoders.AV_ERRORS as error:
        raise decoders.not_opened(content, container, error) from error


def _av_sound(content: bytes, container: str, file: Any, window: _Window) -> Sound:
    track = decoders.sound_track(file)
    broken: list[str] = []
    blocks = decoders.av_blocks(file, track, broken)
    first = next(blocks, None)
    if first is None:
        raise AudioError("unreadable", broken[0] if broken else "no frame of its sound track can be decoded")
    stretch = _stretch(window, track.sample_rate, len(first))
    pieces = stretch.take(itertools.chain([first], blocks), 0) or [first[:, :0]]
    frames = stretch.first + sum(piece.shape[1] for piece in pieces)
    cut = broken[0] if broken else cut_short(content, container, frames) or decoders.av_cut(file, track, frames)
    return _sound(content, container, pieces, stretch, track.sample_rate, cut)


def resample(sound: Sound, sample_rate: int, channels: int) -> np.ndarray:
    """Bring a sound to one rate and channel count: (1 or 2, frames) int16, rounded and clipped.

    `channels` 1 takes the mean of all channels. 2 keeps mono and stereo as they are; more than two are mixed to mono,
    as nothing tells which is left. 16-bit sound that is already there passes through exactly. Resampling is soxr's HQ
    (20-bit precision, linear phase), outside the interpreter lock.

    Raises AudioError 'nan' for samples that are no numbers, or absurdly large.
    """
    samples = decoders.mixed(sound.samples, channels)
    if samples.dtype == np.int16 and sound.sample_rate == sample_rate:
        return samples
    scaled = decoders.scaled(samples, sound.samples.dtype)
    if sound.sample_rate != sample_rate:
        scaled = soxr.resample(scaled.T, sound.sample_rate, sample_rate, quality="HQ").T
    return decoders.rounded(scaled)
