"""Error rates of scored verification trials: EER, minDCF and their 95 % intervals.

In: scores, and which trials are target trials (both recordings are of one speaker). Out: the equal error rate and the
minimum detection cost (NIST SRE). Trials that share a speaker are not independent: the bootstrap resamples whole
speakers, for both sides of the trials at once, and a trial counts as often as its sides were drawn (a joint bootstrap,
Poh et al. 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.errors import DataError
from auricle.evaluation.intervals import Bootstrap, Interval, Resampling, bootstrap, percentile_interval

P_TARGETS = (0.01, 0.05)
RESAMPLES = 1000
METRICS = ("eer", *(f"min_dcf_{p_target:g}" for p_target in P_TARGETS))


@dataclass(frozen=True, eq=False)
class RankedTrials:
    """Trials from the highest score down: their order, where runs of equal scores end, which are targets."""

    order: np.ndarray
    run_ends: np.ndarray
    target: np.ndarray

    def error_rates(self, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Miss rates and false-accept rates as the threshold falls: from nothing accepted to everything.

        `weight` (trials,) is how often each trial counts; None where no target or no non-target trial counts.
        """
        counts = np.ones(len(self.order)) if weight is None else weight[self.order]
        hits = np.cumsum(np.where(self.target, counts, 0.0))
        false_accepts = np.cumsum(np.where(self.target, 0.0, counts))
        if not hits[-1] or not false_accepts[-1]:
            return None
        miss = 1 - np.concatenate([[0.0], hits[self.run_ends] / hits[-1]])
        return miss, np.concatenate([[0.0], false_accepts[self.run_ends] / false_accepts[-1]])


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


def eer(scores: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The rate at which misses and false accepts are equal, interpolated linearly between thresholds.

    scores, target (bool) and weight are (trials,). Raises DataError without targets or without non-targets.
    """
    return _eer(*_required(rank(scores, target).error_rates(weight)))


def min_dcf(
    scores: np.ndarray,
    target: np.ndarray,
    p_target: float,
    weight: np.ndarray | None = None,
    *,
    c_miss: float = 1.0,
    c_false_accept: float = 1.0,
) -> float:
    """The minimum normalised detection cost over all thresholds (NIST SRE evaluation plans).

    C = c_miss p_target P_miss + c_false_accept (1 - p_target) P_false_accept, divided by the cheaper of accepting all
    and accepting none; 1 is no information. Arguments and errors as in `eer`.
    """
    return _min_dcf(*_required(rank(scores, target).error_rates(weight)), p_target, c_miss, c_false_accept)


def error_rate_intervals(
    scores: np.ndarray,
    target: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    units: Sequence[str],
    unit_name: str,
    seed: int = 0,
) -> tuple[dict[str, Interval], Bootstrap]:
    """EER and minDCF of scored trials with 95 % intervals, and the resamples that the intervals come from.

    `left` and `right` (trials,) are indices into `units`, which names the speaker (or the file) of each recording.
    Skips resamples without targets or without non-targets. Raises DataError where the trials themselves lack one kind.
    """
    ranked = rank(scores, target)
    used = np.unique(np.concatenate([left, right]))
    resampled = bootstrap([units[row] for row in used], Resampling(RESAMPLES, seed, unit_name))
    unit_of = np.zeros(len(units), dtype=np.int64)
    unit_of[used] = resampled.unit_of
    left, right = unit_of[left], unit_of[right]
    values = _metrics(*_required(ranked.error_rates()))
    replicates = []
    for counts in resampled.counts.astype(np.float64):
        # A speaker drawn twice is two people: each forms trials with itself, never with its copy.
        rates = ranked.error_rates(np.where(left == right, counts[left], counts[left] * counts[right]))
        if rates is not None:
            replicates.append(_metrics(*rates))
    if not replicates:  # the interval is the whole range
        return {name: Interval(value, 0.0, 1.0) for name, value in zip(METRICS, values, strict=True)}, resampled
    rows = zip(METRICS, values, zip(*replicates, strict=True), strict=True)
    return {name: percentile_interval(value, column) for name, value, column in rows}, resampled


def _metrics(miss: np.ndarray, false_accept: np.ndarray) -> list[float]:
    return [_eer(miss, false_accept), *(_min_dcf(miss, false_accept, p_target) for p_target in P_TARGETS)]


def _eer(miss: np.ndarray, false_accept: np.ndarray) -> float:
    """Where the falling miss rate meets the rising false-accept rate."""
    after = int(np.argmax(false_accept >= miss))
    if after == 0:
        return float(miss[0])
    gap = np.array([miss[after - 1] - false_accept[after - 1], false_accept[after] - miss[after]])
    share = gap[0] / gap.sum()
    return float(miss[after - 1] + share * (miss[after] - miss[after - 1]))


def _min_dcf(
    miss: np.ndarray, false_accept: np.ndarray, p_target: float, c_miss: float = 1.0, c_false_accept: float = 1.0
) -> float:
    miss_cost, accept_cost = c_miss * p_target, c_false_accept * (1 - p_target)
    return float((miss_cost * miss + accept_cost * false_accept).min() / min(miss_cost, accept_cost))


def _required(rates: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
    if rates is None:
        raise DataError("Error rates need target and non-target trials with a weight above 0.")
    return rates
