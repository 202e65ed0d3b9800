"""A stock speech encoder with a pooling and a head that stock classifiers do not have, as a model type of its own.

In: the output of the encoder's own feature extractor. Out: logits. A stock class would open such a folder silently with
a randomly initialised head; under this type it opens only after `import auricle`.
"""

from typing import Any

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.layers import heads
from auricle.models.layers.pooling import Pooling, pooled_size
from auricle.models.options import HeadOptions, PoolingKind


@strict
class Config(PreTrainedConfig):
    """encoder: the whole stock config; pooling and head on top of it; sample_rate in hertz; channels: of the input;
    base_model: the checkpoint that training started from.
    """

    model_type = "auricle-encoder"

    encoder: dict[str, Any] | None = None
    pooling: PoolingKind = "mean"
    head: dict[str, Any] | None = None
    sample_rate: int = 16_000
    channels: int = 1
    base_model: str | None = None


class Model(PreTrainedModel):
    """`network` is a stock classifier without its head; `pooling` and `head` are attached to it."""

    config_class = Config
    main_input_name = "input_values"

    def __init__(self, config: Config, network: Any = None) -> None:
        super().__init__(config)
        if network is None:
            stock = transformers.AutoConfig.for_model(**(config.encoder or {}))
            network = transformers.AutoModelForAudioClassification.from_config(stock)
            attach(network, config.pooling, HeadOptions(**config.head or {}))
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
        body = getattr(self.network, "encoder", None) or self.network.base_model
        inputs = {name: value for name, value in inputs.items() if name.startswith("input_")}
        hidden = body(**inputs).last_hidden_state
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        logits = self.network.head(self.network.pooling(hidden.transpose(1, 2), real))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def attach(network: Any, kind: PoolingKind, head: HeadOptions) -> None:
    """Replace the pooling and head of a stock classifier."""
    size = network.config.hidden_size
    for name in ("projector", "classifier"):
        if hasattr(network, name):
            setattr(network, name, None)
    network.pooling = Pooling(kind, size)
    network.head = heads.build_head(head, pooled_size(kind, size), network.config.num_labels)


def wrapped(network: Any) -> Model:
    """The network as the model that is saved, with the config keys that auricle reads."""
    config = network.config
    options = getattr(network.head, "options", HeadOptions())
    wrapper = Config(
        encoder=config.to_dict(),
        pooling=network.pooling.kind,
        head=options.model_dump(),
        sample_rate=config.sample_rate,
        base_model=config.base_model,
        id2label=config.id2label,
        label2id=config.label2id,
    )
    return Model(wrapper, network)
