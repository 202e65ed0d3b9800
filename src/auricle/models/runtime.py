"""What scoring needs of a model, in PyTorch or exported: NumPy arrays in, NumPy arrays out, and its settings.

In: a PyTorch model or an OnnxModel. Out: a Runtime. This module imports no torch: an exported model runs without it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from auricle import __version__
from auricle.errors import RunError


@dataclass(frozen=True)
class ModelInfo:
    """The settings of a model; seconds, hertz and probabilities. `auricle_version` wrote or opened it.

    `num_features` is the width of precomputed features, None for audio. `temperature` is already in the logits.
    `median_clip_seconds` and `min_clip_seconds` (the shortest allowed) are of the training clips. Batches of
    `batch_seconds` of padded audio are the fastest.
    """

    labels: tuple[str, ...]
    model_type: str
    sample_rate: int
    channels: int
    num_features: int | None = None
    temperature: float = 1.0
    window_seconds: float | None = None
    overlap: float = 0.0
    median_clip_seconds: float | None = None
    min_clip_seconds: float | None = None
    threshold: float | None = None
    max_false_accept_rate: float | None = None
    batch_seconds: float | None = None
    precision: str = "float32"
    auricle_version: str = __version__

    @classmethod
    def of_model(cls, model: Any, precision: str = "float32") -> "ModelInfo":
        """The settings in the config of a PyTorch model."""
        config = model.config
        optional = ("num_features", "window_seconds", "median_clip_seconds", "min_clip_seconds", "threshold")
        settings: Any = {name: getattr(config, name, None) for name in (*optional, "max_false_accept_rate")}
        return cls(
            labels=tuple(config.id2label[number] for number in range(config.num_labels)),
            model_type=config.model_type,
            sample_rate=config.sample_rate,
            channels=config.channels,
            temperature=getattr(config, "logit_temperature", None) or 1.0,
            overlap=getattr(config, "overlap", None) or 0.0,
            batch_seconds=model.batch_seconds,
            precision=precision,
            **settings,
        )

    def to_metadata(self) -> dict[str, str]:
        """The metadata of an exported file: one JSON text per field."""
        return {field.name: json.dumps(getattr(self, field.name), ensure_ascii=False) for field in fields(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> "ModelInfo":
        """Read what `to_metadata` wrote. Raises RunError for the metadata of any other file."""
        names = {field.name for field in fields(cls)}
        try:
            values = {name: json.loads(text) for name, text in metadata.items() if name in names}
            return cls(**{**values, "labels": tuple(values["labels"])})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"'{path}' is no export of auricle: its metadata lacks a setting that a classifier needs ({error}). "
                "`auricle export RUN --onnx` makes one."
            ) from error

    def batch_samples(self, max_seconds: float) -> int:
        """The padded samples of one batch: at most `max_seconds`, fewer where the model is faster with fewer."""
        return round(min(max_seconds, self.batch_seconds or max_seconds) * self.sample_rate)


class Runtime(Protocol):
    """A model that runs. Values are (batch, samples) or (batch, channels or features, samples or frames), float32,
    padded on the right; lengths (batch,) are without the padding.
    """

    @property
    def info(self) -> ModelInfo: ...

    def logits(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) float32."""

    def vectors(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Vectors (batch, size) float32 of length 1, to be compared by cosine."""
