"""Options that several families share. Checking a recipe imports this module, so it imports neither torch nor
transformers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pydantic

PoolingKind = Literal["mean", "mean-max", "statistics", "attention"]


class HeadOptions(pydantic.BaseModel):
    """How embeddings become logits. `margin`, `scale` and `warmup` belong to the two margin heads; `warmup` is the
    share of training over which the margin rises from 0.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kind: Literal["softmax", "am-softmax", "aam-softmax"] = "softmax"
    margin: float = pydantic.Field(0.3, ge=0, lt=1.5)
    scale: float = pydantic.Field(15.0, gt=0)
    warmup: float = pydantic.Field(0.0, ge=0, lt=1)


@dataclass(frozen=True)
class ModelSpec:
    """What a fresh model is built for. `sample_rate` is in hertz, or frames a second of precomputed features;
    `num_features` is their width, None for audio.
    """

    sample_rate: int
    channels: int
    labels: tuple[str, ...]
    num_features: int | None = None

    @property
    def config_keys(self) -> dict[str, Any]:
        """The keys of a model's config that hold all this."""
        return {
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "num_features": self.num_features,
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: number for number, label in enumerate(self.labels)},
        }
