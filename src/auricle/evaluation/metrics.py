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


def compute_metrics(outcomes: ClipOutcomes) -> dict[str, float]:
    """All headline metrics."""
    weighted = weighted_metrics(outcomes, np.ones((1, len(outcomes.truth))))
    return {name: float(values[0]) for name, values in weighted.items()}


def weighted_metrics(outcomes: ClipOutcomes, weights: np.ndarray) -> dict[str, np.ndarray]:
    """All headline metrics (rows,), for rows of weights (rows, clips): each clip counts so many times."""
    total = weights.sum(1)
    hits, support, predicted = _class_counts(outcomes, weights)
    present = support > 0
    involved = present | (predicted > 0)
    recall = hits / np.where(present, support, 1.0)
    f1 = 2 * hits / np.where(involved, support + predicted, 1.0)
    values = {
        "accuracy": (weights * outcomes.correct).sum(1) / total,
        "balanced_accuracy": recall.sum(1) / present.sum(1),
        "macro_f1": f1.sum(1) / involved.sum(1),
        "log_loss": (weights * outcomes.loss).sum(1) / total,
        "calibration_error": _calibration_error(outcomes, weights),
    }
    if outcomes.top_k < outcomes.classes:
        values[f"top_{outcomes.top_k}_accuracy"] = (weights * outcomes.in_top).sum(1) / total
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
    hits, support, predicted = (counts[0] for counts in _class_counts(outcomes, np.ones((1, len(scores)))))
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


def _counts(numbers: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """The sums of weights (rows, clips) by the numbers of the clips, below `size`: (rows, size)."""
    rows = len(weights)
    flat = (np.arange(rows)[:, None] * size + numbers).ravel()
    return np.bincount(flat, weights.ravel(), minlength=rows * size).reshape(rows, size)


def _class_counts(outcomes: ClipOutcomes, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted hits, true clips and predicted clips of each class: (rows, classes) of each."""
    hits = _counts(outcomes.truth, weights * outcomes.correct, outcomes.classes)
    support = _counts(outcomes.truth, weights, outcomes.classes)
    return hits, support, _counts(outcomes.predicted, weights, outcomes.classes)


def _calibration_error(outcomes: ClipOutcomes, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error over equal-width bins of confidence (Guo et al., 2017, eq. 5): (rows,)."""
    bins = confidence_bin(outcomes.confidence, CALIBRATION_BINS)
    gap = _counts(bins, weights * (outcomes.confidence - outcomes.correct), CALIBRATION_BINS)
    return np.asarray(np.abs(gap).sum(1) / weights.sum(1))
