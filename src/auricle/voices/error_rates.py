"""How good a verification is: error rates of scored trials, and how sure they are.

In: scores and which trials are of one speaker (target). Out: the equal error rate, the least detection cost (NIST SRE),
and 95 % intervals. Trials that share a speaker are not independent: the bootstrap draws whole speakers, for both sides
of the trials at once, and a trial counts as often as its sides were drawn (a joint bootstrap, Poh et al. 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.errors import DataError
from auricle.evaluation.intervals import Interval

P_TARGETS = (0.01, 0.05)
RESAMPLES = 1000
_WORDS = {"1": True, "0": False, "target": True, "nontarget": False, "tgt": True, "imp": False}


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of files: `files` once each, and for each trial the places of its two and whether they are one speaker."""

    files: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def select(self, keep: np.ndarray) -> "Trials":
        """The trials for which `keep` (trials,) bool is true; the files stay as they are."""
        return Trials(self.files, self.left[keep], self.right[keep], self.target[keep])


@dataclass(frozen=True, eq=False)
class Ranked:
    """Trials from the highest score down: their order, where runs of equal scores end, which are targets."""

    order: np.ndarray
    ends: np.ndarray
    target: np.ndarray

    def rates(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Rates of misses and of false accepts as the threshold falls: from nothing accepted to everything.

        `weight` (trials,) is how often each counts; None where one kind of trial does not count at all.
        """
        drawn = weight[self.order]
        hits = np.cumsum(np.where(self.target, drawn, 0.0))
        alarms = np.cumsum(np.where(self.target, 0.0, drawn))
        if not hits[-1] or not alarms[-1]:
            return None
        miss = 1 - np.concatenate([[0.0], hits[self.ends] / hits[-1]])
        return miss, np.concatenate([[0.0], alarms[self.ends] / alarms[-1]])


def rank(scores: np.ndarray, target: np.ndarray) -> Ranked:
    """Sort trials by score once, for however many weights. Raises DataError where one kind of trial is missing."""
    target = np.asarray(target, bool)
    if target.all() or not target.any():
        raise DataError(
            f"Error rates need trials of one speaker and of two: received {int(target.sum())} of the former and "
            f"{int((~target).sum())} of the latter."
        )
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked = np.asarray(scores, np.float64)[order]
    return Ranked(order, np.flatnonzero(np.append(np.diff(ranked) != 0, True)), target[order])


def eer(scores: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The rate at which misses and false accepts are equal, on straight lines between the thresholds that there are.

    scores, target (bool) and weight are (trials,). Raises DataError where one kind of trial is missing.
    """
    ranked = rank(scores, target)
    return _equal(*_known(ranked.rates(np.ones(len(ranked.order)) if weight is None else weight)))


def min_dcf(
    scores: np.ndarray,
    target: np.ndarray,
    p_target: float,
    weight: np.ndarray | None = None,
    *,
    c_miss: float = 1.0,
    c_false_accept: float = 1.0,
) -> float:
    """The least normalised detection cost over all thresholds (NIST SRE evaluation plans): 1 is knowing nothing.

    C = c_miss p_target P_miss + c_false_accept (1 - p_target) P_false_accept, over the better of accepting all and
    none. Arguments and errors as in `eer`.
    """
    ranked = rank(scores, target)
    rates = _known(ranked.rates(np.ones(len(ranked.order)) if weight is None else weight))
    return _cost(*rates, p_target, c_miss, c_false_accept)


@dataclass(frozen=True)
class Drawn:
    """What the intervals are drawn over: `unit` is speaker or file, of which there are `units`."""

    unit: str
    units: int


def measured(
    scores: np.ndarray, trials: Trials, speakers: Sequence[str] | None, seed: int = 0
) -> tuple[dict[str, Interval], Drawn]:
    """EER and minDCF of scored trials with their 95 % intervals.

    `speakers` names the speaker of each file; without, files are drawn. Resamples in which one kind of trial is missing
    are passed over. Raises DataError where one kind of trial is missing altogether.
    """
    ranked = rank(scores, trials.target)
    unit_of = np.arange(len(trials.files))
    if speakers is not None:
        unit_of = np.unique(np.array(speakers), return_inverse=True)[1].reshape(-1)
    left, right = unit_of[trials.left], unit_of[trials.right]
    units = np.unique(np.concatenate([left, right]))
    values = _measure(*_known(ranked.rates(np.ones(len(trials)))))
    random = np.random.default_rng(seed)
    tries = []
    counts = np.zeros(int(unit_of.max()) + 1)
    for _ in range(RESAMPLES):
        counts[units] = random.multinomial(len(units), np.full(len(units), 1 / len(units)))
        # A copy of a speaker is a person of its own: it meets itself, not its twin, so one draw of it is one trial.
        rates = ranked.rates(np.where(left == right, counts[left], counts[left] * counts[right]))
        if rates is not None:
            tries.append(_measure(*rates))
    # Where no resample has both kinds of trial, nothing is known but the ends of the scale.
    low, high = np.quantile(tries, [0.025, 0.975], axis=0) if tries else np.tile([[0.0], [1.0]], len(values))
    names = ["eer", *(f"min_dcf_{p_target:g}" for p_target in P_TARGETS)]
    figures = {
        name: Interval(value, float(low[place]), float(high[place]))
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    }
    return figures, Drawn("file" if speakers is None else "speaker", len(units))


def read(path: Path) -> Trials:
    """Read a list of trials: two files and 1 or 0, target or nontarget, in front (as VoxCeleb has it) or at the end.

    Raises DataError for a list that is none, with the first wrong line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as a list of trials: {error}.") from error
    rows = [(number, _columns(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"'{path}' holds no trials. {_FORM}")
    wrong = [(number, row) for number, row in rows if len(row) != 3][:1]
    for place in (0, -1) if not wrong else ():
        strange = [(number, row) for number, row in rows if row[place].lower() not in _WORDS][:1]
        if not strange:
            return _trials([row for _, row in rows], place)
        # The column that holds longer is the one that is meant.
        wrong = max(wrong, strange)
    number, row = wrong[0]
    raise DataError(f"'{path}' is no list of trials: line {number} is '{' '.join(row)}'. {_FORM}")


_FORM = "Each line holds two files and, in front or at the end, 1 or 0 (or target or nontarget)."


def _columns(line: str) -> list[str]:
    """A line's columns: between tabs where it has any, so that names may hold blanks."""
    return [part.strip() for part in line.strip().split("\t")] if "\t" in line else line.split()


def _trials(rows: Sequence[list[str]], place: int) -> Trials:
    target = np.array([_WORDS[row[place].lower()] for row in rows])
    sides = [row[1:] if place == 0 else row[:-1] for row in rows]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for side in sides for name in side))}
    pairs = np.array([[numbers[name] for name in side] for side in sides])
    return Trials(tuple(numbers), pairs[:, 0], pairs[:, 1], target)


def speakers(trials: Trials) -> tuple[str, ...] | None:
    """The speaker of each file, where the list tells: its top folder, below those that all share.

    None where files lie in no folders, or where the folders do not agree with what the trials say.
    """
    paths = [name.split("/") for name in trials.files]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    if not all(len(path) > depth + 1 for path in paths):
        return None
    names = np.array([path[depth] for path in paths])
    if not np.array_equal(names[trials.left] == names[trials.right], trials.target):
        return None
    return tuple(str(name) for name in names)


def _measure(miss: np.ndarray, alarm: np.ndarray) -> list[float]:
    return [_equal(miss, alarm), *(_cost(miss, alarm, p_target, 1.0, 1.0) for p_target in P_TARGETS)]


def _equal(miss: np.ndarray, alarm: np.ndarray) -> float:
    """Where misses, which fall, meet false accepts, which rise."""
    after = int(np.argmax(alarm >= miss))
    if after == 0:
        return float(miss[0])
    gap = np.array([miss[after - 1] - alarm[after - 1], alarm[after] - miss[after]])
    share = gap[0] / gap.sum()
    return float(miss[after - 1] + share * (miss[after] - miss[after - 1]))


def _cost(miss: np.ndarray, alarm: np.ndarray, p_target: float, c_miss: float, c_false_accept: float) -> float:
    missed, accepted = c_miss * p_target, c_false_accept * (1 - p_target)
    return float((missed * miss + accepted * alarm).min() / min(missed, accepted))


def _known(rates: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
    if rates is None:
        raise DataError("Error rates need trials of one speaker and of two with a weight above 0.")
    return rates
