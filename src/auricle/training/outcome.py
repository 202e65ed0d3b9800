"""From a prepared corpus to the report: all trainings of a run, and the baseline to compare with.

In: a PreparedCorpus and its resolved recipe. Out: models, scores, report.json, report.html, cost.json, the model card.
This module imports torch, `run` does not.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auricle.corpus import splits
from auricle.evaluation import duration, open_set, scoring
from auricle.evaluation.build_report import ReportInputs, build_report
from auricle.evaluation.intervals import Resampling
from auricle.evaluation.model_card import dataset_of, model_card
from auricle.evaluation.open_set import RejectionReport
from auricle.evaluation.page import write_page
from auricle.evaluation.report import Cost, FrozenEncoder, Hardware, ModelSummary, Report, TrainingTotals
from auricle.evaluation.scoring import Scores
from auricle.models import catalogue, device, registration
from auricle.models.device import native_bf16
from auricle.parallel import cores
from auricle.preparation.prepare import PreparedCorpus
from auricle.recipe import Model
from auricle.run_folder import RunFolder, atomic_write, write_text
from auricle.training import tracking
from auricle.training.closed_form import closed_form_trainer, shared_note
from auricle.training.cross_validation import (
    FoldResult,
    cross_validate,
    prepare_training,
    scores_of,
    train_again,
    train_all,
)
from auricle.training.fold import FoldTrainer
from auricle.training.grouping import Grouping
from auricle.training.probes import own_weights, score_probe
from auricle.training.progress import ProgressReporter

# Suspecting labels takes five more fits, whose cost grows with the cube of the clips: seconds up to here.
SUSPECT_CLIPS = 4000


def train_and_report(
    corpus: PreparedCorpus, grouping: Grouping, folder: RunFolder, reporter: ProgressReporter, prepare_seconds: float
) -> Report:
    """Train all models of a run and write everything about them; returns the report."""
    recipe = corpus.recipe
    start = time.perf_counter()
    train = prepare_training(corpus, reporter)
    shared_seconds = time.perf_counter() - start
    results = train_all(corpus, folder, train, reporter)
    repetitions = {}
    for seed in range(recipe.train.seed + 1, recipe.train.seed + recipe.train.seeds):
        reporter.message(f"The same split, trained from seed {seed}.")
        # A closed-form family uses the seed for its inner folds.
        again = corpus.with_train(seed=seed)
        repetitions[seed] = train_again(again, folder.repetition(seed), prepare_training(again, reporter), reporter)
    everything = [*results, *(result for repeated in repetitions.values() for result in repeated)]
    scores = _test_scores(results)
    is_baseline = recipe.model.family == "baseline"
    baseline, suspects = _baseline(corpus, folder, train, reporter, scores if is_baseline else None)
    probe = score_probe(corpus, folder, own_weights(folder), reporter)
    cost = Cost(
        prepare_seconds=prepare_seconds,
        shared_seconds=shared_seconds,
        train_seconds=sum(result.summary.seconds for result in everything),
        run_seconds=time.perf_counter() - start,
        clips_per_second=float(np.mean([result.summary.clips_per_second for result in results])),
        peak_memory_mb=peak_memory_mb(),
    )
    tested = [result for result in results if result.scores is not None]
    scores.save(folder.scores)
    note = shared_note(corpus)
    noted = replace(corpus, split=replace(corpus.split, notes=(*corpus.split.notes, *([note] if note else ()))))
    report = build_report(
        ReportInputs(
            corpus=noted,
            grouping=grouping.message,
            leakage=grouping.evidence,
            scores=scores,
            majority=majority_scores(corpus),
            baseline=baseline,
            suspects=suspects,
            probe=probe,
            rejection=_rejection(corpus, results, scores),
            center_crops=_joined([result.center_crops for result in tested]),
            trained_ranges=_trained_ranges(corpus, results),
            learning_curves={result.name: result.history for result in tested},
            best_epochs={result.name: result.summary.chosen_epoch for result in tested},
            model=_model_summary(results[-1]),
            training=_training_totals(corpus, everything),
            hardware=hardware(),
            repetitions={seed: _test_scores(results) for seed, results in repetitions.items()},
        )
    )
    report.save(folder.report)
    cost.save(folder.cost)
    write_text(folder.model_card, str(model_card(report, cost, dataset=dataset_of(corpus.index))))
    write_page(folder.report_page, report, cost, corpus.store, corpus.positions)
    tracking.finish(recipe, folder.path, report)
    return report


def _baseline(
    corpus: PreparedCorpus, folder: RunFolder, train: FoldTrainer, reporter: ProgressReporter, scores: Scores | None
) -> tuple[Scores, Scores | None]:
    """The instant baseline on the same split; and on folds that ignore groups, by which labels are suspected.

    `scores` are the run's own where it is the baseline. A model that was trained on a clip's group but not on the clip
    may suspect its label; one that was not may not.
    """
    has_suspects = len(corpus.usable) <= SUSPECT_CLIPS
    if not folder.baseline_scores.is_file():
        if scores is None:
            reporter.message("The instant baseline, on the same split.")
            recipe = corpus.recipe.model_copy(update={"model": Model(family="baseline")})
            corpus = replace(corpus, recipe=recipe)
            train = closed_form_trainer(corpus, reporter, has_vectors=False)
        if has_suspects:
            folds = splits.ungrouped(corpus.usable, corpus.recipe.data, corpus.audit.duplicate_groups)
            cross_validate(corpus, folds, train, folder).save(folder.suspect_scores)
        with atomic_write(folder.baseline_scores) as partial:
            (scores or cross_validate(corpus, corpus.split.folds, train, folder)).save(partial)
    return Scores.load(folder.baseline_scores), Scores.load(folder.suspect_scores) if has_suspects else None


def _test_scores(results: Sequence[FoldResult]) -> Scores:
    return scoring.join([result.scores for result in results if result.scores is not None])


def _joined(parts: Sequence[Scores | None]) -> Scores | None:
    present = [part for part in parts if part is not None]
    return scoring.join(present) if present else None


def _rejection(corpus: PreparedCorpus, results: Sequence[FoldResult], scores: Scores) -> RejectionReport | None:
    """How well rejection works, where the recipe wants a threshold. The last result is the run's own model."""
    recipe = corpus.recipe
    max_rate = open_set.max_false_accept_rate(recipe)
    if max_rate is None:
        return None
    resampling = Resampling(recipe.evaluate.bootstrap_resamples, recipe.train.seed, corpus.index.group_name)
    own = results[-1].out_of_set
    if own is None:
        validation = _joined([result.validation for result in results])
        return open_set.by_misclassified_clips(scores, validation, max_rate, resampling)
    tested = [result.out_of_set for result in results if result.scores is not None and result.out_of_set is not None]
    return open_set.by_held_out_classes(scores, scoring.join(tested), own, max_rate, resampling)


def _trained_ranges(corpus: PreparedCorpus, results: Sequence[FoldResult]) -> dict[str, tuple[float, float]]:
    """The shortest and longest input of each fold's training; models in closed form take whole clips."""
    crops = {}
    for result in results:
        family = registration.family_of(_config(result)["model_type"]) or corpus.recipe.model.family
        is_cropped = registration.family(family).TRAINING != "closed_form"
        crops[result.name] = corpus.recipe.train.crop_seconds if is_cropped else None
    return {
        fold.name: duration.trained_range(corpus.seconds(fold.train), crops[fold.name]) for fold in corpus.split.folds
    }


def majority_scores(corpus: PreparedCorpus) -> Scores:
    """Always answering the commonest training class: log priors as logits."""
    parts = []
    for fold in corpus.split.folds:
        counts = np.bincount(corpus.classes(fold.train), minlength=len(corpus.labels))
        priors = np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)
        parts.append(scores_of(corpus, fold.test, np.tile(priors, (len(fold.test), 1)), fold.name))
    return scoring.join(parts)


def _config(result: FoldResult) -> Any:
    return json.loads(result.folder.model_config.read_text(encoding="utf-8"))


def _model_summary(result: FoldResult) -> ModelSummary:
    config = _config(result)
    return ModelSummary(
        type=config["model_type"],
        parameters=result.parameters,
        sample_rate=config["sample_rate"],
        channels=config["channels"],
        base_model=config.get("base_model"),
        pretrained="base_model" in config,
        temperature=result.summary.temperature,
        num_features=config.get("num_features"),
        encoder=_frozen_encoder(config) if config["model_type"] in registration.family("probe").MODEL_TYPES else None,
    )


def _frozen_encoder(config: Mapping[str, Any]) -> FrozenEncoder:
    """What a probe's config holds about its encoder."""
    known = catalogue.published_as(config["base_model"])
    return FrozenEncoder(
        layers=tuple(config["layers"]),
        joins_descriptors=config["joins_descriptors"],
        layer_losses=tuple(config["layer_losses"]),
        held_out_loss=config["held_out_loss"],
        license=known.license if known is not None else None,
    )


def _training_totals(corpus: PreparedCorpus, results: Sequence[FoldResult]) -> TrainingTotals:
    last = results[-1].summary
    return TrainingTotals(
        audio_seconds=corpus.audit.durations.total,
        trainings=len(results),
        epochs=sum(result.summary.epochs for result in results),
        steps=sum(result.summary.steps for result in results),
        batch_size=last.batch_size * last.gradient_accumulation_steps,
    )


def peak_memory_mb() -> float | None:
    """The most memory that this process has used, in MB; None where the system does not report it."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hardware() -> Hardware:
    """The machine, as far as it matters for speed."""
    name = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    chosen = device.current()
    gpu = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None
    return Hardware(name, cores(), gpu, native_bf16())
