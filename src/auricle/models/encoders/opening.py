"""Any frozen encoder by its name: what it takes, its network, and the pooled statistics of every layer.

In: a Hub name, a short name, a folder or a file. Out: a LayerStatistics, the same for the encoders of transformers and
for EfficientAT's networks. `network` holds the weights; a saved model rebuilds it from its config.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from auricle.models import catalogue
from auricle.models.checkpoint import base_model, open_checkpoint, read_config, read_extractor
from auricle.models.encoders import efficientat, encoder, final_layer, max_samples, published, run_layer
from auricle.models.layers import masking
from auricle.models.layers.pooling import Pooling

# How much padded audio a processor's cache holds, and an accelerator.
CPU_BATCH_SECONDS, ACCELERATOR_BATCH_SECONDS = 8.0, 120.0


@dataclass(frozen=True)
class Description:
    """What an encoder takes: hertz, seconds of the longest clip (None without a limit); and how many layers it has."""

    sample_rate: int
    max_seconds: float | None
    layers: int


@dataclass(frozen=True)
class OpenEncoder:
    """An encoder's network, the settings that rebuild it, its name on the Hub if it has one, and notes for the user."""

    network: nn.Module
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    name: str | None
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A short hash of all weights: two networks with the same give the same statistics."""
        code = hashlib.blake2b(digest_size=12)
        for name, tensor in sorted(self.network.state_dict().items()):
            code.update(name.encode())
            code.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return code.hexdigest()

    @cached_property
    def layer_sizes(self) -> list[int]:
        """The width of each layer's statistics."""
        return LayerStatistics(self.network, self.preprocessor).sizes()


def describe(checkpoint: str, revision: str | None, preprocessor: Mapping[str, Any]) -> Description:
    """What a checkpoint takes, without opening its weights where it is a model of transformers."""
    if _published(checkpoint) is not None:
        network: Any = shared_encoder(checkpoint, revision, preprocessor, allow_pickle=False).network
        return Description(int(network.config.sample_rate), None, len(network.features) + 2)
    config = read_config(checkpoint, revision)
    extractor = read_extractor(checkpoint, config, preprocessor, revision)
    samples, rate = max_samples(config.model_type, extractor), int(extractor.sampling_rate)
    return Description(rate, None if samples is None else samples / rate, 1 + int(config.num_hidden_layers))


def shared_encoder(
    checkpoint: str, revision: str | None, preprocessor: Mapping[str, Any], allow_pickle: bool
) -> OpenEncoder:
    """An encoder with its weights, opened once while its files stay the same: nothing may change the network.

    Raises UsageError as `open_checkpoint` and `open_network` do.
    """
    path = Path(checkpoint).expanduser()
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    state = tuple((file.name, status.st_size, status.st_mtime_ns) for file in files if (status := file.stat()))
    return _shared(checkpoint, revision, json.dumps(preprocessor, sort_keys=True), allow_pickle, state)


# A run compares the probes of two encoders at most.
@functools.lru_cache(maxsize=2)
def _shared(checkpoint: str, revision: str | None, preprocessor: str, allow_pickle: bool, _: object) -> OpenEncoder:
    return _open(checkpoint, revision, json.loads(preprocessor), allow_pickle)


def _open(checkpoint: str, revision: str | None, preprocessor: Mapping[str, Any], allow_pickle: bool) -> OpenEncoder:
    if (path := _published(checkpoint)) is not None:
        network = published.open_network(path)
        return OpenEncoder(network, network.config.to_dict(), {}, path.stem)
    opened = open_checkpoint(
        checkpoint, ("a", "b"), preprocessor=preprocessor, revision=revision, allow_pickle=allow_pickle
    )
    notes = tuple(note for note in opened.notes if "head" not in note)
    config = opened.network.config
    return OpenEncoder(
        without_head(opened.network), config.to_dict(), opened.extractor.to_dict(), base_model(checkpoint), notes
    )


def rebuild(config: Mapping[str, Any]) -> nn.Module:
    """A network with the shapes that an OpenEncoder's config describes; its weights come from a file."""
    if config["model_type"] == efficientat.Config.model_type:
        return efficientat.Model(efficientat.Config.from_dict(dict(config)))
    stock = transformers.AutoConfig.for_model(**config)
    return without_head(transformers.AutoModelForAudioClassification.from_config(stock))


def without_head(network: Any) -> nn.Module:
    """A stock classifier without the layers that follow its encoder."""
    for name in ("projector", "classifier"):
        if hasattr(network, name):
            setattr(network, name, None)
    module: nn.Module = network
    return module


def extractor_of(preprocessor: Mapping[str, Any]) -> Any:
    """The feature extractor with these settings."""
    kind = getattr(transformers, str(preprocessor["feature_extractor_type"]))
    return kind.from_dict(dict(preprocessor))


class LayerStatistics:
    """Mean and deviation over real frames of every layer of a network.

    Layer 0 is the embedding (the stem of EfficientAT), which the layers follow; EfficientAT's last two are its clip
    embedding and its scores of AudioSet's classes, as they are.
    """

    def __init__(self, network: Any, preprocessor: Mapping[str, Any]) -> None:
        self.network = network
        self.encoder = None
        if not isinstance(network, efficientat.Model):
            # Whisper and AST run over the clip alone: their silence tells nothing.
            self.encoder = encoder(network, extractor_of(preprocessor), whole=False)
            self.pooling = Pooling("statistics", network.config.hidden_size)

    def __len__(self) -> int:
        return 1 + len(self.encoder.layers) if self.encoder is not None else len(self.network.features) + 2

    def __call__(
        self, input_values: Tensor, attention_mask: Tensor | None, layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The statistics (batch, size) of some layers, or all, of waveforms (batch, samples) at the encoder's rate."""
        wanted = range(len(self)) if layers is None else layers
        if self.encoder is None:
            parts = self.network.layer_statistics(input_values, attention_mask)
            return [parts[layer] for layer in wanted]
        lengths = masking.lengths(input_values, attention_mask)
        hidden, frames = self.encoder.embed(*self.encoder.features(input_values, lengths))
        context = self.encoder.context(hidden, frames)
        real = self.encoder.real(hidden, frames)
        found: dict[int, Tensor] = {}
        for layer in range(max(wanted) + 1):
            hidden = run_layer(self.encoder, layer - 1, hidden, context) if layer else hidden
            output = self.encoder.finish(hidden) if layer == final_layer(self.network, self.encoder) else hidden
            if layer in wanted:
                found[layer] = self.pooling(output.float().transpose(1, 2), real)
        return [found[layer] for layer in wanted]

    def sizes(self) -> list[int]:
        """The width of each layer's statistics."""
        rate = int(getattr(self.network.config, "sample_rate", 0) or 16_000)
        with torch.no_grad():
            parts = self(torch.zeros(1, rate // 2, device=next(self.network.parameters()).device), None)
        return [part.shape[1] for part in parts]

    @property
    def batch_seconds(self) -> float:
        on_cpu = next(self.network.parameters()).device.type == "cpu"
        return CPU_BATCH_SECONDS if on_cpu else ACCELERATOR_BATCH_SECONDS


def _published(checkpoint: str) -> Path | None:
    """The file or folder of an EfficientAT network, None for any other checkpoint."""
    entry = next((entry for entry in catalogue.ENCODERS if entry.name == checkpoint and not entry.is_on_hub), None)
    if entry is not None:
        return catalogue.weights_file(checkpoint)
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    files = sorted(path.glob("mn*_as*.safetensors")) if path.is_dir() and not (path / "config.json").is_file() else []
    return files[0] if files else None
