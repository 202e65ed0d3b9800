"""Fine-tuning a pretrained model: the frozen part is computed once for all folds, the rest is trained.

In: a PreparedCorpus whose recipe names a checkpoint. Out: for each fold the fine-tuned model.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

from auricle.evaluation import scoring
from auricle.models import device, registration
from auricle.models.families.pretrained import Options
from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.training import freezing, tracking
from auricle.training.fold import FoldData, TrainedFold, calibrate
from auricle.training.freezing import PartiallyFrozenModel, Plan
from auricle.training.frozen_features import CropPlan, FrozenFeatures
from auricle.training.progress import ProgressReporter
from auricle.training.task import TrainingTask, frozen_feature_task, waveform_task
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
    def prepare(cls, corpus: PreparedCorpus, reporter: ProgressReporter) -> "FineTuning":
        """Compute the frozen part of the model for the clips of all folds."""
        options = registration.parse_options(corpus.recipe)
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
            adapters.merge_and_unload()
        return calibrate(data, model, summary, task.validation)

    def _task(self, data: FoldData, model: Any) -> TrainingTask:
        if self.features is None:
            return waveform_task(model, data.recipe, data.train, data.validation, self.plan)
        train, validation = (
            ([self.positions[id] for id in ids], data.corpus.classes(ids)) for ids in (data.fold.train, data.fold.valid)
        )
        return frozen_feature_task(model, data.recipe, self.plan, self.features, train, validation)


def report_parts(model: Any, reporter: ProgressReporter) -> None:
    """Report which parts are trained, their weights, and from which epoch on."""
    assert isinstance(model, PartiallyFrozenModel)
    parts = freezing.summarize(model)
    total = sum(part.weights for part in parts)
    trained = sum(part.weights for part in parts if part.first_epoch is not None)
    width = max(len(part.part) for part in parts)
    reporter.message(f"Trained: {trained:,} of {total:,} weights ({trained / total:.1%}).")
    for part in parts:
        when = "frozen" if part.first_epoch is None else f"trained from epoch {part.first_epoch}"
        reporter.message(f"  {part.part:{width}}  {part.weights:>12,}  {when}")


def _frozen_features(
    corpus: PreparedCorpus, ids: list[str], model: Any, options: Options, plan: Plan, reporter: ProgressReporter
) -> FrozenFeatures | None:
    """The frozen part's output for these clips; None, with a message, where it cannot be computed once."""
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
    crops = CropPlan.of(corpus.recipe, model.config.sample_rate, options.cached_crops)
    features = FrozenFeatures(
        model,
        depth,
        audio.lengths,
        scoring.windows_of(model.config, audio.lengths),
        trained,
        crops,
        bf16=device.is_bf16(corpus.recipe.train.precision),
        folder=corpus.store.folder,
        identity=" ".join([corpus.store.folder.name, *ids]),
    )
    size = f"{math.ceil(features.bytes / 1e6):,} MB"
    if not features.fits_on_disk():
        reporter.message(
            f"The frozen part runs in every step: caching its output takes {size}, and the disk has less free."
        )
        return None
    part = f"Everything up to layer {depth - 1} of {len(model.encoder.layers)} is frozen and is"
    if depth < 2:
        part = ("The part before the embedding is", "The part before layer 1 is frozen and is")[depth]
    reporter.message(f"{part} computed once for {len(ids)} clips: {size} in {features.folder}.")
    if any(len(crops.views(clip, int(audio.lengths[clip]))) > 1 for clip in trained):
        reporter.message(f"Training uses {options.cached_crops} cached variants of each clip (model.cached_crops).")
    features.compute(model, audio, reporter.progress)
    return features
