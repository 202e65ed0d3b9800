"""A stock speech encoder with a pooling and a head that stock classifiers do not have, as a model type of its own.

In: the output of the encoder's own feature extractor; waveforms where the statistics of chosen layers are pooled. Out:
logits. A stock class would open such a folder silently with a randomly initialised head; under this type it opens only
after `import auricle`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.encoders import Encoder
from auricle.models.encoders.opening import LayerStatistics, without_head
from auricle.models.features.ridge import CLIP_LIMIT
from auricle.models.layers import heads
from auricle.models.layers.pooling import LayerPooling, Pooling, pooled_size
from auricle.models.options import HeadOptions, PoolingKind


@strict
class Config(PreTrainedConfig):
    """encoder: the whole stock config; pooling and head on top of it; sample_rate in hertz; channels: of the input;
    base_model: the checkpoint that training started from. layers: those whose mean and deviation are pooled, the
    embedding being 0, None for the last one by `pooling`; preprocessor: with layers, the feature extractor's settings.
    """

    model_type = "auricle-encoder"

    encoder: dict[str, Any] | None = None
    pooling: PoolingKind = "mean"
    head: dict[str, Any] | None = None
    sample_rate: int = 16_000
    channels: int = 1
    base_model: str | None = None
    layers: list[int] | tuple[int, ...] | None = None
    preprocessor: dict[str, Any] | None = None


class Model(PreTrainedModel):
    """`network` is a stock classifier without its head; `pooling` and `head` are attached to it."""

    config_class = Config
    main_input_name = "input_values"

    def __init__(self, config: Config, network: Any = None) -> None:
        super().__init__(config)
        if network is None:
            stock = transformers.AutoConfig.for_model(**(config.encoder or {}))
            network = transformers.AutoModelForAudioClassification.from_config(stock)
            if config.layers is None:
                attach(network, config.pooling, HeadOptions(**config.head or {}))
            else:
                attach_layers(network, config.layers)
        else:
            # `post_init` draws the weights of whatever transformers has not opened itself: a trained head, too.
            for module in network.modules():
                module._is_hf_initialized = True
        self.network = network
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, heads.MarginSoftmax):
            module.reset()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Compute logits (batch, classes) of clips without padding, and their cross-entropy where labels are given."""
        if isinstance(self.network.pooling, LayerPooling):
            statistics = self._statistics(inputs["input_values"], inputs.get("attention_mask"), self.config.layers)
            return self._output(self.network.pooling(statistics), labels)
        body = getattr(self.network, "encoder", None) or self.network.base_model
        inputs = {name: value for name, value in inputs.items() if name.startswith("input_")}
        hidden = body(**inputs).last_hidden_state
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return self._output(self.network.pooling(hidden.transpose(1, 2), real), labels)

    @cached_property
    def _statistics(self) -> LayerStatistics:
        return LayerStatistics(self.network, self.config.preprocessor or {})

    def _output(self, pooled: Tensor, labels: Tensor | None) -> SequenceClassifierOutput:
        logits = self.network.head(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def attach(network: Any, kind: PoolingKind, head: HeadOptions) -> None:
    """Replace the pooling and head of a stock classifier."""
    size = network.config.hidden_size
    without_head(network)
    network.pooling = Pooling(kind, size)
    network.head = heads.build_head(head, pooled_size(kind, size), network.config.num_labels)


def attach_layers(network: Any, layers: Sequence[int]) -> None:
    """Replace the pooling and head of a stock classifier by a linear one over the mean and deviation of some layers."""
    size = network.config.hidden_size
    without_head(network)
    network.pooling = LayerPooling(layers, size, CLIP_LIMIT)
    network.head = heads.build_head(HeadOptions(), 2 * size * len(layers), network.config.num_labels)


def truncate(network: Any, encoder: Encoder, layers: int) -> None:
    """Remove the layers above the first `layers`. What follows the last layer stays, unused: the stock class has it."""
    stack = network.get_submodule(encoder.layers_name)
    if layers < len(stack):
        del stack[layers:]
        network.config.num_hidden_layers, network.config.truncated = layers, True
        for name in encoder.final_names:
            if (final := _submodule(network, name)) is not None:
                final.requires_grad_(False)


def _submodule(network: Any, name: str) -> Any:
    parent, _, last = name.rpartition(".")
    return getattr(network.get_submodule(parent), last, None)


def wrapped(network: Any, preprocessor: Mapping[str, Any] | None = None) -> Model:
    """The network as the model that is saved, with the config keys that auricle reads.

    `preprocessor` are the settings of the feature extractor that is part of the model where layers are pooled.
    """
    config = network.config
    options = getattr(network.head, "options", HeadOptions())
    wrapper = Config(
        encoder=config.to_dict(),
        pooling=network.pooling.kind,
        head=options.model_dump(),
        sample_rate=config.sample_rate,
        base_model=config.base_model,
        layers=getattr(network.pooling, "layers", None),
        preprocessor=None if preprocessor is None else dict(preprocessor),
        id2label=config.id2label,
        label2id=config.label2id,
    )
    return Model(wrapper, network)
