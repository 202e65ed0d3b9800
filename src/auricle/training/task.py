"""What `Trainer` trains, on which batches, and how it is validated, the same for every family.

In: a model, training and validation clips, the recipe; of a pretrained model also its plan and frozen features. Out: a
TrainingTask, all that `train` needs.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from auricle.evaluation import scoring
from auricle.models import device, torch_runtime
from auricle.models.runtime import ModelInfo
from auricle.preparation import batches
from auricle.preparation.batches import TrainClips
from auricle.preparation.prepare import LabelledClips
from auricle.preparation.windows import Window
from auricle.recipe import Recipe
from auricle.training import frozen_features
from auricle.training.fold import Validation
from auricle.training.freezing import PartiallyFrozenModel, Plan
from auricle.training.frozen_features import ClipView, FrozenFeatureClips, FrozenFeatures


@dataclass(frozen=True)
class TrainingTask:
    """What `Trainer` trains and on what. `validation` is None without validation clips.

    An epoch is chosen only if its validation is better than `to_beat` (as `loop.goodness` has it), where that is given.
    """

    trained_model: nn.Module
    clips: TrainClips | FrozenFeatureClips
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    validation: Validation | None
    to_beat: float | None = None


def waveform_task(
    model: PreTrainedModel, recipe: Recipe, train: LabelledClips, validation: LabelledClips, plan: Plan | None = None
) -> TrainingTask:
    """Train on waveforms: random crops in training, whole clips or windows in validation."""

    def logits() -> np.ndarray:
        # Large encoders are validated in the precision of their training.
        with _autocast(model, plan is not None and device.is_bf16(recipe.train.precision)):
            return scoring.score(model, validation.audio, batch_seconds=recipe.evaluate.batch_seconds)

    return TrainingTask(
        model if plan is None else PartiallyFrozenModel(model, plan),
        TrainClips(train.audio, train.labels, *_crops(model, recipe)),
        batches.collate,
        Validation(validation.labels, recipe.evaluate.top_k, logits) if len(validation) else None,
    )


def frozen_feature_task(
    model: Any,
    recipe: Recipe,
    plan: Plan | None,
    features: FrozenFeatures,
    train: tuple[Sequence[int], np.ndarray],
    validation: tuple[Sequence[int], np.ndarray],
) -> TrainingTask:
    """Train on frozen features; without a plan on log-mel, from which crops are taken. `train` and `validation` are
    clips by their positions in these, and their classes.
    """
    trained_model = model if plan is None else PartiallyFrozenModel(model, plan)
    crops = (
        [None, None]
        if plan is not None
        else [None if size is None else model.front_end.mel.frames(size) for size in _crops(model, recipe)]
    )
    positions, labels = validation

    def window_logits(batch: Sequence[Window]) -> np.ndarray:
        views = [ClipView(positions[window.clip], window.start, window.stop) for window in batch]
        rows = frozen_features.padded([features.read(view) for view in views], torch_runtime.device_of(model))
        return torch_runtime.to_numpy(trained_model(**rows).logits)

    def logits() -> np.ndarray:
        lengths, info = features.lengths[list(positions)], ModelInfo.of_model(model)
        is_mixed_precision = plan is not None and device.is_bf16(recipe.train.precision)
        with _autocast(model, is_mixed_precision), torch_runtime.evaluation_mode(trained_model):
            return scoring.mean_over_windows(info, lengths, recipe.evaluate.batch_seconds, window_logits)

    return TrainingTask(
        trained_model,
        FrozenFeatureClips(features, *train, *crops),
        frozen_features.collate,
        Validation(labels, recipe.evaluate.top_k, logits) if len(positions) else None,
    )


def _crops(model: PreTrainedModel, recipe: Recipe) -> list[int | None]:
    """The longest and the shortest random crop, in samples."""
    seconds = (recipe.train.crop_seconds, recipe.train.min_crop_seconds)
    return [round(one * model.config.sample_rate) if one else None for one in seconds]


def _autocast(model: PreTrainedModel, is_mixed_precision: bool) -> AbstractContextManager[None]:
    return torch.autocast(torch_runtime.device_of(model).type, torch.bfloat16, enabled=is_mixed_precision)
