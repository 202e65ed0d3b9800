"""From an audio file to samples: the whole content at once, or blocks of any recording, in a model's form.

In: the content of a file, whatever it is called. Out: DecodedAudio, or an AudioError that names the fault. 16-bit PCM
is taken as it lies; libsndfile opens the other common formats (on ogg it is as fast as FFmpeg or faster, and its result
the same to 4e-7); FFmpeg, through PyAV, opens the rest. What a header declares is never trusted with memory.
"""

import contextlib
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soundfile
import soxr

from auricle.audio import FULL_SCALE
from auricle.audio.decoders import LOUDEST, Decoder, open_decoders
from auricle.audio.sniff import header_faults, sniff
from auricle.errors import AudioError

# An hour in stereo at 48 kHz is 0.35e9 values. Beyond this, a file that decodes to silence could fill the memory.
MAX_VALUES = 1 << 29
# One block has at most so many values, unless the content is long enough to hold more.
_BLOCK_VALUES = 1 << 20
# How far a segment may end after its recording: annotations are rounded.
_END_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class DecodedAudio:
    """One decoded recording: samples (channels, frames), int16 where that is exact, else float32 in [-1, 1].

    `container` is what the content is; `truncated` says why it was cut short, None where it is complete or cannot tell.
    `header` has the kind and the detail of what the header leaves out.
    """

    samples: np.ndarray
    sample_rate: int
    container: str
    truncated: str | None = None
    header: tuple[tuple[str, str], ...] = ()

    @property
    def seconds(self) -> float:
        return float(self.samples.shape[1] / self.sample_rate)


def decode(
    content: bytes,
    *,
    start: float | None = None,
    end: float | None = None,
    max_seconds: float = 3600,
    max_values: int = MAX_VALUES,
    name: str = "",
) -> DecodedAudio:
    """Decode a file's content, or the section from `start` to `end` seconds of it. Threads scale.

    `max_seconds` bounds what is decoded, `max_values` the samples of all channels together; `name` is for messages. A
    truncated file gives what is left of it, with `truncated` set, unless the section lies before the cut. Raises
    AudioError: 'unreadable', 'not_fetched', 'empty' (no samples), 'truncated' (a header, nothing behind it) or 'long'.
    """
    try:
        return _decode(content, start or 0.0, end, max_seconds, max_values)
    except AudioError as error:
        raise AudioError(error.kind, f"'{name}': {error.detail}" if name else error.detail) from error.__cause__


def rate_of(content: bytes) -> int:
    """The sample rate of a file's content, which is opened and not decoded. Raises AudioError as `decode` does."""
    with contextlib.ExitStack() as closing:
        return next(open_decoders(io.BytesIO(content), content, sniff(content), closing)).sample_rate


def _decode(content: bytes, start: float, end: float | None, max_seconds: float, max_values: int) -> DecodedAudio:
    if not content:
        raise AudioError("empty", "the file has no bytes")
    if not content.strip(b"\0"):
        raise AudioError("unreadable", f"all of its {len(content)} bytes are zero")
    if not 0.0 <= start < (math.inf if end is None else end):
        raise AudioError(
            "empty", f"nothing lies from {start:g} s to {end} s; give a start of 0 or more and a later end"
        )
    with contextlib.ExitStack() as closing:
        for decoder in open_decoders(io.BytesIO(content), content, sniff(content), closing):
            with contextlib.suppress(soundfile.LibsndfileError):
                audio = _collect(decoder, len(content), start, end, max_seconds, max_values)
                break
        else:
            raise AssertionError("FFmpeg, the last decoder, raises no error of libsndfile")
    if audio.samples.shape[1] == 0:
        if audio.truncated:
            raise AudioError("truncated", audio.truncated)
        raise AudioError("empty", "it holds no samples" + (f" after {start:g} s" if start else ""))
    return replace(audio, header=header_faults(content, audio.container))


def _collect(
    decoder: Decoder, size: int, start: float, end: float | None, max_seconds: float, max_values: int
) -> DecodedAudio:
    rate, channels = decoder.sample_rate, decoder.channels
    first = round(start * rate)
    wanted = math.inf if end is None else round(end * rate) - first
    limit = min(int(max_seconds * rate), max_values // channels)
    pieces, count = [], 0
    # No block is longer than the limit and the one frame by which a file shows that it has too many.
    for block in decoder.blocks(first, max(1, min(limit + 1, max(_BLOCK_VALUES, 32 * size) // channels))):
        piece = block if count + block.shape[1] <= wanted else block[:, : int(wanted) - count]
        count += piece.shape[1]
        if count > limit:
            raise AudioError("long", f"it lasts more than the {min(max_seconds, limit / rate):g} s that are allowed")
        pieces.append(piece)
        if count >= wanted:
            break
    pieces = pieces or [np.zeros((channels, 0), np.int16)]
    samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
    truncated = decoder.truncation(first + count) if count < wanted else None
    if truncated is None and 0 < count < wanted - _END_SECONDS * rate < math.inf:
        truncated = f"the segment ends at {end:g} s, and the recording at {(first + count) / rate:g} s"
    return DecodedAudio(np.ascontiguousarray(samples), rate, decoder.container, truncated)


def resample(audio: DecodedAudio, sample_rate: int, channels: int) -> np.ndarray:
    """Convert a recording to one rate and channel count: (1 or 2, frames) int16, rounded and clipped.

    `channels` 1 takes the mean of all channels; 2 keeps mono and stereo, and mixes more to mono, as the left one is not
    known. 16-bit samples that are already there pass through exactly. Resampling is soxr's HQ (20-bit precision, linear
    phase), outside the interpreter lock. Raises AudioError 'nan' for samples that are not finite, or absurdly large.
    """
    samples = _mixed(audio.samples, channels)
    if audio.sample_rate == sample_rate:
        return _rounded(samples, audio.samples.dtype)
    scaled = _scaled(samples, audio.samples.dtype)
    # Bit for bit what `convert` gives, in half of the time.
    return _clipped(soxr.resample(scaled.T, audio.sample_rate, sample_rate, quality="HQ").T)


def convert(blocks: Iterable[np.ndarray], source_rate: int, sample_rate: int, channels: int) -> Iterator[np.ndarray]:
    """Convert a stream of blocks as `resample` does; raises its error behind the last block that is converted."""
    converter = Converter(source_rate, sample_rate, channels)
    fault: AudioError | None = None
    for block in blocks:
        try:
            converted = converter.convert(block)
        except AudioError as error:
            fault = error
            break
        if converted.shape[1]:
            yield converted
    rest = converter.flush()
    if rest.shape[1]:
        yield rest
    if fault is not None:
        raise fault


class Converter:
    """Converts one recording block by block; what the resampler holds back comes with the next block, or `flush`."""

    def __init__(self, source_rate: int, sample_rate: int, channels: int) -> None:
        self.source_rate = source_rate
        self._sample_rate, self._channels = sample_rate, channels
        self._resampler: Any = None
        self._width = 1

    def convert(self, block: np.ndarray) -> np.ndarray:
        """Convert samples (any, frames) to int16 (1 or 2, samples). Raises AudioError 'nan'."""
        samples = _mixed(block, self._channels)
        if self.source_rate == self._sample_rate:
            return _rounded(samples, block.dtype)
        if self._resampler is None:
            self._width = len(samples)
            self._resampler = soxr.ResampleStream(self.source_rate, self._sample_rate, self._width, "float32", "HQ")
        return _clipped(self._resampler.resample_chunk(np.ascontiguousarray(_scaled(samples, block.dtype).T)).T)

    def flush(self) -> np.ndarray:
        if self._resampler is None:
            return np.zeros((1, 0), np.int16)
        return _clipped(self._resampler.resample_chunk(np.zeros((0, self._width), np.float32), last=True).T)


def _mixed(samples: np.ndarray, channels: int) -> np.ndarray:
    """Mix (any, frames) to as many channels as `resample` gives. What fits stays as it is."""
    if samples.size and not (samples.min() > -LOUDEST and samples.max() < LOUDEST):
        raise AudioError("nan", f"some samples are not finite, or beyond {LOUDEST:g} times full scale")
    if len(samples) > channels or len(samples) > 2:
        return np.asarray(samples.mean(axis=0, keepdims=True, dtype=np.float32))
    return samples


def _scaled(samples: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Mixed samples as float32 with full scale at FULL_SCALE; `dtype` is what they were before they were mixed."""
    return samples.astype(np.float32) if dtype == np.int16 else samples * np.float32(FULL_SCALE)


def _rounded(samples: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return samples if samples.dtype == np.int16 else _clipped(_scaled(samples, dtype))


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.clip(np.rint(values), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16))
