"""From the scores of a finished run to its Report: metrics, comparisons, the verdict and the cautions.

In: scores of the test clips by the model, the majority class and the instant baseline on the same split, and what the
run knows of itself. Out: the Report.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import PurePath

from auricle.corpus.splits import PARTS
from auricle.evaluation import calibration, duration, error_analysis, metrics, open_set
from auricle.evaluation.intervals import Bootstrap, Interval, Resampling, bootstrap, metric_intervals
from auricle.evaluation.leakage import Leakage
from auricle.evaluation.metrics import IMBALANCE, ClassMetrics, ClipOutcomes, compute_metrics, evaluate_logits
from auricle.evaluation.open_set import RejectionReport
from auricle.evaluation.report import (
    BaselineComparison,
    CorpusSummary,
    CurvePoint,
    FoldMetrics,
    Hardware,
    IntervalBasis,
    ModelSummary,
    ProbeComparison,
    Report,
    SplitSummary,
    TrainingTotals,
)
from auricle.evaluation.scoring import Scores
from auricle.preparation.formatting import percent
from auricle.preparation.prepare import PreparedCorpus

PACKAGES = (
    "auricle",
    "torch",
    "transformers",
    "accelerate",
    "scikit-learn",
    "numpy",
    "soundfile",
    "soxr",
    "av",
    "pyarrow",
)


@dataclass(frozen=True)
class ProbeScores:
    """The probe of a cached encoder on the test clips of a run; `note` says which and why, or why there is none.

    `losses` are the log-losses on held-out training clips, in nats, of all encoders that were tried, by name.
    """

    note: str = ""
    encoder: str = ""
    scores: Scores | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportInputs:
    """What a finished run knows. `suspects` are the baseline's out-of-fold scores of all clips.

    `center_crops` are scores of the centers of test clips, `trained_ranges` the shortest and longest training input of
    each fold in seconds, `repetitions` the scores of the same test clips by models trained from further seeds.
    """

    corpus: PreparedCorpus
    scores: Scores
    majority: Scores
    baseline: Scores
    suspects: Scores | None
    learning_curves: Mapping[str, Sequence[CurvePoint]]
    best_epochs: Mapping[str, int]
    model: ModelSummary
    training: TrainingTotals
    hardware: Hardware
    grouping: str = ""
    leakage: Leakage | None = None
    rejection: RejectionReport | None = None
    center_crops: Scores | None = None
    trained_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    repetitions: Mapping[int, Scores] = field(default_factory=dict)
    probe: ProbeScores = ProbeScores()


def build_report(inputs: ReportInputs) -> Report:
    """Put the whole report together."""
    corpus, scores = inputs.corpus, inputs.scores
    recipe, name = corpus.recipe, corpus.index.group_name
    evaluate = recipe.evaluate
    outcomes, baseline, majority = (
        evaluate_logits(one.truth, one.logits, evaluate.top_k) for one in (scores, inputs.baseline, inputs.majority)
    )
    resampled = bootstrap(scores.groups, Resampling(evaluate.bootstrap_resamples, recipe.train.seed, name))
    comparison = BaselineComparison(
        metrics=metric_intervals(baseline, resampled),
        gain=metric_intervals(outcomes, resampled, minus=baseline),
        is_this_model=recipe.model.family == "baseline",
    )
    probe = _probe(inputs.probe, outcomes, resampled)
    accuracies, basis = metric_intervals(outcomes, resampled), IntervalBasis.of(resampled)
    majority_metrics = compute_metrics(majority)
    rows = metrics.per_class(scores)
    matrix = metrics.confusion_matrix(scores)
    crops, min_clips = inputs.center_crops, evaluate.min_slice_clips
    seeds = {recipe.train.seed: scores, **inputs.repetitions}
    return Report(
        verdict=_verdict(len(scores), accuracies["accuracy"], comparison, majority_metrics["accuracy"], rows),
        cautions=tuple(_cautions(inputs, probe, rows, basis.caution("accuracy", accuracies["accuracy"]))),
        name=recipe.name,
        family=recipe.model.family,
        test_clips=len(scores),
        interval=basis,
        metrics=accuracies,
        majority=majority_metrics,
        baseline=comparison,
        probe=probe,
        probe_note=inputs.probe.note,
        folds=_folds(inputs),
        labels=scores.labels,
        per_class=rows,
        confusion_matrix=tuple(tuple(map(int, row)) for row in matrix),
        confused_pairs=metrics.confused_pairs(matrix, scores.labels),
        calibration=calibration.calibration_curve(scores),
        risk_coverage=calibration.risk_coverage(scores),
        rejection=inputs.rejection,
        accuracy_by_duration=duration.accuracy_by_duration(crops, scores, min_clips) if crops else (),
        accuracy_by_clip_duration=error_analysis.by_clip_duration(scores),
        slices=error_analysis.slices(scores, {clip.id: clip for clip in corpus.index}, min_clips),
        misclassified=error_analysis.misclassified(scores, evaluate.examples),
        suspect_labels=error_analysis.suspect_labels(inputs.suspects) if inputs.suspects else (),
        learning_curves={fold: tuple(points) for fold, points in inputs.learning_curves.items()},
        audit=corpus.audit,
        split=_split(inputs),
        corpus=_corpus(corpus),
        recipe=recipe,
        model=inputs.model,
        training=inputs.training,
        versions=versions(),
        hardware=inputs.hardware,
        seeds=metrics.variance_across_seeds([*seeds], [*seeds.values()], evaluate.top_k) if len(seeds) > 1 else None,
    )


def _probe(probe: ProbeScores, outcomes: ClipOutcomes, resampled: Bootstrap) -> ProbeComparison | None:
    """The probe's metrics on the same clips, and what the model's outcomes gain over it."""
    if probe.scores is None:
        return None
    other = evaluate_logits(probe.scores.truth, probe.scores.logits, outcomes.top_k)
    gain = metric_intervals(outcomes, resampled, minus=other)
    return ProbeComparison(probe.encoder, metric_intervals(other, resampled), gain, dict(probe.losses))


def _split(inputs: ReportInputs) -> SplitSummary:
    split = inputs.corpus.split
    return SplitSummary(
        kind=split.kind,
        description=split.description,
        grouped=split.grouped,
        notes=split.notes,
        folds=len(split.folds),
        clips={part: len(getattr(split.folds[0], part)) for part in PARTS},
        grouping=inputs.grouping,
        leakage=inputs.leakage,
    )


def _corpus(corpus: PreparedCorpus) -> CorpusSummary:
    index = corpus.index
    return CorpusSummary(
        origin=PurePath(index.origin).name,
        reader=index.reader,
        description=index.description,
        license=index.license,
        citation=index.citation,
        clips=len(index),
        classes=len(corpus.labels),
        groups=corpus.audit.groups,
        group_name=index.group_name,
    )


def _folds(inputs: ReportInputs) -> tuple[FoldMetrics, ...]:
    rows = []
    baseline = inputs.baseline.by_fold()
    sizes = {fold.name: (len(fold.train), len(fold.valid)) for fold in inputs.corpus.split.folds}
    for fold, scores in inputs.scores.by_fold().items():
        own, other = (compute_metrics(evaluate_logits(one.truth, one.logits)) for one in (scores, baseline[fold]))
        rows.append(
            FoldMetrics(
                fold,
                *sizes[fold],
                len(scores),
                own["accuracy"],
                own["balanced_accuracy"],
                other["accuracy"],
                inputs.best_epochs.get(fold),
            )
        )
    return tuple(rows)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the result."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _verdict(
    clips: int, accuracy: Interval, baseline: BaselineComparison, majority: float, rows: Sequence[ClassMetrics]
) -> str:
    gain = baseline.gain["accuracy"]
    if baseline.is_this_model:
        comparison = f"against {percent(majority)} for the majority class"
    elif gain.low > 0:
        comparison = f"{gain.value * 100:.1f} points above the instant baseline"
    elif gain.high < 0:
        comparison = f"{-gain.value * 100:.1f} points below the instant baseline: use the baseline instead"
    else:
        comparison = f"not distinguishable from the instant baseline ({gain.value * 100:+.1f} points)"
    lowest = min((row for row in rows if row.clips), key=lambda row: row.recall)
    return (
        f"Accuracy {percent(accuracy.value)} on {clips} held-out test clips (95 % interval "
        f"{accuracy.percents}), {comparison}. "
        f"Lowest recall: '{lowest.label}', {percent(lowest.recall, 0)}."
    )


def _cautions(
    inputs: ReportInputs, probe: ProbeComparison | None, rows: Sequence[ClassMetrics], rough: Sequence[str]
) -> list[str]:
    index, audit, split = inputs.corpus.index, inputs.corpus.audit, inputs.corpus.split
    cautions = [*(probe.advice if probe is not None else ()), *split.notes]
    if audit.leaks:
        clips = len({leak.tested for leak in audit.leaks})
        cautions.append(
            f"{clips} test clips are duplicates of training clips: accuracy may be too high by up to that many clips."
        )
    tested = len(set(inputs.scores.groups) - {None})
    more = f" Testing each {index.group_name} in turn (--split leave-one-group-out) gives a better estimate."
    cautions += [caution + (more if 0 < tested < audit.groups else "") for caution in rough]
    if not index.has_groups and split.kind != "predefined":
        cautions.append(
            "No groups are known: names and tables hold no field that gives the class away. If a speaker, device or "
            "recording has several clips, the metrics may be too high: name the field with --group FIELD."
        )
    if audit.imbalance >= IMBALANCE:
        cautions.append(
            f"The largest class has {audit.imbalance:.1f} times as many clips as the smallest: prefer the balanced "
            "accuracy, which weights all classes equally."
        )
    untested = [row.label for row in rows if not row.clips]
    if untested:
        cautions.append("No test clips, so not tested: " + ", ".join(f"'{label}'" for label in untested) + ".")
    if inputs.rejection is not None:
        cautions += open_set.cautions(inputs.rejection)
    if inputs.trained_ranges:
        window = inputs.corpus.recipe.evaluate.window_seconds
        cautions += duration.cautions(inputs.scores, inputs.trained_ranges, window)
    return cautions
