"""How a corpus is decoded: the input of the model that will be trained on it."""

from dataclasses import dataclass

from auricle.audio.inputs import AudioInput, FeatureInput


@dataclass(frozen=True)
class Settings:
    """The decoding settings of a corpus, which are part of its store's key. `sample_rate` in hertz, lengths in seconds.

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
    def input(self) -> AudioInput | FeatureInput:
        """The kind of input, which decodes, converts and describes itself."""
        if self.num_features is None:
            return AudioInput(self.sample_rate, self.channels, self.min_seconds, self.max_seconds)
        return FeatureInput(self.num_features, self.sample_rate, self.min_seconds, self.max_seconds)
