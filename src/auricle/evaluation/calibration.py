"""Whether confidence can be trusted: temperature scaling, the reliability diagram, the risk-coverage curve.

In: logits and truth. Out: the temperature to divide logits by (Guo et al. 2017, "On Calibration of Modern Neural
Networks"), which changes confidence and no prediction; and the points of the two curves. Clips of one group are not
independent, so the fit counts them as fewer: one easy speaker must not make a model confident about all others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.evaluation.metrics import confidence_bin, evaluate_logits
from auricle.evaluation.scoring import Scores, confidence

# The prior's standard deviation, in log temperature: networks are seldom off by more than a factor of two or three. One
# clip weighs little against it, and ten clips without an error do not make a model certain of everything.
PRIOR_DEVIATION = 0.5
LOG_TEMPERATURE_LIMIT = 3.0
# The correlation of clips in one group: m clips count as m / (1 + (m - 1) * this) (Kish 1965, design effect).
GROUP_CORRELATION = 0.2
RELIABILITY_BINS = 10
COVERAGES = tuple(step / 10 for step in range(1, 11))


def fit_temperature(logits: np.ndarray, truth: np.ndarray, groups: Sequence[str | None] | None = None) -> float:
    """Fit the temperature of logits (clips, classes) with classes truth (clips,); 1 without clips.

    `groups` (clips,) are the clips' groups, None for a clip on its own. Minimises the negative log-likelihood over the
    logarithm of the temperature, under a log-normal prior.
    """
    if not len(truth):
        return 1.0
    from scipy.optimize import minimize_scalar

    wide = logits.astype(np.float64)
    rows = np.arange(len(truth))
    groups = groups if groups is not None else [None] * len(truth)
    sizes = Counter(groups)
    weight = np.array([1.0 if one is None else 1.0 / (1.0 + (sizes[one] - 1) * GROUP_CORRELATION) for one in groups])

    def cost(log_temperature: float) -> float:
        scaled = wide * np.exp(-log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        likelihood = scaled[rows, truth] - np.log(np.exp(scaled).sum(1))
        return float(0.5 * (log_temperature / PRIOR_DEVIATION) ** 2 - weight @ likelihood)

    bounds = (-LOG_TEMPERATURE_LIMIT, LOG_TEMPERATURE_LIMIT)
    optimum = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(optimum.x))


@dataclass(frozen=True)
class CalibrationBin:
    """The mean confidence and the accuracy of the clips in one bin of confidence."""

    confidence: float
    accuracy: float
    clips: int


def calibration_curve(scores: Scores) -> tuple[CalibrationBin, ...]:
    """The reliability diagram: the bins of confidence that hold clips."""
    outcomes = evaluate_logits(scores.truth, scores.logits)
    bins = confidence_bin(outcomes.confidence, RELIABILITY_BINS)
    return tuple(
        CalibrationBin(
            float(outcomes.confidence[inside].mean()), float(outcomes.correct[inside].mean()), int(inside.sum())
        )
        for number in range(RELIABILITY_BINS)
        if (inside := bins == number).any()
    )


@dataclass(frozen=True)
class CoveragePoint:
    """The accuracy on the share `coverage` of clips with the highest confidence, and the lowest confidence of them."""

    coverage: float
    clips: int
    accuracy: float
    confidence: float


def risk_coverage(scores: Scores) -> tuple[CoveragePoint, ...]:
    """Accuracy on the most confident clips, for ever larger shares of them (selective classification)."""
    values = confidence(scores.logits)
    order = np.argsort(-values, kind="stable")
    correct = scores.correct[order]
    points = []
    for share in COVERAGES:
        clips = max(1, round(share * len(scores)))
        points.append(CoveragePoint(share, clips, float(correct[:clips].mean()), float(values[order[clips - 1]])))
    return tuple(points)
