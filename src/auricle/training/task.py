"""What `Trainer` trains, on which batches, and how it is validated, the same for every family.

In: a model, training and validation clips, the recipe; of a pretrained model also its plan and frozen features. Out: a
TrainingTask, all that `train` needs.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from auricle.evaluation import metrics, scoring
from auricle.models import torch_runtime
from auricle.models.device import is_bf16
from auricle.preparation import batches
from auricle.preparation.batches import TrainClips
from auricle.preparation.prepare import LabelledClips
from auricle.preparation.windows import Window
from auricle.recipe import Recipe
from auricle.training import frozen_features
from auricle.training.freezing import PartiallyFrozenModel, Plan
from auricle.training.frozen_features import ClipView, FrozenFeatureClips, FrozenFeatures


class Validation(Protocol):
    """The validation clips, scored by the model as it is now."""

    def logits(self) -> np.ndarray:
        """Logits (clips, classes)."""

    def metrics(self) -> dict[str, float]:
        """Every metric of these logits, by name."""


@dataclass(frozen=True)
class TrainingTask:
    """What `Trainer` trains and on what. `validation` is None without validation clips, `plan` where all is trained."""

    trained_model: nn.Module
    clips: Dataset[Any]
    lengths: np.ndarray
    labels: np.ndarray
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    validation: Validation | None
    plan: Plan | None = None


@dataclass(frozen=True)
class WaveformValidation:
    """Validation on whole clips or windows. Large encoders are validated in the precision of their training."""

    model: PreTrainedModel
    clips: LabelledClips
    recipe: Recipe
    is_mixed_precision: bool

    def logits(self) -> np.ndarray:
        with _autocast(self.model, self.is_mixed_precision):
            return scoring.score(self.model, self.clips.audio, batch_seconds=self.recipe.evaluate.batch_seconds)

    def metrics(self) -> dict[str, float]:
        return _metrics(self.clips.labels, self.logits(), self.recipe)


@dataclass(frozen=True)
class FrozenFeatureValidation:
    """Validation from what the frozen part gave; `clips` are positions in it."""

    model: PartiallyFrozenModel
    features: FrozenFeatures
    clips: Sequence[int]
    labels: np.ndarray
    recipe: Recipe

    def logits(self) -> np.ndarray:
        config = self.model.model.config
        windows = scoring.windows_of(config, self.features.lengths[list(self.clips)])
        batch_samples = round(self.recipe.evaluate.batch_seconds * config.sample_rate)
        is_mixed_precision = is_bf16(self.recipe.train.precision)
        with _autocast(self.model.model, is_mixed_precision), torch_runtime.evaluation_mode(self.model):
            return scoring.mean_over_windows(windows, batch_samples, self._window_logits)

    def _window_logits(self, batch: Sequence[Window]) -> np.ndarray:
        views = [ClipView(self.clips[window.clip], window.start, window.stop) for window in batch]
        device = next(self.model.parameters()).device
        return torch_runtime.to_numpy(self.model(**self.features.batch(views, device)).logits)

    def metrics(self) -> dict[str, float]:
        return _metrics(self.labels, self.logits(), self.recipe)


def waveform_task(
    model: PreTrainedModel, recipe: Recipe, train: LabelledClips, validation: LabelledClips, plan: Plan | None = None
) -> TrainingTask:
    """Train on waveforms: random crops in training, whole clips or windows in validation."""
    rate, min_seconds = model.config.sample_rate, recipe.train.min_crop_seconds
    clips = TrainClips(
        train.audio, train.labels, crop_samples(recipe, rate), round(min_seconds * rate) if min_seconds else None
    )
    is_mixed_precision = plan is not None and is_bf16(recipe.train.precision)
    return TrainingTask(
        model if plan is None else PartiallyFrozenModel(model, plan),
        clips,
        clips.lengths,
        train.labels,
        batches.collate,
        WaveformValidation(model, validation, recipe, is_mixed_precision) if len(validation) else None,
        plan,
    )


def frozen_feature_task(
    model: Any,
    recipe: Recipe,
    plan: Plan,
    features: FrozenFeatures,
    train: tuple[Sequence[int], np.ndarray],
    validation: tuple[Sequence[int], np.ndarray],
) -> TrainingTask:
    """Train on frozen features. `train` and `validation` are clips by their positions in these, and their classes."""
    trained_model = PartiallyFrozenModel(model, plan)
    clips = FrozenFeatureClips(features, *train)
    return TrainingTask(
        trained_model,
        clips,
        clips.lengths,
        train[1],
        frozen_features.collate,
        FrozenFeatureValidation(trained_model, features, *validation, recipe) if len(validation[0]) else None,
        plan,
    )


def crop_samples(recipe: Recipe, sample_rate: int) -> int | None:
    """The recipe's training crop in samples."""
    return round(recipe.train.crop_seconds * sample_rate) if recipe.train.crop_seconds else None


def _metrics(labels: np.ndarray, logits: np.ndarray, recipe: Recipe) -> dict[str, float]:
    return metrics.compute_metrics(metrics.evaluate_logits(labels, logits, recipe.evaluate.top_k))


def _autocast(model: Any, is_mixed_precision: bool) -> contextlib.AbstractContextManager[None]:
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=is_mixed_precision)
