"""How much of a figure is luck of the draw: the same split, trained from several seeds.

In: for each seed the scores of the same test clips. Out: plain data for report.json. Between seeds only what training
draws differs, so this spread stands beside the interval over clips or groups, and is no part of it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from auricle.evaluation import metrics
from auricle.evaluation.scoring import Scores


def spread(seeds: Sequence[int], judged: Sequence[Scores], top_k: int) -> dict[str, Any]:
    """Each metric's values in the order of the seeds, their mean, standard deviation (n - 1) and range."""
    measured = [metrics.measure(metrics.judge(scores.truth, scores.logits, top_k)) for scores in judged]
    found = {}
    for name in measured[0]:
        values = [float(figures[name]) for figures in measured]
        found[name] = {
            "values": values,
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)),
            "low": min(values),
            "high": max(values),
        }
    return {"seeds": list(seeds), "metrics": found}
