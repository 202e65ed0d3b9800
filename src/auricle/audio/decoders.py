"""What libsndfile and FFmpeg are asked, and how their samples are brought to one form.

In: an open file and what its first bytes say that it is. Out: blocks of samples (channels, frames), int16 where that is
exact, else float32 in [-1, 1]. The whole content at once and a stream of any length are decoded by the same functions.
"""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile

from auricle.audio.sniff import Content, cut_short
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
# What PyAV raises for content that FFmpeg cannot follow.
AV_ERRORS = (av.FFmpegError, ValueError)


class _Steady(io.RawIOBase):
    """A file that stays where it is when a damaged header sends libsndfile to a place before its beginning.

    soundfile calls `seek` from C, where an exception can only be printed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]  # every binary file that is open has it
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


def believable(sample_rate: int, channels: int) -> None:
    """Raise AudioError 'unreadable' for a rate or a number of channels that only a damaged header declares."""
    if not RATES[0] <= sample_rate <= RATES[1] or channels < 1:
        raise AudioError(
            "unreadable",
            f"it declares {channels} channels at {sample_rate} Hz; rates from {RATES[0]} to {RATES[1]} Hz are allowed",
        )


def open_sndfile(file: BinaryIO, content: Content, container: str) -> soundfile.SoundFile | None:
    """Open with libsndfile; None where it cannot, and FFmpeg may."""
    if container == "mp3" and cut_short(content, container, 0):
        return None  # libsndfile's mp3 decoder writes about such files to the terminal
    try:
        return soundfile.SoundFile(_Steady(file))
    except soundfile.LibsndfileError:
        return None


def sndfile_dtype(file: soundfile.SoundFile) -> str:
    """int16 where every sample is exact in it, else float32."""
    return "int16" if file.subtype in _EXACT_IN_16 else "float32"


def sndfile_blocks(file: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray]:
    """Read (channels, frames) blocks to the real end, whatever the header declares."""
    dtype = sndfile_dtype(file)
    while True:
        block = file.read(frames, dtype=dtype, always_2d=True)
        if not len(block):
            return
        yield block.T


def open_av(file: BinaryIO) -> Any:
    """Open with FFmpeg, as a context manager. Raises one of AV_ERRORS where it cannot."""
    return av.open(file, metadata_errors="ignore", container_options={"format_whitelist": _DEMUXERS})


def not_opened(content: Content, container: str, error: Exception) -> AudioError:
    """Why FFmpeg, asked last, could not open the content either."""
    cut = cut_short(content, container, 0)
    if cut:
        return AudioError("truncated", f"{cut}; what is left cannot be decoded")
    what = f"its content begins like {container}, but" if container else "its content is no sound that is known:"
    return AudioError("unreadable", f"{what} FFmpeg says '{_reason(error)}'")


def sound_track(file: Any) -> Any:
    """The first sound track of what `open_av` opened. Raises AudioError 'unreadable' where there is none."""
    if not file.streams.audio:
        raise AudioError("unreadable", f"it holds no sound track (it is {file.format.long_name})")
    return file.streams.audio[0]


def av_blocks(file: Any, track: Any, broken: list[str]) -> Iterator[np.ndarray]:
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
    except AV_ERRORS as error:
        seconds = frames / form[0] if form else 0.0
        broken.append(stopped(seconds, error))


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


def av_cut(file: Any, track: Any, frames: int) -> str | None:
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


def mixed(samples: np.ndarray, channels: int) -> np.ndarray:
    """Bring (any, frames) to as many channels as are wanted: see `decode.resample`. What fits stays as it is.

    Raises AudioError 'nan' for samples that are no numbers, or absurdly large.
    """
    if samples.size and not (samples.min() > -LOUDEST and samples.max() < LOUDEST):
        raise AudioError("nan", f"some samples are no finite numbers, or beyond {LOUDEST:g} times full scale")
    if len(samples) > channels or len(samples) > 2:
        return np.asarray(samples.mean(axis=0, keepdims=True, dtype=np.float32))
    return samples


def scaled(samples: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Mixed samples as float32 with full scale at 32768; `dtype` is what they were before they were mixed."""
    return samples.astype(np.float32) if dtype == np.int16 else samples * np.float32(32768.0)


def rounded(values: np.ndarray) -> np.ndarray:
    """Values with full scale at 32768 as contiguous int16, rounded and clipped."""
    return np.ascontiguousarray(np.clip(np.rint(values), -32768.0, 32767.0).astype(np.int16))
