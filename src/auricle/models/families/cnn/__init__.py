"""Convolutions over log-mel: the `cnn` family."""

from typing import Literal

import pydantic

from auricle.models.options import HeadOptions, PoolingKind

TRAINING: Literal["gradient"] = "gradient"
TAKES_FEATURES = False
MODEL_TYPES = ("auricle-cnn",)


class Options(pydantic.BaseModel):
    """Options of `family: cnn`. `pooling: null` is the size's own."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    size: Literal["default", "tutorial"] = "default"
    ensemble_baseline: bool = True
    pooling: PoolingKind | None = None
    head: HeadOptions = HeadOptions()
