"""Stock speech encoders of transformers, run in parts, so that frozen layers run once and padding changes nothing.

Each class wraps a stock model and is an Encoder. All weights stay the stock model's own, under its names; features,
embedding, layers (`run_layer`), end and pooling compute in sequence what the stock model computes for each clip alone.
"""

import contextlib
import warnings
from typing import Any, Protocol

import torch
from torch import Tensor

from auricle.models.encoders import spectra
from auricle.models.encoders.conformer import ConformerEncoder
from auricle.models.encoders.fixed_length import ASTEncoder, WhisperEncoder
from auricle.models.encoders.wav2vec2 import LayerContext, Wav2Vec2Encoder

# model_type in config.json → the class that runs it
ARCHITECTURES: dict[str, Any] = {
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
    """What every class of this package has.

    `feature_encoder_name`, `layers_name` and `final_names` are names of modules in the network; `sums_final_output` is
    true where a weighted sum of layers uses the output of `finish` in place of the last layer's.

    `features` computes convolutions or log-mel of waveforms (batch, samples): (batch, feature_frames, feature_size),
    and the real frames of each clip. `embed` projects them and adds positions: (batch, frames, size). `context` is what
    every layer takes in addition, `finish` what follows the last one. `pool` makes (batch, size) float32 of that.
    `real` marks the rows of hidden (batch, rows) that are real audio. `feature_frames` and `frames` are the rows that
    the next part reads, `state_frames` what `features` (depth 0) and `embed` (above) give with theirs.
    """

    layers: Any
    layerdrop: float
    lora_targets: tuple[str, ...]
    sums_final_output: bool
    feature_encoder_name: str | None
    layers_name: str
    final_names: tuple[str, ...]

    def feature_size(self) -> int: ...
    def feature_frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: Tensor) -> Tensor: ...
    def state_frames(self, samples: Tensor, depth: int) -> Tensor: ...
    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]: ...
    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]: ...
    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext: ...
    def finish(self, hidden: Tensor) -> Tensor: ...
    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor: ...
    def real(self, hidden: Tensor, frames: Tensor) -> Tensor: ...


def max_samples(model_type: str, extractor: Any) -> int | None:
    """The samples of the longest clip that a kind of model takes; None where a clip may have any length."""
    if model_type == "whisper":
        return int(extractor.n_samples)
    if model_type == "audio-spectrogram-transformer":
        return int(spectra.FRAME + spectra.HOP * (extractor.max_length - 1))
    return None


def run_layer(encoder: Encoder, number: int, hidden: Tensor, context: LayerContext) -> Tensor:
    """Run one layer: (batch, frames, size) → the same."""
    is_wavlm = "position_bias" in context
    with warnings.catch_warnings() if is_wavlm else contextlib.nullcontext():
        if is_wavlm:
            # transformers passes torch one boolean and one float mask, which torch deprecates.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
        output = encoder.layers[number](hidden, **context)
    hidden = output[0] if isinstance(output, tuple) else output
    return hidden


def final_layer(network: Any, encoder: Encoder) -> int | None:
    """The number of the layer that `finish` follows; None where the network ends before it, as its config says."""
    return None if getattr(network.config, "truncated", False) else len(encoder.layers)


def to_bf16(encoder: Encoder, network: Any) -> None:
    """Convert the weights of an encoder's network to bfloat16 for inference."""
    if isinstance(encoder, Wav2Vec2Encoder):
        encoder.to_bf16(network)
    else:
        network.to(torch.bfloat16)


def depth_of(encoder: Encoder, name: str) -> int:
    """The depth of a weight or module: -1 before the embedding, 0 the embedding, 1 + n layer n and then the head.

    What follows the last layer counts with it.
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


def encoder(network: Any, extractor: Any, whole: bool = True) -> Encoder:
    """Wrap a stock classifier; its config's model_type must be one of ARCHITECTURES.

    Not `whole`, an encoder of a fixed length computes what the clip needs, and marks it.
    """
    kind = ARCHITECTURES[network.config.model_type]
    is_fixed = kind in (ASTEncoder, WhisperEncoder)
    wrapped: Encoder = kind(network, extractor, whole) if is_fixed else kind(network, extractor)
    return wrapped
