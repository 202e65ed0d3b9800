"""How a corpus is decoded: the input of the model that will be trained on it."""

from dataclasses import dataclass


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
