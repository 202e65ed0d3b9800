"""95 % bootstrap intervals: over groups where the groups are known, over clips otherwise.

Clips of one speaker are not independent: resampling whole groups widens the interval accordingly (Field and Welsh,
2007).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.evaluation.metrics import ClipOutcomes, compute_metrics


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """How a bootstrap is run: how often, from which seed, and what a group is called."""

    resamples: int
    seed: int
    group_name: str


@dataclass(frozen=True)
class Bootstrap:
    """How often each resample draws each unit (resamples, units), and each clip's unit (clips,)."""

    counts: np.ndarray
    unit_of: np.ndarray
    unit: str
    units: int

    def weights(self) -> Iterator[np.ndarray]:
        """Clip weights (clips,) of one resample after the other."""
        for row in self.counts:
            yield row[self.unit_of].astype(np.float64)


def bootstrap(groups: Sequence[str | None], resampling: Resampling) -> Bootstrap:
    """Draw groups with replacement, or clips where fewer than two groups are known. `groups` (clips,)."""
    known = sorted({group for group in groups if group is not None})
    if len(known) >= 2 and None not in groups:
        number_of = {group: number for number, group in enumerate(known)}
        unit_of = np.array([number_of[group] for group in groups if group is not None])
        unit, units = resampling.group_name, len(known)
    else:
        unit_of, unit, units = np.arange(len(groups)), "clip", len(groups)
    random = np.random.default_rng(resampling.seed)
    counts = random.multinomial(units, np.full(units, 1 / units), size=resampling.resamples).astype(np.uint16)
    return Bootstrap(counts, unit_of, unit, units)


def percentile_interval(value: float, estimates: Sequence[float] | np.ndarray) -> Interval:
    """A value with the 2.5 and 97.5 percentiles of its estimates on the resamples."""
    low, high = np.quantile(estimates, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def mean_interval(values: np.ndarray, weights: Iterable[np.ndarray]) -> Interval:
    """The mean of numbers or truths (clips,), with the interval of its weighted means; resamples without a clip are
    skipped.
    """
    values = values.astype(np.float64)
    means = [float(weight @ values / weight.sum()) for weight in weights if weight.any()]
    return percentile_interval(float(values.mean()), means)


def metric_intervals(
    outcomes: ClipOutcomes, resampled: Bootstrap, minus: ClipOutcomes | None = None
) -> dict[str, Interval]:
    """Every headline metric with its interval; with `minus`, how much it exceeds that of other outcomes of the same
    clips, resampled together.
    """

    def measure(weight: np.ndarray | None = None) -> dict[str, float]:
        own = compute_metrics(outcomes, weight)
        other = dict.fromkeys(own, 0.0) if minus is None else compute_metrics(minus, weight)
        return {name: value - other[name] for name, value in own.items()}

    estimates = [measure(weight) for weight in resampled.weights()]
    return {name: percentile_interval(value, [row[name] for row in estimates]) for name, value in measure().items()}
