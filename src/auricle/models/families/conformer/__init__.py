"""Attention and convolution over log-mel or precomputed features: the `conformer` family."""

from typing import Literal

import pydantic

from auricle.models.options import HeadOptions, PoolingKind

TRAINING: Literal["gradient"] = "gradient"
TAKES_FEATURES = True
MODEL_TYPES = ("auricle-conformer",)


class Options(pydantic.BaseModel):
    """Options of `family: conformer`. `pooling: null` and `head: null` are the size's own."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    size: Literal["default", "tutorial", "reference"] = "default"
    ensemble_baseline: bool = True
    pooling: PoolingKind | None = None
    head: HeadOptions | None = None
