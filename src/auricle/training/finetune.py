"""Fine-tuning a pretrained model: the frozen part is computed once for all folds, the rest is trained.

In: a PreparedCorpus whose recipe names a checkpoint. Out: for each fold the fine-tuned model. Test clips are scored by
the model folder that was saved, as prediction will open it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auricle.evaluation import scoring
from auricle.models.device import is_bf16
from auricle.models.families.pretrained import Options
from auricle.models.load import build_model, load_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.training import freezing, frozen_features, tracking
from auricle.training.fold import FoldData, Scorer, TrainedFold, fit_temperature
from auricle.training.freezing import PartiallyFrozenModel, PartSummary, Plan
from auricle.training.frozen_features import CropPlan, FrozenFeatures
from auricle.training.progress import ProgressReporter
from auricle.training.task import TrainingTask, crop_samples, frozen_feature_task, waveform_task
from auricle.training.train import train


@dataclass(frozen=True)
class FineTuning:
    """Fine-tunes the checkpoint on each fold. `positions` are the clips' in `features`, by id.

    `frozen_seconds` is the time that computing the frozen part took.
    """

    corpus: PreparedCorpus
    options: Options
    plan: Plan
    features: FrozenFeatures | None
    positions: dict[str, int]
    frozen_seconds: float

    @classmethod
    def prepare(cls, corpus: PreparedCorpus, options: Options, reporter: ProgressReporter) -> "FineTuning":
        """Compute the frozen part of the model for the clips of all folds."""
        model = build_model(corpus.recipe, corpus.labels, options)
        plan = freezing.plan(model, options, corpus.recipe.train.learning_rate)
        for note in model.notes:
            reporter.message(note)
        folds = corpus.split.folds
        ids = [clip.id for clip in corpus.usable]
        if len(folds) == 1:
            needed = {*folds[0].train, *folds[0].valid}
            ids = [id for id in ids if id in needed]
        start = time.perf_counter()
        features = _frozen_features(corpus, ids, model, options, plan, reporter)
        seconds = time.perf_counter() - start
        return cls(corpus, options, plan, features, {id: number for number, id in enumerate(ids)}, seconds)

    def train(self, data: FoldData) -> TrainedFold:
        model = build_model(data.recipe, self.corpus.labels, self.options)
        adapters = None
        if self.options.lora is not None:
            adapters = freezing.add_adapters(model, self.options, self.plan)
        task = self._task(data, model)
        if not data.folder.checkpoints.exists():
            report_parts(task.trained_model, data.reporter)
        with tracking.tracked(data.recipe, data.folder.path):
            summary = train(model, data.recipe, task, data.folder, data.report_epoch)
        if adapters is not None:
            freezing.merge_adapters(adapters)
        validation_logits = None
        if task.validation is not None:
            temperature, validation_logits = fit_temperature(data, model, task.validation.logits())
            summary = replace(summary, temperature=temperature)
        return TrainedFold(model, summary, validation_logits)

    def _task(self, data: FoldData, model: Any) -> TrainingTask:
        if self.features is None:
            return waveform_task(model, data.recipe, data.train, data.validation, self.plan)
        train, validation = (
            ([self.positions[id] for id in ids], data.corpus.classes(ids)) for ids in (data.fold.train, data.fold.valid)
        )
        return frozen_feature_task(model, data.recipe, self.plan, self.features, train, validation)

    def scorer(self, trained: TrainedFold, model_folder: Path) -> Scorer:
        return Scorer(load_model(model_folder, self.corpus.recipe.train.precision), self.corpus)


def report_parts(model: Any, reporter: ProgressReporter) -> None:
    """Report which parts are trained, their weights, and from which epoch on."""
    assert isinstance(model, PartiallyFrozenModel)
    parts = _joined(freezing.summarize(model))
    total = sum(part.weights for part in parts)
    trained = sum(part.weights for part in parts if part.first_epoch is not None)
    width = max(len(part.part) for part in parts)
    reporter.message(f"Trained: {trained:,} of {total:,} weights ({trained / total:.1%}).")
    for part in parts:
        when = "frozen" if part.first_epoch is None else f"trained from epoch {part.first_epoch}"
        reporter.message(f"  {part.part:{width}}  {part.weights:>12,}  {when}")


def _joined(parts: Sequence[PartSummary]) -> list[PartSummary]:
    """Neighbouring layers of one kind as one part."""
    joined: list[PartSummary] = []
    for part in parts:
        kind, _, number = part.part.rpartition(" ")
        last = joined[-1] if joined else None
        if kind and last is not None and last.part.startswith(kind) and last.first_epoch == part.first_epoch:
            first = last.part.removeprefix(kind).strip(" s").partition("-")[0]
            joined[-1] = PartSummary(f"{kind} {first}-{number}", last.weights + part.weights, part.first_epoch)
        else:
            joined.append(part)
    return joined


def _frozen_features(
    corpus: PreparedCorpus, ids: list[str], model: Any, options: Options, plan: Plan, reporter: ProgressReporter
) -> FrozenFeatures | None:
    """The frozen part's output for these clips; None, with a message, where it cannot be computed once."""
    recipe = corpus.recipe
    depth = freezing.frozen_depth(model, plan)
    if not options.cache_frozen:
        reporter.message("The frozen part runs in every step, because model.cache_frozen is false.")
        return None
    if depth is None:
        reporter.message("Everything is trained: no part can be computed once.")
        return None
    audio = corpus.audio(ids)
    trained_ids = {id for fold in corpus.split.folds for id in fold.train}
    trained = [number for number, id in enumerate(ids) if id in trained_ids]
    crop = crop_samples(recipe, model.config.sample_rate)
    crops = CropPlan(crop, recipe.augment, options.cached_crops, recipe.train.seed)
    features = frozen_features.layout(
        model,
        depth,
        audio,
        scoring.windows_of(model.config, audio.lengths),
        trained,
        crops,
        bf16=is_bf16(recipe.train.precision),
        folder=corpus.store.folder,
        identity=" ".join([corpus.store.folder.name, *ids]),
    )
    size = f"{math.ceil(features.shards.bytes / 1e6):,} MB"
    if not frozen_features.fits_on_disk(features):
        reporter.message(
            f"The frozen part runs in every step: caching its output takes {size}, and the disk has less free."
        )
        return None
    reporter.message(
        f"{_frozen_part(model, depth)} computed once for {len(ids)} clips: {size} in {features.shards.folder}."
    )
    if any(len(crops.views(clip, int(audio.lengths[clip]))) > 1 for clip in trained):
        reporter.message(f"Training uses {options.cached_crops} cached variants of each clip (model.cached_crops).")
    frozen_features.compute(features, model, depth, audio, reporter.progress)
    return features


def _frozen_part(model: Any, depth: int) -> str:
    if depth == 0:
        return "The part before the embedding is"
    if depth == 1:
        return "The part before layer 1 is frozen and is"
    return f"Everything up to layer {depth - 1} of {len(model.encoder.layers)} is frozen and is"
