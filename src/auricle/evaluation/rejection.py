"""What refusing is worth: the share of impostors that is reached, on impostors that had no part in the threshold.

In: scores of test clips by fold, and what the same models say of classes that were held out; or, where none was, of
validation clips. Out: one Refusal for the report. Nothing of a test clip moves the threshold that it meets.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.evaluation.error_analysis import by_fold
from auricle.evaluation.intervals import Interval, resample
from auricle.evaluation.open_set import OutOfSetScores, Ranked, certainty, threshold
from auricle.evaluation.scoring import Scores


@dataclass(frozen=True)
class RejectionReport:
    """What refusing is worth. `kind` is classes (held out) or mistakes (on validation clips).

    `threshold` is the kept model's, chosen by so many `impostors`. `reached` is the share of other impostors that is
    accepted, over `unit`s; `auroc` tells known from unknown, or right from wrong; `known_refused` is the share of known
    test clips, or of right answers, below the threshold. What cannot be measured is None.
    """

    kind: str
    classes: tuple[str, ...]
    target: float
    threshold: float | None
    impostors: int
    reached: Interval | None
    unit: str
    auroc: Interval | None
    known_refused: float | None


@dataclass(frozen=True)
class Draws:
    """How resampling is done: so often, from this seed; and what a group is called."""

    resamples: int
    seed: int
    group_name: str


def by_classes(
    scores: Scores, out_of_set: OutOfSetScores, kept: OutOfSetScores, target: float, draws: Draws
) -> RejectionReport:
    """Judge refusing by classes that were held out. `strangers` is what the fold models say of them, `kept` the last.

    The share reached is cross-fitted: a class meets the threshold that the other classes set; of a single class, each
    half of its groups or clips meets that of the other half.
    """
    sure, met = certainty(scores.logits), certainty(out_of_set.logits)
    several = len(set(out_of_set.classes)) > 1
    part = np.array(out_of_set.classes) if several else _halves(out_of_set, draws.seed)
    folds, asked = np.array(scores.folds), np.array(out_of_set.folds)
    accepted, refused = np.ones(len(out_of_set)), np.zeros(len(scores))
    for fold in dict.fromkeys(scores.folds):
        tested, mine = folds == fold, asked == fold
        refused[tested] = sure[tested] < (threshold(met[mine], target) or 0.0)
        for one in np.unique(part[mine]):
            inside = mine & (part == one)
            least = threshold(met[mine & (part != one)], target)
            # A single clip has no other half that could refuse it.
            accepted[inside] = 1.0 if least is None else met[inside] >= least
    least = threshold(certainty(kept.logits), target)
    return _told(scores, out_of_set, accepted, refused, Choice(target, least, len(kept)), draws)


def by_threshold(
    scores: Scores, out_of_set: OutOfSetScores, least: float, target: float, draws: Draws
) -> RejectionReport:
    """Judge a threshold that stands by other recordings of unknown classes, none of which had a part in it."""
    accepted, refused = certainty(out_of_set.logits) >= least, certainty(scores.logits) < least
    choice = Choice(target, least, len(out_of_set))
    return _told(scores, out_of_set, accepted.astype(float), refused.astype(float), choice, draws)


@dataclass(frozen=True)
class Choice:
    """A threshold, the share of impostors that it was to accept, and how many impostors there were."""

    target: float
    least: float | None
    impostors: int


def _told(
    scores: Scores, out_of_set: OutOfSetScores, accepted: np.ndarray, refused: np.ndarray, choice: Choice, draws: Draws
) -> RejectionReport:
    """Put together what `accepted` strangers and `refused` known clips, (clips,) each, amount to."""
    units, name = _units(out_of_set, draws.group_name)
    drawn = resample(units, len(out_of_set), draws.resamples, draws.seed, name)
    known = resample(scores.groups, len(scores), draws.resamples, draws.seed + 1, draws.group_name)
    area = _area(scores, out_of_set)
    tries = [area(*weights) for weights in zip(known.weights(), drawn.weights(), strict=True)]
    return RejectionReport(
        "classes",
        tuple(sorted(set(out_of_set.classes))),
        choice.target,
        choice.least,
        choice.impostors,
        _share(accepted, drawn.weights()),
        drawn.unit,
        _interval(area(np.ones(len(scores)), np.ones(len(out_of_set))), tries),
        float(refused.mean()),
    )


def _area(scores: Scores, out_of_set: OutOfSetScores) -> Callable[[np.ndarray, np.ndarray], float]:
    """What gives the AUROC by weights of known clips and strangers: the mean over the fold models, by their clips."""
    sure, met = certainty(scores.logits), certainty(out_of_set.logits)
    folds, asked = np.array(scores.folds), np.array(out_of_set.folds)
    ranked = [
        (Ranked.of(sure[folds == fold], met[asked == fold]), folds == fold, asked == fold)
        for fold in dict.fromkeys(scores.folds)
    ]

    def area(known: np.ndarray, unknown: np.ndarray) -> float:
        pairs = [(one, known[tested], unknown[mine]) for one, tested, mine in ranked]
        wins = sum(one.wins(ours, theirs) for one, ours, theirs in pairs)
        return wins / sum(float(ours.sum() * theirs.sum()) for _, ours, theirs in pairs)

    return area


def by_mistakes(scores: Scores, valid: Scores | None, target: float, draws: Draws) -> RejectionReport:
    """Judge refusing by the model's own mistakes, where no class was held out: an impostor is an answer that is wrong.

    The kept threshold is set by the mistakes of all models on their validation clips, `valid`; that of a fold's test
    clips by those among them of clips and groups that the fold does not test.
    """
    sure, wrong = certainty(scores.logits), scores.predicted != scores.truth
    missed = valid.select(valid.predicted != valid.truth) if valid is not None else None
    impostors = certainty(missed.logits) if missed is not None else np.zeros(0)
    kept = threshold(impostors, target)
    accepted = np.ones(len(scores))
    if missed is not None:
        folds = np.array(scores.folds)
        for fold, part in by_fold(scores).items():
            least = threshold(impostors[_elsewhere(missed, part)], target)
            accepted[folds == fold] = 1.0 if least is None else certainty(part.logits) >= least
    drawn = resample(scores.groups, len(scores), draws.resamples, draws.seed, draws.group_name)
    area = None
    if wrong.any() and not wrong.all():
        ranked = Ranked.of(sure[~wrong], sure[wrong])
        tries = [
            ranked.area(weight[~wrong], weight[wrong])
            for weight in drawn.weights()
            if weight[wrong].any() and weight[~wrong].any()
        ]
        area = _interval(ranked.area(np.ones((~wrong).sum()), np.ones(wrong.sum())), tries)
    measured = kept is not None and wrong.any()
    return RejectionReport(
        "mistakes",
        (),
        target,
        kept,
        len(impostors),
        _share(accepted[wrong], (weight[wrong] for weight in drawn.weights())) if measured else None,
        drawn.unit,
        area,
        float(1 - accepted[~wrong].mean()) if kept is not None and not wrong.all() else None,
    )


def cautions(found: RejectionReport) -> list[str]:
    """Say it when a threshold could not be set, or only roughly."""
    what = "clips of unknown classes" if found.kind == "classes" else "mistakes on validation clips"
    if found.threshold is None:
        return [f"There were no {what} to set a threshold by, so nothing is answered 'unknown'."]
    if found.impostors < 1 / found.target:
        return [
            f"The threshold for 'unknown' was set by {found.impostors} {what}, too few to find the "
            f"{found.target * 100:g} % of them that may be accepted: it is rough."
        ]
    return []


def _halves(out_of_set: OutOfSetScores, seed: int) -> np.ndarray:
    """Divide the groups of a single class into two halves by the seed, or its clips where fewer than two are known."""
    units, _ = _units(out_of_set, "group")
    named = sorted({unit for unit in units if unit is not None})
    order = np.random.default_rng(seed).permutation(len(named))
    half = {named[place]: int(number >= len(named) / 2) for number, place in enumerate(order)}
    return np.array([half[unit] for unit in units if unit is not None])


def _units(out_of_set: OutOfSetScores, group_name: str) -> tuple[Sequence[str | None], str]:
    """What is drawn anew: classes; of a single class groups, or clips, each with what all folds say of it."""
    if len(set(out_of_set.classes)) > 1:
        return out_of_set.classes, "class"
    if None not in out_of_set.groups and len(set(out_of_set.groups)) > 1:
        return out_of_set.groups, group_name
    return out_of_set.ids, "clip"


def _elsewhere(missed: Scores, tested: Scores) -> np.ndarray:
    """Which judged clips are neither among the tested ones nor of their groups: (clips,) bool."""
    ids, groups = set(tested.ids), {group for group in tested.groups if group is not None}
    return np.array(
        [id not in ids and group not in groups for id, group in zip(missed.ids, missed.groups, strict=True)], dtype=bool
    )


def _share(accepted: np.ndarray, weights: Iterable[np.ndarray]) -> Interval:
    tries = [float(weight @ accepted / weight.sum()) for weight in weights if weight.any()]
    return _interval(float(accepted.mean()), tries)


def _interval(value: float, tries: Sequence[float]) -> Interval:
    low, high = np.quantile(tries, [0.025, 0.975])
    return Interval(value, float(low), float(high))
