"""How a corpus is decoded: the input of the model that will be trained on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How a corpus is heard: the key of its decoded store. `sample_rate` in hertz, lengths in seconds.

    With `bands`, sources hold precomputed features of that width in place of sound, and the rate is frames per second.
    """

    sample_rate: int
    channels: int
    min_seconds: float
    max_seconds: float
    num_features: int | None = None
