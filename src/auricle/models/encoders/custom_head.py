"""A stock speech encoder with a pooling and a head that stock classifiers do not have, as a model type of its own.

In: what the encoder's own feature extractor gives. Out: logits. A stock class would open such a folder without a word
and answer with a head made of noise; under this type it opens after `import auricle`, and nowhere else.
"""

from typing import Any

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.layers import heads, pooling
from auricle.models.layers.heads import Head
from auricle.models.layers.pooling import Pooling, PoolingKind


@strict
class Config(PreTrainedConfig):
    """The stock config, whole, and what stands on it."""

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
            attach(network, config.pooling, Head(**config.head or {}))
        self.network = network
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, heads.MarginSoftmax):
            module.reset()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, labels: Tensor | None = None, **heard: Any) -> SequenceClassifierOutput:
        """Give logits (batch, classes) of clips without padding, and their cross-entropy where labels are given."""
        body = getattr(self.network, "encoder", None) or self.network.base_model
        heard = {name: value for name, value in heard.items() if name.startswith("input_")}
        hidden = body(**heard).last_hidden_state
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        logits = self.network.head(self.network.pooling(hidden.transpose(1, 2), real))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def attach(network: Any, kind: PoolingKind, head: Head) -> None:
    """Put a pooling and a head into a stock classifier, in the place of its own."""
    width = network.config.hidden_size
    for name in ("projector", "classifier"):
        if hasattr(network, name):
            setattr(network, name, None)
    network.pooling = Pooling(kind, width)
    network.head = heads.make(head, pooling.width(kind, width), network.config.num_labels)


def is_headed(network: Any) -> bool:
    """Whether `attach` has been here."""
    return hasattr(network, "pooling") and isinstance(network.pooling, Pooling)


def wrapped(network: Any) -> Model:
    """The model that is saved: the network under its own type, with what a reader of the config looks for."""
    config = network.config
    options = getattr(network.head, "options", Head())
    ours = Config(
        encoder=config.to_dict(),
        pooling=network.pooling.kind,
        head=options.model_dump(),
        sample_rate=config.sample_rate,
        base_model=config.base_model,
        id2label=config.id2label,
        label2id=config.label2id,
    )
    return Model(ours, network)
