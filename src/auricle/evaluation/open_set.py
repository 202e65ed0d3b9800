"""Rejection of unknown sounds: the threshold, and how well it works.

In: logits of known clips, and of impostors: clips of held-out classes or, where none is held out, misclassified clips.
A clip is rejected, answered "unknown", where its greatest probability is below the threshold. Out: the threshold that
accepts a given share of impostors, and a RejectionReport. No test clip influences the threshold that applies to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from auricle.evaluation.intervals import (
    Interval,
    Resampling,
    Units,
    bootstrap,
    bootstrap_error,
    interval,
    mean_interval,
)
from auricle.evaluation.scoring import Scores, confidence
from auricle.recipe import Recipe

DEFAULT_MAX_FALSE_ACCEPT_RATE = 0.05
# The logits of a clip may differ by this much with the batch that it is scored in.
BATCH_TOLERANCE = 1e-4


def max_false_accept_rate(recipe: Recipe) -> float | None:
    """The share of impostors that may be accepted; None where the recipe sets no threshold."""
    if recipe.evaluate.max_false_accept_rate is None and recipe.data.held_out_classes:
        return DEFAULT_MAX_FALSE_ACCEPT_RATE
    return recipe.evaluate.max_false_accept_rate


def rejection_threshold(impostors: np.ndarray, max_rate: float) -> float | None:
    """The lowest confidence that accepts at most the share `max_rate` of impostors' confidences (clips,).

    It is their (1 - max_rate) quantile, just above the greatest one that must be rejected; None without impostors.
    """
    if not len(impostors):
        return None
    order = np.sort(impostors)[::-1]
    # 0.07 * 100 is 7.000000000000001 in floating point, and 0.29 * 100 is 28.999999999999996.
    accepted = int(max_rate * len(order) + 1e-9)
    rejected = order[accepted]
    room = float(np.min(order[order > rejected], initial=1.0)) - rejected
    return float(max(rejected + min(BATCH_TOLERANCE, room / 2), np.nextafter(rejected, np.inf)))


def weighted_auroc(
    known: np.ndarray, unknown: np.ndarray, known_folds: np.ndarray, unknown_folds: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], float]:
    """The AUROC as a function of the weights of known and unknown clips, (clips,) each.

    It is how often a known clip scores above an unknown one of the same fold model, ties counting half.
    """
    ranked = []
    for fold in dict.fromkeys(known_folds):
        tested, own = known_folds == fold, unknown_folds == fold
        levels, rank = np.unique(np.concatenate([known[tested], unknown[own]]), return_inverse=True)
        ranked.append((tested, own, rank[: tested.sum()], rank[tested.sum() :], len(levels)))

    def area(known_weight: np.ndarray, unknown_weight: np.ndarray) -> float:
        concordant = pairs = 0.0
        for tested, own, known_rank, unknown_rank, ranks in ranked:
            first, second = known_weight[tested], unknown_weight[own]
            above = np.bincount(known_rank, first, ranks)
            below = np.bincount(unknown_rank, second, ranks)
            concordant += float(above @ (np.cumsum(below) - below / 2))
            pairs += float(first.sum() * second.sum())
        return concordant / pairs

    return area


@dataclass(frozen=True)
class RejectionReport:
    """How well rejection works. `impostors` is what kind they are, `impostor_clips` how many set the kept threshold.

    `threshold` is the kept model's. `measured_false_accept_rate` is the share of other impostors that is accepted,
    its interval over `unit`s; `auroc` separates known from unknown clips, or correct from wrong predictions;
    `false_rejection_rate` is the share of known test clips, or of correct predictions, below the threshold. What cannot
    be measured is None.
    """

    impostors: Literal["held-out classes", "misclassified clips"]
    classes: tuple[str, ...]
    max_false_accept_rate: float
    threshold: float | None
    impostor_clips: int
    measured_false_accept_rate: Interval | None
    unit: str
    auroc: Interval | None
    false_rejection_rate: float | None

    @property
    def has_classes(self) -> bool:
        return self.impostors == "held-out classes"


def by_held_out_classes(
    scores: Scores, out_of_set: Scores, final: Scores, max_rate: float, resampling: Resampling
) -> RejectionReport:
    """Measure rejection of held-out classes. `out_of_set` holds the fold models' scores, `final` the kept model's.

    The false-accept rate is cross-fitted: the threshold for one class is set by the other classes; where there is one
    class, the threshold for each half of its groups or clips is set by the other half.
    """
    known, unknown = confidence(scores.logits), confidence(out_of_set.logits)
    several = len(set(out_of_set.classes)) > 1
    part = np.array(out_of_set.classes) if several else _halves(out_of_set, resampling.seed)
    folds, models = np.array(scores.folds), np.array(out_of_set.folds)
    accepted, rejected = np.ones(len(out_of_set)), np.zeros(len(scores))
    for fold in dict.fromkeys(scores.folds):
        tested, own = folds == fold, models == fold
        rejected[tested] = known[tested] < (rejection_threshold(unknown[own], max_rate) or 0.0)
        for one in np.unique(part[own]):
            inside = own & (part == one)
            limit = rejection_threshold(unknown[own & (part != one)], max_rate)
            # A single clip has no other half that could reject it.
            accepted[inside] = 1.0 if limit is None else unknown[inside] >= limit
    threshold = rejection_threshold(confidence(final.logits), max_rate)
    return _class_report(scores, out_of_set, accepted, rejected, threshold, len(final), max_rate, resampling)


def by_fixed_threshold(
    scores: Scores, out_of_set: Scores, threshold: float, max_rate: float, resampling: Resampling
) -> RejectionReport:
    """Measure a given threshold on other recordings of held-out classes, none of which set it."""
    accepted, rejected = confidence(out_of_set.logits) >= threshold, confidence(scores.logits) < threshold
    return _class_report(scores, out_of_set, accepted, rejected, threshold, len(out_of_set), max_rate, resampling)


def _class_report(
    scores: Scores,
    out_of_set: Scores,
    accepted: np.ndarray,
    rejected: np.ndarray,
    threshold: float | None,
    impostor_clips: int,
    max_rate: float,
    resampling: Resampling,
) -> RejectionReport:
    """Report which unknown clips are `accepted` and which known clips `rejected`, (clips,) each."""
    units, name = _resampled_units(out_of_set, resampling.group_name)
    unknown = bootstrap(units, replace(resampling, group_name=name))
    known = bootstrap(scores.groups, replace(resampling, seed=resampling.seed + 1))
    area = weighted_auroc(
        confidence(scores.logits), confidence(out_of_set.logits), np.array(scores.folds), np.array(out_of_set.folds)
    )
    estimates = [area(*weights) for weights in zip(known.weights(), unknown.weights(), strict=True)]
    return RejectionReport(
        impostors="held-out classes",
        classes=tuple(sorted(set(out_of_set.classes))),
        max_false_accept_rate=max_rate,
        threshold=threshold,
        impostor_clips=impostor_clips,
        measured_false_accept_rate=mean_interval(accepted, unknown.unit_of),
        unit=unknown.unit,
        auroc=_auroc(area(np.ones(len(scores)), np.ones(len(out_of_set))), estimates, known.unit_of, unknown.unit_of),
        false_rejection_rate=float(rejected.mean()),
    )


def by_misclassified_clips(
    scores: Scores, valid: Scores | None, max_rate: float, resampling: Resampling
) -> RejectionReport:
    """Measure rejection of the model's own errors, where no class is held out.

    The kept threshold is set by the errors of all models on their validation clips, `valid`; that of a fold's test
    clips by those errors on clips and groups that the fold does not test.
    """
    values, wrong = confidence(scores.logits), ~scores.correct
    errors = valid.select(~valid.correct) if valid is not None else None
    impostors = confidence(errors.logits) if errors is not None else np.zeros(0)
    threshold = rejection_threshold(impostors, max_rate)
    accepted = np.ones(len(scores))
    if errors is not None:
        folds = np.array(scores.folds)
        for fold, part in scores.by_fold().items():
            ids, groups = set(part.ids), set(part.groups) - {None}
            pairs = zip(errors.ids, errors.groups, strict=True)
            untested = np.array([id not in ids and group not in groups for id, group in pairs], dtype=bool)
            limit = rejection_threshold(impostors[untested], max_rate)
            accepted[folds == fold] = 1.0 if limit is None else confidence(part.logits) >= limit
    resampled = bootstrap(scores.groups, resampling)
    area = None
    if wrong.any() and not wrong.all():
        auroc = weighted_auroc(values[~wrong], values[wrong], np.zeros((~wrong).sum()), np.zeros(wrong.sum()))
        estimates = [
            auroc(weight[~wrong], weight[wrong])
            for weight in resampled.weights()
            if weight[wrong].any() and weight[~wrong].any()
        ]
        sides = (resampled.unit_of[side] for side in (wrong, ~wrong))
        area = _auroc(auroc(np.ones((~wrong).sum()), np.ones(wrong.sum())), estimates, *sides)
    measured = None
    if threshold is not None and wrong.any():
        measured = mean_interval(accepted[wrong], resampled.unit_of[wrong])
    return RejectionReport(
        impostors="misclassified clips",
        classes=(),
        max_false_accept_rate=max_rate,
        threshold=threshold,
        impostor_clips=len(impostors),
        measured_false_accept_rate=measured,
        unit=resampled.unit,
        auroc=area,
        false_rejection_rate=float(1 - accepted[~wrong].mean()) if threshold is not None and not wrong.all() else None,
    )


def cautions(rejection: RejectionReport) -> list[str]:
    """Warn where a threshold could not be set, or only roughly."""
    what = "clips of held-out classes" if rejection.has_classes else "misclassified validation clips"
    if rejection.threshold is None:
        return [f"There were no {what} to set the rejection threshold, so no clip is answered 'unknown'."]
    if rejection.impostor_clips < 1 / rejection.max_false_accept_rate:
        return [
            f"The rejection threshold was set by {rejection.impostor_clips} {what}, too few for a false-accept rate of "
            f"{rejection.max_false_accept_rate * 100:g} %: it is approximate."
        ]
    return []


def _auroc(value: float, estimates: Sequence[float], *units_of: np.ndarray) -> Interval:
    """The interval of an AUROC: the side with fewer units decides how well its error is known."""
    units = min(map(Units.of, units_of), key=lambda one: one.effective)
    return interval(value, float(bootstrap_error(estimates, units)), units)


def _halves(out_of_set: Scores, seed: int) -> np.ndarray:
    """Divide the groups of a single class into two halves by the seed, or its clips where fewer than two are known."""
    units, _ = _resampled_units(out_of_set, "group")
    names = sorted({unit for unit in units if unit is not None})
    order = np.random.default_rng(seed).permutation(len(names))
    half = {names[index]: int(number >= len(names) / 2) for number, index in enumerate(order)}
    return np.array([half[unit] for unit in units if unit is not None])


def _resampled_units(out_of_set: Scores, group_name: str) -> tuple[Sequence[str | None], str]:
    """What is resampled: classes or, for a single class, groups or clips, each with its rows of all folds."""
    if len(set(out_of_set.classes)) > 1:
        return out_of_set.classes, "class"
    if None not in out_of_set.groups and len(set(out_of_set.groups)) > 1:
        return out_of_set.groups, group_name
    return out_of_set.ids, "clip"
