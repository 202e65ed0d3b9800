"""Stock speech encoders of transformers, run in parts, so that what is frozen runs once and padding changes nothing.

Each class here is a view of a stock model and has the same parts, in order: `features` (what no layer of a transformer
sees, from waveforms), `embed`, `context`, `layer` (one by one), `last`, `summary`, `classify`. All weights stay the
stock model's own, under its names; chained together the parts give what the stock model gives for each clip alone.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from auricle.models.encoders.conformer import Conformer
from auricle.models.encoders.fixed_length import Patches, Whisper
from auricle.models.encoders.wav2vec2 import Waves

# model_type of the config → the class that runs it
ARCHITECTURES: dict[str, type[Waves] | type[Conformer] | type[Whisper] | type[Patches]] = {
    "audio-spectrogram-transformer": Patches,
    "data2vec-audio": Waves,
    "hubert": Waves,
    "unispeech": Waves,
    "unispeech-sat": Waves,
    "wav2vec2": Waves,
    "wav2vec2-bert": Conformer,
    "wavlm": Waves,
    "whisper": Whisper,
}

HEAD = ("projector", "classifier", "layer_weights", "pooling", "head")


class Encoder(Protocol):
    """What every class of this package has. `longest` is None where a clip may have any length."""

    network: Any
    least_samples: int
    layerdrop: float
    lora_targets: tuple[str, ...]
    sums_last: bool
    front_name: str | None
    layers_name: str
    ending_names: tuple[str, ...]

    @staticmethod
    def longest(extractor: Any) -> int | None: ...
    @property
    def layers(self) -> nn.ModuleList: ...
    def feature_width(self) -> int: ...
    def feature_frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: Tensor) -> Tensor: ...
    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]: ...
    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]: ...
    def context(self, hidden: Tensor, frames: Tensor) -> dict[str, Any]: ...
    def layer(self, number: int, hidden: Tensor, context: dict[str, Any]) -> Tensor: ...
    def last(self, hidden: Tensor) -> Tensor: ...
    def summary(self, hidden: Tensor, frames: Tensor) -> Tensor: ...
    def classify(self, vector: Tensor) -> Tensor: ...
    def to_bf16(self) -> None: ...


def place(encoder: Encoder, name: str) -> int:
    """Where in the network a weight or module of this name works.

    -1 is before the embedding, 0 the embedding, 1 + n layer n; what finishes the encoder counts with its last layer,
    and the head comes one after it.
    """
    layers = len(encoder.layers)
    if name.startswith(HEAD):
        return layers + 1
    if _within(name, encoder.layers_name):
        number = name.removeprefix(encoder.layers_name).lstrip(".").partition(".")[0]
        return 1 + int(number) if number else layers
    if any(_within(name, ending) for ending in encoder.ending_names):
        return layers
    return -1 if encoder.front_name is not None and _within(name, encoder.front_name) else 0


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def encoder(network: Any, extractor: Any) -> Encoder:
    """The view of a stock classifier; its config's model_type must be one of ARCHITECTURES."""
    made: Any = ARCHITECTURES[network.config.model_type]
    found: Encoder = made(network, extractor)
    return found
