"""How a corpus is decoded: the input of the model that will be trained on it, audio or precomputed features.

In: decoded samples. Out: the array that a model takes, and what identifies the recording.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio import decode, fingerprint, frames, quality
from auricle.audio.decode import DecodedAudio
from auricle.audio.quality import Finding
from auricle.errors import AudioError

NO_FINGERPRINT = np.zeros(0, np.uint32)


@dataclass(frozen=True)
class Settings:
    """The decoding settings of a corpus, which are part of its store's key. `sample_rate` in hertz, lengths in seconds.

    A rate of 0 leaves each recording at its own.
    With `num_features`, sources have precomputed features of that width, and the rate is frames per second.
    """

    sample_rate: int
    channels: int
    min_seconds: float
    max_seconds: float
    num_features: int | None = None

    @property
    def is_audio(self) -> bool:
        """Whether the input can be played, resampled and streamed."""
        return self.num_features is None

    @property
    def dtype(self) -> np.dtype:
        """Of a model's input: int16 (channels, samples), or float32 (num_features, frames), unscaled."""
        return np.dtype(np.int16 if self.is_audio else np.float32)

    def convert(self, audio: DecodedAudio) -> np.ndarray:
        """The array that a model takes. Raises AudioError 'nan' for samples that are not finite, or absurdly large."""
        if self.is_audio:
            return decode.resample(audio, self.sample_rate or audio.sample_rate, self.channels)
        if not np.isfinite(audio.samples).all():
            raise AudioError("nan", "some values of the frames are not finite")
        return audio.samples

    def identify(self, audio: DecodedAudio, findings: Sequence[Finding]) -> tuple[str, np.ndarray]:
        """The hash of the samples, and the fingerprint by which near duplicates are found; features have none."""
        if not self.is_audio:
            return frames.content_hash(audio), NO_FINGERPRINT
        if any(finding.kind == "nan" for finding in findings):
            return "", NO_FINGERPRINT
        return quality.audio_hash(audio), fingerprint.fingerprint(audio.samples, audio.sample_rate)


def describe_content(num_features: int | None) -> str:
    """What a corpus or a model holds, in words, where no rate is known."""
    return "audio" if num_features is None else f"{num_features} precomputed features per frame"
