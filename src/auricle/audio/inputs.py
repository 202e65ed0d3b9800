"""The two kinds of input of a model: audio, and precomputed features. No other module distinguishes them.

In: a source. Out: decoded samples with their faults, the array that a model takes, and what identifies the recording.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio import decode, fingerprint, frames, quality
from auricle.audio.decode import DecodedAudio
from auricle.audio.quality import Finding
from auricle.corpus import tree
from auricle.errors import AudioError

NO_FINGERPRINT = np.zeros(0, np.uint32)


@dataclass(frozen=True)
class SourceSpan:
    """What to decode of a source: its name in messages, the seconds from `start` to `end`, None for its two ends.

    `content` has the source's bytes where they are in memory; `declared_frames` is the corpus's number of frames.
    """

    name: str
    start: float | None = None
    end: float | None = None
    content: bytes | None = None
    declared_frames: str | None = None


@dataclass(frozen=True)
class AudioInput:
    """Audio: int16 (channels, samples) at one rate in hertz."""

    sample_rate: int
    channels: int
    min_seconds: float
    max_seconds: float

    dtype = np.dtype(np.int16)

    @property
    def description(self) -> str:
        return f"audio at {self.sample_rate} Hz"

    def decode(self, source: str, section: SourceSpan) -> tuple[DecodedAudio, tuple[Finding, ...]]:
        """Decode a source and find its faults. Raises AudioError, DataError or OSError where nothing can be decoded."""
        content = tree.read_bytes(source) if section.content is None else section.content
        try:
            audio = decode.decode(
                content, start=section.start, end=section.end, max_seconds=self.max_seconds, name=section.name
            )
        except AudioError as error:
            if section.name.endswith(frames.SUFFIX) and error.kind == "unreadable":
                hint = f"{error.detail}; a .pt file may hold precomputed features, and audio is needed here"
                raise AudioError(error.kind, hint) from error
            raise
        findings = quality.check(audio, name=section.name, min_seconds=self.min_seconds, max_seconds=self.max_seconds)
        return audio, findings

    def convert(self, audio: DecodedAudio) -> np.ndarray:
        """The array that a model takes. Raises AudioError 'nan' for samples that are not finite, or absurdly large."""
        return decode.resample(audio, self.sample_rate, self.channels)

    def channels_of(self, audio: DecodedAudio) -> int:
        return len(audio.samples)

    def identify(self, audio: DecodedAudio, findings: Sequence[Finding]) -> tuple[str, np.ndarray]:
        """The hash of the samples, and the fingerprint by which near duplicates are found."""
        if any(finding.kind == "nan" for finding in findings):
            return "", NO_FINGERPRINT
        return quality.audio_hash(audio), fingerprint.fingerprint(audio.samples, audio.sample_rate)


@dataclass(frozen=True)
class FeatureInput:
    """Precomputed features: float32 (num_features, frames), unscaled, at one rate in frames per second."""

    num_features: int
    frame_rate: int
    min_seconds: float
    max_seconds: float

    dtype = np.dtype(np.float32)

    @property
    def description(self) -> str:
        return f"{self.num_features} precomputed features at {self.frame_rate} frames/s"

    def decode(self, source: str, section: SourceSpan) -> tuple[DecodedAudio, tuple[Finding, ...]]:
        """As `AudioInput.decode`; a file that is too large is not read."""
        content = section.content
        if content is None:
            content = tree.read_bytes(source, frames.max_bytes(self.num_features, self.frame_rate, self.max_seconds))
        features = frames.open_features(
            content, num_features=self.num_features, frame_rate=self.frame_rate, max_seconds=self.max_seconds
        )
        return features, frames.check(features, declared=section.declared_frames, min_seconds=self.min_seconds)

    def convert(self, audio: DecodedAudio) -> np.ndarray:
        """As `AudioInput.convert`."""
        if not np.isfinite(audio.samples).all():
            raise AudioError("nan", "some values of the frames are not finite")
        return audio.samples

    def channels_of(self, audio: DecodedAudio) -> int:
        return 1

    def identify(self, audio: DecodedAudio, findings: Sequence[Finding]) -> tuple[str, np.ndarray]:
        """The hash of the values; features have no fingerprint."""
        return frames.content_hash(audio), NO_FINGERPRINT


def describe_content(num_features: int | None) -> str:
    """What a corpus or a model holds, in words, where no rate is known."""
    return "audio" if num_features is None else f"{num_features} precomputed features per frame"
