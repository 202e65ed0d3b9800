"""One number that makes a model's probabilities honest: the temperature that its logits are divided by.

In: validation logits and truth. Out: the temperature that makes them likeliest. It changes no answer, only how sure
the model says it is (Guo et al. 2017, "On Calibration of Modern Neural Networks").
"""

import numpy as np
from scipy.optimize import minimize_scalar

# What is known before any clip was seen: networks are seldom off by more than a factor of two or three. As much as one
# clip can say against many, and enough that ten clips without a mistake do not make a model certain of everything.
SPREAD = 0.5
LIMIT = 3.0


def fit(logits: np.ndarray, truth: np.ndarray) -> float:
    """Find the temperature of logits (clips, classes) whose classes are truth (clips,); 1 where there are no clips.

    Minimises the negative log-likelihood over the logarithm of the temperature, under a log-normal prior.
    """
    if not len(truth):
        return 1.0
    wide = logits.astype(np.float64)
    rows = np.arange(len(truth))

    def cost(log_temperature: float) -> float:
        scaled = wide * np.exp(-log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        likelihood = scaled[rows, truth] - np.log(np.exp(scaled).sum(1))
        return float(0.5 * (log_temperature / SPREAD) ** 2 - likelihood.sum())

    found = minimize_scalar(cost, bounds=(-LIMIT, LIMIT), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
