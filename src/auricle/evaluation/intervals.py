"""95 % intervals over groups where the groups are known, over clips otherwise, and whether they can be relied on.

In: a metric and its standard error over units, from a bootstrap or, for a mean, in closed form. Clips of one speaker
are not independent, so units are whole groups (Field and Welsh, 2007). Out: for a share a Wilson interval whose sample
size is the effective one, reduced by the t quantile (Korn and Graubard, 1998; Franco et al., 2019); else t intervals.
Groups of unequal size count as fewer. Percentiles of a bootstrap would be too narrow near 0 and 1 and over few groups.
Paired differences of two models: t intervals with a cluster-robust error (`unit_mean`).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import numpy as np

from auricle.evaluation.metrics import ClipOutcomes, compute_metrics, metric_info, weighted_metrics
from auricle.preparation.formatting import decimal_range, percent_range

METHOD = "Wilson with an effective sample size and a t quantile; differences and log loss: t"
LEVEL = 0.95
NORMAL_QUANTILE = 1.959964
# An interval is reliable over at least so many units, with so many independent clips on the rarer side, right or wrong.
# `python -m benchmarks coverage` chose the second number on its design cells and checks it on cells of other sizes.
MIN_UNITS, MIN_RARER = 5, 7.0
ROUNDING = 1e-9
# The weights that are in memory at a time.
BLOCK_VALUES = 2**18
# What a metric's values lie between.
SHARE, AMOUNT, SHARE_DIFFERENCE, AMOUNT_DIFFERENCE = (0.0, 1.0), (0.0, inf), (-1.0, 1.0), (-inf, inf)


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval. One that is not `reliable` is a rough guide: it may cover less than it claims."""

    value: float
    low: float
    high: float
    reliable: bool = True

    @property
    def _mark(self) -> str:
        return "" if self.reliable else ", rough"

    @property
    def percents(self) -> str:
        """As in "88.8 to 96.0", of shares in per cent."""
        return percent_range(self.low, self.high) + self._mark

    def decimals(self, digits: int = 3) -> str:
        """As in "0.888 to 0.960, rough"."""
        return decimal_range(self.low, self.high, digits) + self._mark

    @property
    def excludes_zero(self) -> bool:
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Units:
    """How many units there are, and how many of equal size vary as much (Kish, 1965)."""

    count: int
    effective: float

    @classmethod
    def of(cls, unit_of: np.ndarray) -> "Units":
        """Those of some clips, from each one's unit (clips,)."""
        sizes = np.unique(unit_of, return_counts=True)[1].astype(np.float64)
        return cls(len(sizes), float(sizes.sum() ** 2 / (sizes @ sizes)))

    @property
    def correction(self) -> float:
        """What the variance between units, measured around their own mean, is multiplied by."""
        return self.effective / max(self.effective - 1, 0.5)


def interval(value: float, error: float, units: Units, bounds: tuple[float, float] = SHARE) -> Interval:
    """The interval of a value between `bounds` with a standard `error` over `units`.

    Where the error is 0, because all units agree, a share has the interval of one over as many independent clips as
    there are units, and a difference the width of that at a share of 0.
    """
    from scipy.special import stdtrit

    quantile = float(stdtrit(max(1, units.effective - 1), (1 + LEVEL) / 2))
    enough = units.count >= MIN_UNITS
    if bounds != SHARE:
        half = quantile * error if error > ROUNDING else quantile**2 / (units.effective + quantile**2)
        return Interval(value, max(bounds[0], value - half), min(bounds[1], value + half), enough)
    variance = max(0.0, value * (1 - value))
    size = max(1.0, variance / error**2) if error > ROUNDING else units.effective
    size *= (NORMAL_QUANTILE / quantile) ** 2
    odds = NORMAL_QUANTILE**2 / size
    middle = (value + odds / 2) / (1 + odds)
    half = sqrt(odds * variance + odds**2 / 4) / (1 + odds)
    rarer = size * min(value, 1 - value)
    return Interval(
        value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)), enough and rarer >= MIN_RARER
    )


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
        return itertools.chain.from_iterable(self.blocks())

    def blocks(self) -> Iterator[np.ndarray]:
        """Clip weights of some resamples at a time: (some, clips)."""
        some = max(1, BLOCK_VALUES // max(1, len(self.unit_of)))
        for start in range(0, len(self.counts), some):
            yield self.counts[start : start + some, self.unit_of].astype(np.float64)


def unit_numbers(groups: Sequence[str | None]) -> tuple[np.ndarray, bool]:
    """Number the unit of each clip (clips,), and whether units are groups: not where fewer than two are known, or a
    clip has none.
    """
    if None in groups or len(set(groups)) < 2:
        return np.arange(len(groups)), False
    return np.unique([str(group) for group in groups], return_inverse=True)[1], True


def bootstrap(groups: Sequence[str | None], resampling: Resampling) -> Bootstrap:
    """Draw units with replacement. `groups` (clips,)."""
    unit_of, grouped = unit_numbers(groups)
    units = int(unit_of.max(initial=-1)) + 1
    random = np.random.default_rng(resampling.seed)
    counts = random.multinomial(units, np.full(units, 1 / units), size=resampling.resamples).astype(np.uint16)
    return Bootstrap(counts, unit_of, resampling.group_name if grouped else "clip", units)


def bootstrap_error(estimates: Sequence[Any] | np.ndarray, units: Units) -> np.ndarray:
    """The standard error (metrics,) of estimates on resamples (resamples, metrics) of units."""
    return np.asarray(np.std(estimates, axis=0) * sqrt(units.correction))


def mean_interval(values: np.ndarray, unit_of: np.ndarray) -> Interval:
    """The interval of the mean of shares or truths (clips,) over the units that the clips (clips,) are of."""
    units, mean = Units.of(unit_of), float(np.mean(values))
    residuals = np.bincount(unit_of, values.astype(np.float64) - mean)
    return interval(mean, sqrt(units.correction * float(residuals @ residuals)) / len(values), units)


@dataclass(frozen=True)
class UnitMean:
    """A mean with its standard error, that error's degrees of freedom, and the number of units.

    `estimable` is false where one unit holds a whole class: how much units vary there cannot be measured.
    """

    value: float
    error: float
    freedom: float
    units: int
    estimable: bool

    def interval(self, bounds: tuple[float, float]) -> Interval:
        """The t interval of a value between `bounds`."""
        between = interval(self.value, self.error, Units(self.units, self.freedom + 1), bounds)
        return replace(between, reliable=between.reliable and self.estimable)


def unit_mean(values: np.ndarray, unit_of: np.ndarray, classes: np.ndarray | None = None) -> UnitMean:
    """The mean of the clips' values (clips,), or of their means in each of the `classes` (clips,), over units (clips,).

    As a regression on the classes with the cluster-robust error CR2 and Satterthwaite's degrees of freedom (Bell and
    McCaffrey, 2002), which hold for few units, units of unequal size, and classes that only some units have. The
    leverage of a unit's clips of a class is their share of the class.
    """
    from scipy import sparse

    numbers = np.zeros(len(values), np.int64) if classes is None else np.unique(classes, return_inverse=True)[1]
    units, count = int(unit_of.max()) + 1, int(numbers.max()) + 1
    support = np.bincount(numbers)
    means = np.bincount(numbers, values) / support
    cells, cell_of, sizes = np.unique(unit_of * count + numbers, return_inverse=True, return_counts=True)
    unit, number = np.divmod(cells, count)
    leverage = sizes / support[number]
    alone = sizes == support[number]
    weight = np.where(alone, 0.0, 1 / np.sqrt(np.where(alone, 1.0, 1 - leverage))) / (count * support[number])
    sums = np.bincount(unit, weight * np.bincount(cell_of, values - means[numbers]), units)
    # The covariance of the units' sums, if clips were independent, is diag(own) - shared shared'.
    own = np.bincount(unit, weight**2 * sizes, units)
    shared = sparse.csr_array((weight * sizes / np.sqrt(support[number]), (unit, number)), (units, count))
    lost = np.asarray(shared.power(2).sum(1)).ravel()
    trace = float((own - lost).sum())
    square = float((own**2 - 2 * own * lost).sum() + (shared.T @ shared).power(2).sum())
    freedom = max(1.0, trace**2 / square) if trace > 0 else 1.0
    return UnitMean(float(means.mean()), sqrt(float(sums @ sums)), freedom, units, not bool(alone.any()))


def paired_difference(
    values: np.ndarray,
    unit_of: np.ndarray,
    classes: np.ndarray | None = None,
    bounds: tuple[float, float] = SHARE_DIFFERENCE,
) -> Interval:
    """The interval of the `unit_mean` of differences (clips,) of two models on the same clips.

    Reliable over enough units and enough clips whose differences are not 0.
    """
    between = unit_mean(values, unit_of, classes).interval(bounds)
    return replace(between, reliable=between.reliable and bool(np.count_nonzero(values) >= MIN_RARER))


def metric_intervals(
    outcomes: ClipOutcomes, resampled: Bootstrap, minus: ClipOutcomes | None = None
) -> dict[str, Interval]:
    """Every headline metric with its interval; with `minus`, how much it exceeds that of other outcomes of the same
    clips. Metrics that are means over clips or classes have a `paired_difference`; others are resampled together, and
    their difference is reliable where both metrics are.
    """
    units = Units.of(resampled.unit_of)
    values, estimates = _resampled_metrics(outcomes, resampled)
    intervals = _intervals(values, estimates, units, SHARE, AMOUNT)
    if minus is None:
        return intervals
    other_values, other_estimates = _resampled_metrics(minus, resampled)
    others = _intervals(other_values, other_estimates, units, SHARE, AMOUNT)
    gains = {name: value - other_values[name] for name, value in values.items()}
    differences = {
        name: replace(gain, reliable=gain.reliable and intervals[name].reliable and others[name].reliable)
        for name, gain in _intervals(
            gains, estimates - other_estimates, units, SHARE_DIFFERENCE, AMOUNT_DIFFERENCE
        ).items()
    }
    changed, unit_of = outcomes.correct - minus.correct, resampled.unit_of
    differences["accuracy"] = paired_difference(changed, unit_of)
    differences["balanced_accuracy"] = paired_difference(changed, unit_of, outcomes.truth)
    differences["log_loss"] = paired_difference(outcomes.loss - minus.loss, unit_of, bounds=AMOUNT_DIFFERENCE)
    if (name := f"top_{outcomes.top_k}_accuracy") in differences:
        differences[name] = paired_difference(outcomes.in_top - minus.in_top, unit_of)
    if np.array_equal(outcomes.predicted, minus.predicted):  # they agree on every clip
        differences.update({name: Interval(0.0, 0.0, 0.0) for name, value in gains.items() if value == 0})
    return differences


def _resampled_metrics(outcomes: ClipOutcomes, resampled: Bootstrap) -> tuple[dict[str, float], np.ndarray]:
    """The metrics, and their estimates (resamples, metrics)."""
    blocks = [list(weighted_metrics(outcomes, weights).values()) for weights in resampled.blocks()]
    return compute_metrics(outcomes), np.concatenate(blocks, 1).T


def _intervals(
    values: dict[str, float],
    estimates: np.ndarray,
    units: Units,
    share: tuple[float, float],
    amount: tuple[float, float],
) -> dict[str, Interval]:
    errors = bootstrap_error(estimates, units)
    return {
        name: interval(value, float(error), units, share if metric_info(name).is_share else amount)
        for (name, value), error in zip(values.items(), errors, strict=True)
    }
