"""Stock speech encoders of transformers, run in parts, so that frozen layers run once and padding changes nothing.

Each class wraps a stock model and has the same methods, in order: `features` (from waveforms: convolutions or log-mel),
`embed`, `context`, `layer` (one by one), `finish`, `pool`, `classify`. All weights stay the stock model's own, under
its names; in sequence the methods compute what the stock model computes for each clip alone.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from auricle.models.encoders.conformer import ConformerEncoder
from auricle.models.encoders.fixed_length import ASTEncoder, WhisperEncoder
from auricle.models.encoders.wav2vec2 import LayerContext, Wav2Vec2Encoder

# model_type in config.json → the class that runs it
ARCHITECTURES: dict[str, type[Wav2Vec2Encoder] | type[ConformerEncoder] | type[WhisperEncoder] | type[ASTEncoder]] = {
    "audio-spectrogram-transformer": ASTEncoder,
    "data2vec-audio": Wav2Vec2Encoder,
    "hubert": Wav2Vec2Encoder,
    "unispeech": Wav2Vec2Encoder,
    "unispeech-sat": Wav2Vec2Encoder,
    "wav2vec2": Wav2Vec2Encoder,
    "wav2vec2-bert": ConformerEncoder,
    "wavlm": Wav2Vec2Encoder,
    "whisper": WhisperEncoder,
}

HEAD_NAMES = ("projector", "classifier", "layer_weights", "pooling", "head")


class Encoder(Protocol):
    """What every class of this package has. `max_samples` is None where a clip may have any length.

    `feature_encoder_name`, `layers_name` and `final_names` are names of modules in the network; `sums_final_output` is
    true where a weighted sum of layers uses the output of `finish` in place of the last layer's.
    """

    network: Any
    min_samples: int
    layerdrop: float
    lora_targets: tuple[str, ...]
    sums_final_output: bool
    feature_encoder_name: str | None
    layers_name: str
    final_names: tuple[str, ...]

    @staticmethod
    def max_samples(extractor: Any) -> int | None: ...
    @property
    def layers(self) -> nn.ModuleList: ...
    def feature_size(self) -> int: ...
    def feature_frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: Tensor) -> Tensor: ...
    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]: ...
    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]: ...
    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext: ...
    def layer(self, number: int, hidden: Tensor, context: LayerContext) -> Tensor: ...
    def finish(self, hidden: Tensor) -> Tensor: ...
    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor: ...
    def classify(self, vector: Tensor) -> Tensor: ...
    def to_bf16(self) -> None: ...


def depth_of(encoder: Encoder, name: str) -> int:
    """The depth of a weight or module of the network.

    -1 is before the embedding, 0 the embedding, 1 + n layer n; what follows the last layer counts with it, and the head
    comes one after it.
    """
    layers = len(encoder.layers)
    if name.startswith(HEAD_NAMES):
        return layers + 1
    if _within(name, encoder.layers_name):
        number = name.removeprefix(encoder.layers_name).lstrip(".").partition(".")[0]
        return 1 + int(number) if number else layers
    if any(_within(name, final) for final in encoder.final_names):
        return layers
    return -1 if encoder.feature_encoder_name is not None and _within(name, encoder.feature_encoder_name) else 0


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def encoder(network: Any, extractor: Any) -> Encoder:
    """Wrap a stock classifier; its config's model_type must be one of ARCHITECTURES."""
    architecture: Any = ARCHITECTURES[network.config.model_type]
    wrapped: Encoder = architecture(network, extractor)
    return wrapped
