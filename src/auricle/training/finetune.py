"""Fine-tuning a pretrained model: the frozen part is computed once for all folds, the rest is trained.

In: a PreparedCorpus whose recipe names a checkpoint. Out: for each fold the fine-tuned model; the probe that it began
from, where no epoch gained beyond doubt: where the interval of the gain over the validation groups includes 0.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auricle.errors import UsageError
from auricle.evaluation import scoring
from auricle.evaluation.intervals import AMOUNT_DIFFERENCE, MIN_UNITS, Interval, paired_difference
from auricle.evaluation.metrics import evaluate_logits
from auricle.models import device, ranks, registration
from auricle.models.families.pretrained import Options
from auricle.models.families.pretrained.network import Model
from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.training import freezing, tracking
from auricle.training.fold import FoldData, TrainedFold, TrainingSummary, Validation, calibrate
from auricle.training.freezing import PartiallyFrozenModel, Plan
from auricle.training.frozen_features import CropPlan, FrozenFeatures, encoder_part
from auricle.training.loop import goodness
from auricle.training.probe_start import ProbeStart
from auricle.training.progress import ProgressReporter
from auricle.training.schedule import schedule
from auricle.training.task import TrainingTask, frozen_feature_task, waveform_task
from auricle.training.train import needed_ids, train

# The best value of the metrics in which less is better; that of the others is 1.
BEST = {"log_loss": 0.0}


@dataclass(frozen=True)
class FineTuning:
    """Fine-tunes the checkpoint on each fold. `positions` are the clips' in frozen features, by id.

    `features` are shared by the folds whose models have the same frozen part; `start` is what heads begin from, None
    for noise. `frozen_seconds` is the time that computing the frozen part took, where all folds have the same.
    """

    corpus: PreparedCorpus
    options: Options
    start: ProbeStart | None
    positions: dict[str, int]
    features: dict[tuple[int, ...], FrozenFeatures | None]
    frozen_seconds: float

    @classmethod
    def prepare(cls, corpus: PreparedCorpus, reporter: ProgressReporter) -> "FineTuning":
        """Compute what all folds share: the frozen part of the model for their clips, or the probe's embeddings."""
        options = registration.parse_options(corpus.recipe)
        if options.lora is not None and ranks.count() > 1:
            raise UsageError("model.lora is set, and adapters are trained in one process. Train without --nproc.")
        ids = needed_ids(corpus)
        positions = {id: number for number, id in enumerate(ids)}
        if options.start == "probe":
            return cls(corpus, options, ProbeStart.prepare(corpus, options, reporter), positions, {}, 0.0)
        model = build_model(corpus.recipe, corpus.labels, options)
        for note in model.notes:
            reporter.message(note)
        plan = freezing.plan(model, options, schedule(corpus.recipe.train, len(ids)).learning_rate)
        clock = time.perf_counter()
        features = {_frozen_part(model, plan): _frozen_features(corpus, ids, model, options, plan, reporter)}
        return cls(corpus, options, None, positions, features, time.perf_counter() - clock)

    def train(self, data: FoldData) -> TrainedFold:
        model = build_model(data.recipe, self.corpus.labels, self.options)
        if self.start is None:
            return calibrate(data, model, *self._train(data, model))
        groups = data.corpus.groups(data.fold.valid)
        units = np.arange(len(groups)) if None in groups else np.unique(list(map(str, groups)), return_inverse=True)[1]
        if (count := len(set(units))) < MIN_UNITS:
            name = "clip" if None in groups else data.corpus.index.group_name
            data.reporter.message(
                f"Fine-tuning is not tried: {count} validation {name}{'s' * (count != 1)} cannot show whether it gains "
                f"for others, {MIN_UNITS} could. The model is the probe. Give more by data.validation_size, which is "
                f"{data.recipe.data.validation_size:g}; `--set model.start=random` trains in any case."
            )
            return self.start.trained_fold(data, None)
        probe = self.start.fit(data.fold.train)
        model = self.start.network(model, probe, data.fold.train)
        labels, name = data.corpus.classes(data.fold.valid), data.recipe.train.metric_for_best_model
        logits = self.start.logits(probe, data.fold.valid)
        before = Validation(labels, data.recipe.evaluate.top_k, lambda: logits).metrics()[name]
        metric = f"{name.replace('_', ' ')} on {len(labels)} validation clips"
        data.reporter.message(f"The probe chose {_layers(probe)}: {metric} {before:.3f}.")
        if before == BEST.get(name, 1.0):
            data.reporter.message("Nothing can be better on the validation clips: the model is the probe.")
            return self.start.trained_fold(data, None)
        summary, validation = self._train(data, model, goodness({name: before}, name))
        assert validation is not None, "the fold has validation clips"
        found = gain(labels, logits, validation.logits(), units, name)
        shown = f"{metric} {validation.metrics()[name]:.3f} against {before:.3f}, gain {found.decimals()}"
        if found.low > 0:
            source = f"epoch {summary.chosen_epoch}" if summary.chosen_epoch else "the linear head before any epoch"
            data.reporter.message(f"Fine-tuning gains ({source}): {shown}.")
            return calibrate(data, model, summary, validation)
        data.reporter.message(
            f"Fine-tuning does not gain beyond doubt: {shown}. The model is the probe, fitted to training and "
            "validation clips."
        )
        return self.start.trained_fold(data, replace(summary, chosen_epoch=0))

    def _train(
        self, data: FoldData, model: Model, to_beat: float | None = None
    ) -> tuple[TrainingSummary, Validation | None]:
        """Train a model in place; with `to_beat` the model as it is now is a candidate, too."""
        settings, name = schedule(data.recipe.train, len(data.fold.train)), data.recipe.train.metric_for_best_model
        plan = freezing.plan(model, self.options, settings.learning_rate)
        part = _frozen_part(model, plan)
        if part not in self.features:
            ids = list(self.positions)
            self.features[part] = _frozen_features(self.corpus, ids, model, self.options, plan, data.reporter)
        adapters = None
        # The probe may have chosen the embedding, which has no layer below it to adapt.
        if self.options.lora is not None and len(model.encoder.layers):
            adapters = freezing.add_adapters(model, self.options, plan)
        task = self._task(data, model, plan, self.features[part])
        if to_beat is not None and task.validation is not None:
            task = replace(task, to_beat=max(to_beat, goodness(task.validation.metrics(), name)))
        if not data.folder.checkpoints.exists():
            report_parts(task.trained_model, data.reporter)
        with tracking.tracked(data.recipe, data.folder.path):
            summary = train(model, data.recipe, task, data.folder, data.report_epoch)
        if adapters is not None:
            adapters.merge_and_unload()
        return summary, task.validation

    def _task(self, data: FoldData, model: Model, plan: Plan, features: FrozenFeatures | None) -> TrainingTask:
        if features is None:
            return waveform_task(model, data.recipe, data.train, data.validation, plan)
        train, validation = (
            ([self.positions[id] for id in ids], data.corpus.classes(ids)) for ids in (data.fold.train, data.fold.valid)
        )
        return frozen_feature_task(model, data.recipe, plan, features, train, validation)


def gain(labels: np.ndarray, before: np.ndarray, after: np.ndarray, units: np.ndarray, metric: str) -> Interval:
    """How much a metric gains from logits (clips, classes) to others, paired by clip, and its interval over the units
    (clips,). That of the balanced accuracy stands for macro F1 too, which is no mean over clips.
    """
    old, new = (evaluate_logits(labels, logits) for logits in (before, after))
    if metric == "log_loss":
        return paired_difference(old.loss - new.loss, units, bounds=AMOUNT_DIFFERENCE)
    return paired_difference(new.correct - old.correct, units, None if metric == "accuracy" else labels)


def _frozen_part(model: Model, plan: Plan) -> tuple[int, ...]:
    """What decides the frozen part, of one checkpoint: its depth, the layers that there are, and those it pools."""
    depth = freezing.frozen_depth(model, plan)
    return (-1 if depth is None else depth, len(model.encoder.layers), *model.layers)


def _layers(probe: Any) -> str:
    layers = probe.config.layers
    named = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} of {len(probe.config.layer_sizes) - 1}"
    return f"{named} and acoustic descriptors" if probe.config.joins_descriptors else named


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
        encoder_part(model, depth, device.is_bf16(corpus.recipe.train.precision)),
        audio.lengths,
        scoring.windows_of(model.config, audio.lengths),
        trained,
        crops,
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
    features.compute(audio, reporter.progress)
    return features
