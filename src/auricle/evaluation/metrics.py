"""Classification metrics. Every metric takes clip weights, so that a bootstrap resample is one more set of weights.

In: truth and logits. Out: plain numbers. Definitions follow scikit-learn: balanced accuracy is the mean recall of the
classes that occur, macro-F1 the mean F1 of the classes that occur or are predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.evaluation.scoring import Scores, softmax

CALIBRATION_BINS = 15
MOST_CONFUSED_PAIRS = 8
# From this ratio of the largest to the smallest class, accuracy is mostly that of the largest classes.
IMBALANCE = 3


@dataclass(frozen=True)
class MetricInfo:
    """A metric's title and definition. `is_share`: shown in per cent; `has_majority`: the majority class has one."""

    title: str
    definition: str
    is_share: bool = True
    higher_is_better: bool = True
    has_majority: bool = True


_METRICS = {
    "accuracy": MetricInfo("Accuracy", "The share of test clips whose predicted class is their label."),
    "balanced_accuracy": MetricInfo(
        "Balanced accuracy", "The mean recall over the classes, also called unweighted average recall (UAR)."
    ),
    "macro_f1": MetricInfo("Macro F1", "The harmonic mean of precision and recall, averaged over the classes."),
    "log_loss": MetricInfo(
        "Log loss", "The mean negative log-likelihood of the labels. Lower is better.", False, higher_is_better=False
    ),
    "calibration_error": MetricInfo(
        "Calibration error",
        "The expected calibration error: the mean gap between confidence and accuracy. Lower is better.",
        higher_is_better=False,
        has_majority=False,
    ),
}
METRIC_NAMES = (*_METRICS,)


def metric_info(name: str) -> MetricInfo:
    """Describe a metric of `compute_metrics`. The majority class has no top-k accuracy: it ranks no other class."""
    if name in _METRICS:
        return _METRICS[name]
    k = name.removeprefix("top_").removesuffix("_accuracy")
    return MetricInfo(
        f"Top-{k} accuracy",
        f"The share of test clips whose label is among the {k} most probable classes.",
        has_majority=False,
    )


@dataclass(frozen=True)
class ClipOutcomes:
    """What the metrics need of each clip, computed once: (clips,) arrays, and the number of classes."""

    truth: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    in_top: np.ndarray
    classes: int
    top_k: int

    @property
    def correct(self) -> np.ndarray:
        return np.asarray(self.truth == self.predicted, dtype=np.float64)


def evaluate_logits(truth: np.ndarray, logits: np.ndarray, top_k: int = 3) -> ClipOutcomes:
    """Compute each clip's part of the metrics: truth (clips,) int, logits (clips, classes)."""
    probabilities = softmax(logits)
    rows = np.arange(len(truth))
    own = probabilities[rows, truth]
    # A tie goes to the class that comes first, as argmax has it: equal logits for all are no top-k success.
    own_logit = logits[rows, truth][:, None]
    earlier = np.arange(logits.shape[1])[None, :] < truth[:, None]
    above = ((logits > own_logit) | ((logits == own_logit) & earlier)).sum(1)
    return ClipOutcomes(
        truth=truth,
        predicted=logits.argmax(1),
        confidence=probabilities.max(1),
        loss=-np.log(np.maximum(own, 1e-15)),
        in_top=(above < top_k).astype(np.float64),
        classes=logits.shape[1],
        top_k=min(top_k, logits.shape[1]),
    )


def compute_metrics(outcomes: ClipOutcomes, weight: np.ndarray | None = None) -> dict[str, float]:
    """All headline metrics, each clip counting `weight` times (clips,)."""
    weight = np.ones(len(outcomes.truth)) if weight is None else weight
    total = weight.sum()
    hits, support, predicted = _class_counts(outcomes, weight)
    present = support > 0
    involved = present | (predicted > 0)
    f1 = 2 * hits[involved] / (support + predicted)[involved]
    values = {
        "accuracy": float((weight * outcomes.correct).sum() / total),
        "balanced_accuracy": float((hits[present] / support[present]).mean()),
        "macro_f1": float(f1.mean()),
        "log_loss": float((weight * outcomes.loss).sum() / total),
        "calibration_error": _calibration_error(outcomes, weight),
    }
    if outcomes.top_k < outcomes.classes:
        values[f"top_{outcomes.top_k}_accuracy"] = float((weight * outcomes.in_top).sum() / total)
    return values


@dataclass(frozen=True)
class ClassMetrics:
    """One row of the per-class table. Precision is 0 for a class that was never predicted."""

    label: str
    clips: int
    precision: float
    recall: float
    f1: float


def per_class(scores: Scores) -> tuple[ClassMetrics, ...]:
    """Precision, recall and F1 of every class."""
    outcomes = evaluate_logits(scores.truth, scores.logits)
    hits, support, predicted = _class_counts(outcomes, np.ones(len(scores)))
    columns = (
        support.astype(int),
        hits / np.maximum(predicted, 1),
        hits / np.maximum(support, 1),
        2 * hits / np.maximum(support + predicted, 1),
    )
    rows = zip(scores.labels, *(column.tolist() for column in columns), strict=True)
    return tuple(ClassMetrics(*row) for row in rows)


def confusion_matrix(scores: Scores) -> np.ndarray:
    """Counts (true class, predicted class)."""
    classes = len(scores.labels)
    pairs = scores.truth * classes + scores.predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class ConfusedPair:
    """How many clips of one class were predicted as another."""

    label: str
    predicted: str
    clips: int


def confused_pairs(matrix: np.ndarray, labels: Sequence[str]) -> tuple[ConfusedPair, ...]:
    """The most frequent pairs off the diagonal of a confusion matrix."""
    off_diagonal = matrix.copy()
    np.fill_diagonal(off_diagonal, 0)
    order = np.argsort(-off_diagonal, axis=None, kind="stable")[:MOST_CONFUSED_PAIRS]
    cells = [divmod(int(cell), len(labels)) for cell in order]
    return tuple(
        ConfusedPair(labels[row], labels[column], int(clips))
        for row, column in cells
        if (clips := off_diagonal[row, column])
    )


@dataclass(frozen=True)
class MetricAcrossSeeds:
    """One metric's values in the order of the seeds, their mean, standard deviation (n - 1) and range."""

    values: tuple[float, ...]
    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedVariance:
    """The same split trained from several seeds. This variance comes on top of the interval over clips or groups."""

    seeds: tuple[int, ...]
    metrics: dict[str, MetricAcrossSeeds]


def variance_across_seeds(seeds: Sequence[int], scores: Sequence[Scores], top_k: int) -> SeedVariance:
    """Measure how much the metrics vary. `scores` are of the same test clips, one for each seed."""
    computed = [compute_metrics(evaluate_logits(one.truth, one.logits, top_k)) for one in scores]
    metrics = {}
    for name in computed[0]:
        values = tuple(row[name] for row in computed)
        deviation = float(np.std(values, ddof=1))
        metrics[name] = MetricAcrossSeeds(values, float(np.mean(values)), deviation, min(values), max(values))
    return SeedVariance(tuple(seeds), metrics)


def confidence_bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The number of the equal-width bin of each confidence (clips,)."""
    return np.asarray(np.minimum((confidence * bins).astype(int), bins - 1))


def _class_counts(outcomes: ClipOutcomes, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted hits, true clips and predicted clips of each class."""
    hits = np.bincount(outcomes.truth, weight * outcomes.correct, minlength=outcomes.classes)
    support = np.bincount(outcomes.truth, weight, minlength=outcomes.classes)
    predicted = np.bincount(outcomes.predicted, weight, minlength=outcomes.classes)
    return hits, support, predicted


def _calibration_error(outcomes: ClipOutcomes, weight: np.ndarray) -> float:
    """Expected calibration error over equal-width bins of confidence (Guo et al., 2017, eq. 5)."""
    bins = confidence_bin(outcomes.confidence, CALIBRATION_BINS)
    gap = np.bincount(bins, weight * (outcomes.confidence - outcomes.correct), minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / weight.sum())
