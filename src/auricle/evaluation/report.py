"""report.json: every figure with its context, for programs and for the page that people read.

In: the judged clips of the model, of the majority class and of the instant baseline on the same split, and what the run
knows. Out: plain data. Nothing in here depends on the clock, so the same recipe, data and machine give the same report;
measured times are in cost.json beside it.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import PurePath
from typing import Any

import numpy as np

from auricle.corpus.clip import Index
from auricle.corpus.splits import Split
from auricle.evaluation import duration, error_analysis, metrics, open_set, rejection
from auricle.evaluation.intervals import Interval, differences, intervals, resample
from auricle.evaluation.rejection import RejectionReport
from auricle.evaluation.scoring import Scores
from auricle.preparation.audit import Audit
from auricle.recipe import Recipe

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
FEW_UNITS = 8


@dataclass(frozen=True)
class ReportInputs:
    """What a finished run lays before the report. `doubted` are out-of-fold scores of the baseline on all clips.

    `cuts` are scores of the middles of test clips, with the cuts' seconds; `trained_seconds` the shortest and longest
    stretch that each fold's training heard.
    """

    index: Index
    audit: Audit
    split: Split
    recipe: Recipe
    scores: Scores
    majority: Scores
    baseline: Scores
    suspect_labels: Scores | None
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    chosen: Mapping[str, int]
    model: Mapping[str, Any]
    work: Mapping[str, Any]
    hardware: Mapping[str, Any]
    refusal: RejectionReport | None = None
    cuts: Scores | None = None
    trained_seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def build(evidence: ReportInputs) -> dict[str, Any]:
    """Put the whole report together as plain data."""
    recipe, scores = evidence.recipe, evidence.scores
    top_k = recipe.evaluate.top_k
    judged = metrics.judge(scores.truth, scores.logits, top_k)
    other = metrics.judge(evidence.baseline.truth, evidence.baseline.logits, top_k)
    drawn = resample(
        scores.groups, len(scores), recipe.evaluate.bootstrap_resamples, recipe.train.seed, evidence.index.group_name
    )
    found = intervals(judged, drawn)
    gains = differences(judged, other, drawn)
    report: dict[str, Any] = {
        "verdict": "",
        "cautions": [],
        "name": recipe.name,
        "family": recipe.model.family,
        "test_clips": len(scores),
        "interval": {"unit": drawn.unit, "units": drawn.units, "resamples": recipe.evaluate.bootstrap_resamples, "level": 0.95},
        "metrics": _plain(found),
        "majority": metrics.measure(metrics.judge(evidence.majority.truth, evidence.majority.logits, top_k)),
        "baseline": {
            "metrics": _plain(intervals(other, drawn)),
            "gain": _plain(gains),
            "is_this_model": recipe.model.family == "baseline",
        },
        "folds": _folds(evidence),
        **_details(evidence),
        "curves": {fold: list(epochs) for fold, epochs in evidence.curves.items()},
        "audit": evidence.audit.as_json(),
        "split": _split(evidence.split),
        "corpus": _corpus(evidence),
        "recipe": recipe.model_dump(),
        "model": dict(evidence.model),
        "cost": {**evidence.work, "measured": "cost.json"},
        "versions": versions(),
        "hardware": dict(evidence.hardware),
    }
    report["verdict"] = _verdict(report, found, gains)
    report["cautions"] = _cautions(report, evidence)
    return report


def _details(evidence: ReportInputs) -> dict[str, Any]:
    """Where the model is strong and weak: by class, confidence, length and metadata, and its worst mistakes."""
    scores, evaluate = evidence.scores, evidence.recipe.evaluate
    name = evidence.index.group_name
    clips = {clip.id: clip for clip in evidence.index}
    confusion = metrics.confusion(scores)
    sliced = error_analysis.slices(scores, clips, evaluate.min_slice_clips, name)
    return {
        "labels": list(scores.labels),
        "per_class": [asdict(row) for row in metrics.per_class(scores)],
        "confusion": confusion.tolist(),
        "confused": _confused(confusion, scores.labels),
        "calibration": [
            {"confidence": confidence, "accuracy": accuracy, "clips": count}
            for confidence, accuracy, count in metrics.calibration_curve(scores)
        ],
        "coverage": [asdict(row) for row in open_set.coverage(scores)],
        "unknown": asdict(evidence.refusal) if evidence.refusal is not None else None,
        "heard": _heard(evidence),
        "by_length": [asdict(row) for row in error_analysis.by_length(scores, name)],
        "slices": {column: [asdict(row) for row in part] for column, part in sliced.items()},
        "mistakes": [asdict(row) for row in error_analysis.mistakes(scores, evaluate.examples)],
        "doubted": [asdict(row) for row in error_analysis.suspect_labels(evidence.suspect_labels)]
        if evidence.suspect_labels
        else [],
    }


def _heard(evidence: ReportInputs) -> list[dict[str, Any]]:
    """Accuracy against seconds heard, for lengths that enough test clips have."""
    if evidence.cuts is None:
        return []
    least, name = evidence.recipe.evaluate.min_slice_clips, evidence.index.group_name
    return [asdict(row) for row in duration.by_seconds(evidence.cuts, evidence.scores, least, name)]


def _corpus(evidence: ReportInputs) -> dict[str, Any]:
    index = evidence.index
    return {
        "origin": PurePath(index.origin).name,
        "reader": index.reader,
        "description": index.description,
        "license": index.license,
        "citation": index.citation,
        "clips": len(index),
        "classes": len(evidence.scores.labels),
        "groups": evidence.audit.groups,
        "group_name": index.group_name,
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _verdict(report: Mapping[str, Any], found: Mapping[str, Interval], gains: Mapping[str, Interval]) -> str:
    """The one sentence that a reader takes away."""
    accuracy = found["accuracy"]
    rows = [row for row in report["per_class"] if row["clips"]]
    worst = min(rows, key=lambda row: row["recall"])
    told = (
        f"Right on {_percent(accuracy.value)} of {report['test_clips']} clips that it never heard "
        f"(95 % interval {accuracy.low * 100:.1f} to {accuracy.high * 100:.1f})"
    )
    gain = gains["accuracy"]
    if report["baseline"]["is_this_model"]:
        told += f", against {_percent(report['majority']['accuracy'])} for always saying the commonest class"
    elif gain.low > 0:
        told += f", {gain.value * 100:.1f} points better than the instant baseline"
    elif gain.high < 0:
        told += f", {-gain.value * 100:.1f} points worse than the instant baseline: use that instead"
    else:
        told += f", which is not distinguishable from the instant baseline ({gain.value * 100:+.1f} points)"
    return f"{told}. Weakest on '{worst['label']}', of which it knows {_percent(worst['recall'])}."


def _cautions(report: Mapping[str, Any], evidence: ReportInputs) -> list[str]:
    """What makes the figures worth less than they look."""
    cautions = list(evidence.split.notes)
    leaks = evidence.audit.leaks
    if leaks:
        clips = len({leak.tested for leak in leaks})
        cautions.append(
            f"{clips} test clips sound the same as a training clip: the figures are too high by up to that."
        )
    name = evidence.index.group_name
    tested = len({group for group in evidence.scores.groups if group is not None})
    if 0 < tested < FEW_UNITS:
        more = " Testing each in turn (data.split=leave-one-group-out) says more."
        cautions.append(
            f"Only {tested} {name}{'s were' if tested > 1 else ' was'} tested: the interval is a rough guide."
            + (more if tested < evidence.audit.groups else "")
        )
    if not evidence.index.has_groups and evidence.split.kind != "predefined":
        cautions.append(
            "No groups are known (speaker, recording, device…), so the same one may stand on both sides of the split "
            "and the figures may be too high. Name them with data.group or the reader 'pattern'."
        )
    if evidence.audit.imbalance >= 3:
        cautions.append(
            f"The largest class has {evidence.audit.imbalance:.1f} times as many clips as the smallest: read the "
            "balanced accuracy, which counts every class alike."
        )
    missing = [row["label"] for row in report["per_class"] if not row["clips"]]
    if missing:
        cautions.append(
            "Not tested at all, for want of test clips: " + ", ".join(f"'{label}'" for label in missing) + "."
        )
    if evidence.refusal is not None:
        cautions += rejection.cautions(evidence.refusal)
    if evidence.trained_seconds:
        window = evidence.recipe.evaluate.window_seconds
        cautions += duration.cautions(evidence.scores, evidence.trained_seconds, window)
    return cautions


def _folds(evidence: ReportInputs) -> list[dict[str, Any]]:
    rows = []
    baseline = error_analysis.by_fold(evidence.baseline)
    sizes = {fold.name: (len(fold.train), len(fold.valid)) for fold in evidence.split.folds}
    for fold, scores in error_analysis.by_fold(evidence.scores).items():
        found = metrics.measure(metrics.judge(scores.truth, scores.logits))
        ensemble_member = metrics.measure(metrics.judge(baseline[fold].truth, baseline[fold].logits))
        rows.append(
            {
                "name": fold,
                "train": sizes[fold][0],
                "valid": sizes[fold][1],
                "test": len(scores),
                "accuracy": found["accuracy"],
                "balanced_accuracy": found["balanced_accuracy"],
                "baseline_accuracy": ensemble_member["accuracy"],
                "chosen_epoch": evidence.chosen.get(fold),
            }
        )
    return rows


def _split(split: Split) -> dict[str, Any]:
    return {
        "kind": split.kind,
        "described": split.description,
        "grouped": split.grouped,
        "notes": list(split.notes),
        "folds": len(split.folds),
        "clips": {part: len(getattr(split.folds[0], part)) for part in ("train", "valid", "test")},
    }


def _confused(confusion: np.ndarray, labels: Sequence[str], most: int = 8) -> list[dict[str, Any]]:
    """The pairs of classes that are mistaken most, as (true, said, clips)."""
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    places = [divmod(int(place), len(labels)) for place in order]
    return [
        {"label": labels[row], "predicted": labels[column], "clips": int(off[row, column])}
        for row, column in places
        if off[row, column]
    ]


def _plain(found: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in found.items()}


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
