"""Error rates of scored verification trials: EER, minDCF and their 95 % intervals.

In: scores, and which trials are target trials (both recordings are of one speaker). Trials that share a speaker are not
independent: standard errors come from a bootstrap of whole speakers, for both sides of the trials at once, where a
trial counts as often as its sides were drawn (a joint bootstrap, Poh et al. 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.errors import DataError
from auricle.evaluation.intervals import Bootstrap, Interval, Resampling, Units, bootstrap, bootstrap_error, interval

P_TARGETS = (0.01, 0.05)
RESAMPLES = 1000
METRICS = ("eer", *(f"min_dcf_{p_target:g}" for p_target in P_TARGETS))


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of files: `files` once each; for each trial the indices of its two, and whether one speaker is in both."""

    files: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def select(self, keep: np.ndarray) -> "Trials":
        """The trials for which `keep` (trials,) bool is true, of the same files."""
        return Trials(self.files, self.left[keep], self.right[keep], self.target[keep])


@dataclass(frozen=True, eq=False)
class ErrorRates:
    """Miss rates and false-accept rates as the threshold falls: from nothing accepted to everything."""

    miss: np.ndarray
    false_accept: np.ndarray

    @property
    def eer(self) -> float:
        """The rate at which misses and false accepts are equal, interpolated linearly between thresholds."""
        after = int(np.argmax(self.false_accept >= self.miss))
        if after == 0:
            return float(self.miss[0])
        before_gap, after_gap = np.abs(self.miss - self.false_accept)[after - 1 : after + 1]
        share = before_gap / (before_gap + after_gap)
        return float(self.miss[after - 1] + share * (self.miss[after] - self.miss[after - 1]))

    def min_dcf(self, p_target: float) -> float:
        """The minimum normalised detection cost over all thresholds (NIST SRE evaluation plans), errors costing 1.

        C = p_target P_miss + (1 - p_target) P_false_accept, divided by the cheaper of accepting all and accepting none;
        1 is no information.
        """
        cost = p_target * self.miss + (1 - p_target) * self.false_accept
        return float(cost.min() / min(p_target, 1 - p_target))

    @property
    def metrics(self) -> list[float]:
        """The values of METRICS."""
        return [self.eer, *(self.min_dcf(p_target) for p_target in P_TARGETS)]


@dataclass(frozen=True, eq=False)
class RankedTrials:
    """Trials from the highest score down: their order, where runs of equal scores end, which are targets."""

    order: np.ndarray
    run_ends: np.ndarray
    target: np.ndarray

    def error_rates(self, weight: np.ndarray) -> ErrorRates | None:
        """The error rates where each trial counts `weight` (trials,) times; None without targets or non-targets."""
        counts = weight[self.order]
        hits = np.cumsum(np.where(self.target, counts, 0.0))
        false_accepts = np.cumsum(np.where(self.target, 0.0, counts))
        if not hits[-1] or not false_accepts[-1]:
            return None
        miss = 1 - np.concatenate([[0.0], hits[self.run_ends] / hits[-1]])
        return ErrorRates(miss, np.concatenate([[0.0], false_accepts[self.run_ends] / false_accepts[-1]]))


def rank(scores: np.ndarray, target: np.ndarray) -> RankedTrials:
    """Sort trials by score once, for however many weights. Raises DataError without targets or without non-targets."""
    target = np.asarray(target, bool)
    if target.all() or not target.any():
        raise DataError(
            f"Error rates need target and non-target trials: received {int(target.sum())} target and "
            f"{int((~target).sum())} non-target trials."
        )
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked = np.asarray(scores, np.float64)[order]
    return RankedTrials(order, np.flatnonzero(np.append(np.diff(ranked) != 0, True)), target[order])


def error_rate_intervals(
    scores: np.ndarray, trials: Trials, speakers: Sequence[str] | None
) -> tuple[dict[str, Interval], Bootstrap]:
    """EER and minDCF of scored trials with 95 % intervals, and the resamples behind their standard errors.

    `speakers` are those of the files; without them files are resampled. Skips resamples without targets or without
    non-targets. Raises DataError where the trials themselves lack one kind.
    """
    units, unit_name = (trials.files, "file") if speakers is None else (speakers, "speaker")
    ranked = rank(scores, trials.target)
    observed = ranked.error_rates(np.ones(len(ranked.order)))
    assert observed is not None
    used = np.unique(np.concatenate([trials.left, trials.right]))
    resampled = bootstrap([units[row] for row in used], Resampling(RESAMPLES, 0, unit_name))
    unit_of = np.zeros(len(units), dtype=np.int64)
    unit_of[used] = resampled.unit_of
    left, right = unit_of[trials.left], unit_of[trials.right]
    replicates = []
    for counts in resampled.counts.astype(np.float64):
        # A speaker drawn twice is two people: each forms trials with itself, never with its copy.
        rates = ranked.error_rates(np.where(left == right, counts[left], counts[left] * counts[right]))
        if rates is not None:
            replicates.append(rates.metrics)
    if not replicates:  # the interval is the whole range
        values = zip(METRICS, observed.metrics, strict=True)
        return {name: Interval(value, 0.0, 1.0, reliable=False) for name, value in values}, resampled
    independent = Units.of(resampled.unit_of)
    rows = zip(METRICS, observed.metrics, bootstrap_error(replicates, independent), strict=True)
    return {name: interval(value, float(error), independent) for name, value, error in rows}, resampled
