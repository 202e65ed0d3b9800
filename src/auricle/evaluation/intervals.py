"""How sure a figure is: 95 % bootstrap intervals over groups where there are groups, over clips otherwise.

Clips of one speaker are not independent: resampling whole groups lets the interval say so (Field and Welsh, 2007).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.evaluation.metrics import Judged, measure


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """How often each bootstrap resample draws each unit (resamples, units), and each clip's unit (clips,)."""

    counts: np.ndarray
    unit_of: np.ndarray
    unit: str
    units: int

    def weights(self) -> Iterator[np.ndarray]:
        """Clip weights (clips,) of one resample after the other."""
        for row in self.counts:
            yield row[self.unit_of].astype(np.float64)


def resample(groups: Sequence[str | None], clips: int, resamples: int, seed: int, group_name: str) -> Resamples:
    """Draw groups with replacement, or clips where fewer than two groups are known."""
    named = sorted({group for group in groups if group is not None})
    if len(named) >= 2 and all(group is not None for group in groups):
        place = {group: number for number, group in enumerate(named)}
        unit_of = np.array([place[group] for group in groups if group is not None])
        unit, units = group_name, len(named)
    else:
        unit_of, unit, units = np.arange(clips), "clip", clips
    random = np.random.default_rng(seed)
    counts = random.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.uint16)
    return Resamples(counts, unit_of, unit, units)


def intervals(judged: Judged, drawn: Resamples) -> dict[str, Interval]:
    """Every headline metric with its percentile interval."""
    values = measure(judged)
    tries = [measure(judged, weight) for weight in drawn.weights()]
    return {name: _interval(value, np.array([row[name] for row in tries])) for name, value in values.items()}


def differences(judged: Judged, other: Judged, drawn: Resamples) -> dict[str, Interval]:
    """How much better the first is than the second on the same clips, resampled together."""
    ours, theirs = measure(judged), measure(other)
    tries = [(measure(judged, weight), measure(other, weight)) for weight in drawn.weights()]
    return {
        name: _interval(ours[name] - theirs[name], np.array([a[name] - b[name] for a, b in tries])) for name in ours
    }


def _interval(value: float, tries: np.ndarray) -> Interval:
    low, high = np.quantile(tries, [0.025, 0.975])
    return Interval(value, float(low), float(high))
