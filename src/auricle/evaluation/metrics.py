"""What the scores amount to. Every metric takes clip weights, so that a bootstrap resample is one more set of weights.

In: truth and logits. Out: plain numbers. Definitions follow scikit-learn: balanced accuracy is the mean recall of the
classes that occur, macro-F1 the mean F1 of the classes that occur or are predicted.
"""

from dataclasses import dataclass

import numpy as np

from auricle.evaluation.scoring import Scores, softmax

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Judged:
    """What the metrics need of each clip, worked out once: (clips,) arrays, and the number of classes."""

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


def judge(truth: np.ndarray, logits: np.ndarray, top_k: int = 3) -> Judged:
    """Work out each clip's part of the metrics: truth (clips,) int, logits (clips, classes)."""
    probabilities = softmax(logits)
    rows = np.arange(len(truth))
    own = probabilities[rows, truth]
    # A tie goes to the class that comes first, as argmax has it: equal logits for all are no top-k success.
    own_logit = logits[rows, truth][:, None]
    earlier = np.arange(logits.shape[1])[None, :] < truth[:, None]
    above = ((logits > own_logit) | ((logits == own_logit) & earlier)).sum(1)
    return Judged(
        truth=truth,
        predicted=logits.argmax(1),
        confidence=probabilities.max(1),
        loss=-np.log(np.maximum(own, 1e-15)),
        in_top=(above < top_k).astype(np.float64),
        classes=logits.shape[1],
        top_k=min(top_k, logits.shape[1]),
    )


def measure(judged: Judged, weight: np.ndarray | None = None) -> dict[str, float]:
    """All headline metrics, each clip counting `weight` times (clips,)."""
    weight = np.ones(len(judged.truth)) if weight is None else weight
    total = weight.sum()
    hits, occur, said = _per_class(judged, weight)
    present = occur > 0
    involved = present | (said > 0)
    f1 = 2 * hits[involved] / (occur + said)[involved]
    found = {
        "accuracy": float((weight * judged.correct).sum() / total),
        "balanced_accuracy": float((hits[present] / occur[present]).mean()),
        "macro_f1": float(f1.mean()),
        "log_loss": float((weight * judged.loss).sum() / total),
        "calibration_error": _calibration_error(judged, weight),
    }
    if judged.top_k < judged.classes:
        found[f"top_{judged.top_k}_accuracy"] = float((weight * judged.in_top).sum() / total)
    return found


@dataclass(frozen=True)
class ClassRow:
    """One class of the per-class table; precision is 0 where the class was never predicted."""

    label: str
    clips: int
    precision: float
    recall: float
    f1: float


def per_class(scores: Scores) -> list[ClassRow]:
    """Precision, recall and F1 of every class."""
    judged = judge(scores.truth, scores.logits)
    hits, occur, said = _per_class(judged, np.ones(len(scores)))
    return [
        ClassRow(
            label,
            int(occur[row]),
            float(hits[row] / said[row]) if said[row] else 0.0,
            float(hits[row] / occur[row]) if occur[row] else 0.0,
            float(2 * hits[row] / (occur[row] + said[row])) if occur[row] + said[row] else 0.0,
        )
        for row, label in enumerate(scores.labels)
    ]


def confusion(scores: Scores) -> np.ndarray:
    """Counts (true class, predicted class)."""
    classes = len(scores.labels)
    pairs = scores.truth * classes + scores.predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def calibration_curve(scores: Scores, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, clips) of each confidence bin that holds clips."""
    judged = judge(scores.truth, scores.logits)
    place = np.minimum((judged.confidence * bins).astype(int), bins - 1)
    rows = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            mean = float(judged.confidence[inside].mean())
            rows.append((mean, float(judged.correct[inside].mean()), int(inside.sum())))
    return rows


def _per_class(judged: Judged, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits = np.bincount(judged.truth, weight * judged.correct, minlength=judged.classes)
    occur = np.bincount(judged.truth, weight, minlength=judged.classes)
    said = np.bincount(judged.predicted, weight, minlength=judged.classes)
    return hits, occur, said


def _calibration_error(judged: Judged, weight: np.ndarray) -> float:
    """Expected calibration error over equal-width bins of confidence (Guo et al., 2017, eq. 5)."""
    place = np.minimum((judged.confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = np.bincount(place, weight * (judged.confidence - judged.correct), minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / weight.sum())
