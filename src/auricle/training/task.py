"""One fold's lesson, whatever the family: what is trained, on which batches, and how it is judged.

In: a model, clips to learn and to choose from, the recipe; of a pretrained model also its plan and prefix. Out: a
Course, all that `train` needs to know. A model that is trained whole is its own learner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from auricle.evaluation import metrics, scoring
from auricle.models import precision, torch_runtime
from auricle.preparation import batches
from auricle.preparation.batches import TrainClips
from auricle.preparation.windows import AudioSource, Window
from auricle.recipe import Recipe
from auricle.training import frozen_features
from auricle.training.freezing import PartiallyFrozenModel, Plan
from auricle.training.frozen_features import FrozenFeatureClips, FrozenFeatures, View


@dataclass(frozen=True)
class LabelledClips:
    """Clips to learn or to choose from, and each one's class: labels (clips,) int64."""

    sounds: AudioSource
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.sounds)


@dataclass(frozen=True)
class TrainingTask:
    """What `Trainer` trains and on what. `validate` is None without a validation part; `plan` where all is trained.

    `score` gives the validation clips' logits (clips, classes), by whose metrics `validate` answers.
    """

    learner: nn.Module
    clips: Dataset[dict[str, Any]]
    lengths: np.ndarray
    labels: np.ndarray
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]
    validate: Callable[[], dict[str, float]] | None
    plan: Plan | None = None
    score: Callable[[], np.ndarray] | None = None


def whole(
    model: PreTrainedModel, recipe: Recipe, learn: LabelledClips, choose: LabelledClips, plan: Plan | None = None
) -> TrainingTask:
    """Learn from waveforms: random crops in training, whole clips or windows in validation."""
    rate, least = model.config.sample_rate, recipe.train.min_crop_seconds
    clips = TrainClips(learn.sounds, learn.labels, crop(recipe, rate), round(least * rate) if least else None)
    learner = model if plan is None else PartiallyFrozenModel(model, plan)

    def score() -> np.ndarray:
        with _autocast(model, recipe, plan is not None):
            return scoring.score(model, choose.sounds, batch_seconds=recipe.evaluate.batch_seconds)

    if not len(choose):
        return TrainingTask(learner, clips, clips.lengths, learn.labels, batches.collate, None, plan)
    judge = _judge(score, choose.labels, recipe)
    return TrainingTask(learner, clips, clips.lengths, learn.labels, batches.collate, judge, plan, score)


def from_prefix(
    model: Any,
    recipe: Recipe,
    plan: Plan,
    computed: FrozenFeatures,
    learn: tuple[Sequence[int], np.ndarray],
    choose: tuple[Sequence[int], np.ndarray],
) -> TrainingTask:
    """Learn from what the frozen part gave. `learn` and `choose` are clips by their places in it, and their classes."""
    learner = PartiallyFrozenModel(model, plan)
    clips = FrozenFeatureClips(computed, *learn)
    asked, truth = choose

    def score() -> np.ndarray:
        cut = scoring.windows_of(model.config, computed.lengths[list(asked)])

        def answer(batch: Sequence[Window]) -> np.ndarray:
            views = [View(asked[window.clip], window.start, window.stop) for window in batch]
            device = next(learner.parameters()).device
            return torch_runtime.plain(learner(**computed.batch(views, device)).logits)

        with _autocast(model, recipe, True), torch_runtime.judging(learner):
            return scoring.over(cut, round(recipe.evaluate.batch_seconds * model.config.sample_rate), answer)

    if not len(asked):
        return TrainingTask(learner, clips, clips.lengths, learn[1], frozen_features.collate, None, plan)
    judge = _judge(score, truth, recipe)
    return TrainingTask(learner, clips, clips.lengths, learn[1], frozen_features.collate, judge, plan, score)


def crop(recipe: Recipe, sample_rate: int) -> int | None:
    """The recipe's training crop in samples."""
    return round(recipe.train.crop_seconds * sample_rate) if recipe.train.crop_seconds else None


def _judge(score: Callable[[], np.ndarray], labels: np.ndarray, recipe: Recipe) -> Callable[[], dict[str, float]]:
    return lambda: metrics.measure(metrics.judge(labels, score(), recipe.evaluate.top_k))


def _autocast(model: Any, recipe: Recipe, wanted: bool) -> Any:
    """Judge large encoders in the precision of their training, and small networks in the one they will answer in."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=wanted and precision.is_bf16(recipe.train.precision))
