"""One number that makes a model's probabilities honest: the temperature that its logits are divided by.

In: validation logits, truth and groups. Out: the temperature that makes them likeliest. It changes no answer, only how
sure the model says it is (Guo et al. 2017, "On Calibration of Modern Neural Networks"). Clips of one speaker are right
or wrong together, so they are counted as fewer: one easy speaker must not make a model sure of all others.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

# What is known before any clip was seen: networks are seldom off by more than a factor of two or three. As much as one
# clip can say against many, and enough that ten clips without a mistake do not make a model certain of everything.
SPREAD = 0.5
LIMIT = 3.0
# How much two clips of one group say the same: m clips count as m / (1 + (m - 1) * ALIKE) (Kish 1965, design effect).
ALIKE = 0.2


def fit(logits: np.ndarray, truth: np.ndarray, groups: Sequence[str | None] | None = None) -> float:
    """Find the temperature of logits (clips, classes) whose classes are truth (clips,); 1 where there are no clips.

    `groups` (clips,) are those that clips belong to, None for a clip on its own. Minimises the negative log-likelihood
    over the logarithm of the temperature, under a log-normal prior.
    """
    if not len(truth):
        return 1.0
    wide = logits.astype(np.float64)
    rows = np.arange(len(truth))
    weight = _weights(groups if groups is not None else [None] * len(truth))

    def cost(log_temperature: float) -> float:
        scaled = wide * np.exp(-log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        likelihood = scaled[rows, truth] - np.log(np.exp(scaled).sum(1))
        return float(0.5 * (log_temperature / SPREAD) ** 2 - weight @ likelihood)

    found = minimize_scalar(cost, bounds=(-LIMIT, LIMIT), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _weights(groups: Sequence[str | None]) -> np.ndarray:
    """How much each clip counts: 1 on its own, less among others of its group."""
    sizes = Counter(groups)
    return np.array([1.0 if group is None else 1.0 / (1.0 + (sizes[group] - 1) * ALIKE) for group in groups])
