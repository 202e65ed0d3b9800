"""Rejection of unknown sounds: the threshold, and how well it works.

In: logits of known clips, and of impostors: clips of held-out classes or, where none is held out, misclassified clips.
A clip is rejected, answered "unknown", where its greatest probability is below the threshold. Out: the threshold that
accepts a given share of impostors, and a RejectionReport. No test clip influences the threshold that applies to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from auricle.evaluation.error_analysis import by_fold
from auricle.evaluation.intervals import (
    Bootstrap,
    Interval,
    Resampling,
    bootstrap,
    mean_interval,
    percentile_interval,
)
from auricle.evaluation.scoring import Scores, confidence
from auricle.recipe import Recipe

DEFAULT_MAX_FALSE_ACCEPT_RATE = 0.05
# The logits of a clip may differ by this much with the batch that it is scored in.
BATCH_TOLERANCE = 1e-4


@dataclass(frozen=True)
class OutOfSetScores:
    """Logits (clips, classes) of clips whose class no model was trained on, one row per clip and fold model.

    `classes` are the clips' own; `folds` names the model.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str | None, ...]
    folds: tuple[str, ...]
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write one row per clip as Parquet."""
        table = pa.table(
            {
                "id": list(self.ids),
                "fold": list(self.folds),
                "group": pa.array(self.groups, pa.string()),
                "label": list(self.classes),
                "logits": list(self.logits.astype(np.float32)),
            }
        )
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "OutOfSetScores":
        """Read scores that `save` wrote."""
        columns = pq.read_table(path).to_pydict()
        return cls(
            tuple(columns["id"]),
            tuple(columns["label"]),
            tuple(columns["group"]),
            tuple(columns["fold"]),
            np.array(columns["logits"], dtype=np.float32),
        )


def join(parts: Sequence[OutOfSetScores]) -> OutOfSetScores:
    """The scores of several models, one after the other."""
    return OutOfSetScores(
        tuple(id for part in parts for id in part.ids),
        tuple(name for part in parts for name in part.classes),
        tuple(group for part in parts for group in part.groups),
        tuple(fold for part in parts for fold in part.folds),
        np.concatenate([part.logits for part in parts]),
    )


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


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """How often a known clip scores above an unknown one, ties counting half: (clips,) each, at least one."""
    return RankedScores.of(known, unknown).auroc(np.ones(len(known)), np.ones(len(unknown)))


@dataclass(frozen=True)
class RankedScores:
    """Known and unknown clips on one scale: the rank of each, and how many ranks there are; ties share one."""

    known: np.ndarray
    unknown: np.ndarray
    ranks: int

    @classmethod
    def of(cls, known: np.ndarray, unknown: np.ndarray) -> "RankedScores":
        """Rank the scores of known and unknown clips together."""
        levels, rank = np.unique(np.concatenate([known, unknown]), return_inverse=True)
        return cls(rank[: len(known)], rank[len(known) :], len(levels))

    def concordant(self, known_weight: np.ndarray, unknown_weight: np.ndarray) -> float:
        """Weighted pairs in which the known clip scores above the unknown one, ties counting half."""
        above = np.bincount(self.known, known_weight, self.ranks)
        below = np.bincount(self.unknown, unknown_weight, self.ranks)
        return float(above @ (np.cumsum(below) - below / 2))

    def auroc(self, known_weight: np.ndarray, unknown_weight: np.ndarray) -> float:
        """The share of concordant pairs: the area under the ROC curve."""
        return self.concordant(known_weight, unknown_weight) / float(known_weight.sum() * unknown_weight.sum())


@dataclass(frozen=True)
class RejectionReport:
    """How well rejection works. `impostors` is what kind they are, `impostor_clips` how many set the kept threshold.

    `threshold` is the kept model's. `measured_false_accept_rate` is the share of other impostors that is accepted,
    resampled over `unit`s; `auroc` separates known from unknown clips, or correct from wrong predictions;
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


@dataclass(frozen=True)
class Threshold:
    """A threshold, the share of impostors that it may accept, and how many impostors set it."""

    max_rate: float
    value: float | None
    impostor_clips: int


def by_held_out_classes(
    scores: Scores, out_of_set: OutOfSetScores, final: OutOfSetScores, max_rate: float, resampling: Resampling
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
    value = rejection_threshold(confidence(final.logits), max_rate)
    return _class_report(scores, out_of_set, accepted, rejected, Threshold(max_rate, value, len(final)), resampling)


def by_fixed_threshold(
    scores: Scores, out_of_set: OutOfSetScores, threshold: float, max_rate: float, resampling: Resampling
) -> RejectionReport:
    """Measure a given threshold on other recordings of held-out classes, none of which set it."""
    accepted, rejected = confidence(out_of_set.logits) >= threshold, confidence(scores.logits) < threshold
    chosen = Threshold(max_rate, threshold, len(out_of_set))
    return _class_report(scores, out_of_set, accepted.astype(float), rejected.astype(float), chosen, resampling)


def _class_report(
    scores: Scores,
    out_of_set: OutOfSetScores,
    accepted: np.ndarray,
    rejected: np.ndarray,
    threshold: Threshold,
    resampling: Resampling,
) -> RejectionReport:
    """Report which unknown clips are `accepted` and which known clips `rejected`, (clips,) each."""
    unknown = _bootstrap_unknown(out_of_set, resampling)
    known = bootstrap(scores.groups, Resampling(resampling.resamples, resampling.seed + 1, resampling.group_name))
    area = _auroc_over_folds(scores, out_of_set)
    estimates = [area(*weights) for weights in zip(known.weights(), unknown.weights(), strict=True)]
    return RejectionReport(
        impostors="held-out classes",
        classes=tuple(sorted(set(out_of_set.classes))),
        max_false_accept_rate=threshold.max_rate,
        threshold=threshold.value,
        impostor_clips=threshold.impostor_clips,
        measured_false_accept_rate=mean_interval(accepted, unknown.weights()),
        unit=unknown.unit,
        auroc=percentile_interval(area(np.ones(len(scores)), np.ones(len(out_of_set))), estimates),
        false_rejection_rate=float(rejected.mean()),
    )


def _auroc_over_folds(scores: Scores, out_of_set: OutOfSetScores) -> Callable[[np.ndarray, np.ndarray], float]:
    """The AUROC as a function of the weights of known and unknown clips: the mean over fold models, by their pairs."""
    known, unknown = confidence(scores.logits), confidence(out_of_set.logits)
    folds, models = np.array(scores.folds), np.array(out_of_set.folds)
    ranked = [
        (RankedScores.of(known[folds == fold], unknown[models == fold]), folds == fold, models == fold)
        for fold in dict.fromkeys(scores.folds)
    ]

    def area(known_weight: np.ndarray, unknown_weight: np.ndarray) -> float:
        parts = [(fold, known_weight[tested], unknown_weight[own]) for fold, tested, own in ranked]
        concordant = sum(fold.concordant(first, second) for fold, first, second in parts)
        return concordant / sum(float(first.sum() * second.sum()) for _, first, second in parts)

    return area


def by_misclassified_clips(
    scores: Scores, valid: Scores | None, max_rate: float, resampling: Resampling
) -> RejectionReport:
    """Measure rejection of the model's own errors, where no class is held out.

    The kept threshold is set by the errors of all models on their validation clips, `valid`; that of a fold's test
    clips by those errors on clips and groups that the fold does not test.
    """
    values, wrong = confidence(scores.logits), scores.predicted != scores.truth
    errors = valid.select(valid.predicted != valid.truth) if valid is not None else None
    impostors = confidence(errors.logits) if errors is not None else np.zeros(0)
    threshold = rejection_threshold(impostors, max_rate)
    accepted = np.ones(len(scores))
    if errors is not None:
        folds = np.array(scores.folds)
        for fold, part in by_fold(scores).items():
            limit = rejection_threshold(impostors[_not_tested(errors, part)], max_rate)
            accepted[folds == fold] = 1.0 if limit is None else confidence(part.logits) >= limit
    resampled = bootstrap(scores.groups, resampling)
    area = None
    if wrong.any() and not wrong.all():
        ranked = RankedScores.of(values[~wrong], values[wrong])
        estimates = [
            ranked.auroc(weight[~wrong], weight[wrong])
            for weight in resampled.weights()
            if weight[wrong].any() and weight[~wrong].any()
        ]
        area = percentile_interval(ranked.auroc(np.ones((~wrong).sum()), np.ones(wrong.sum())), estimates)
    measured = None
    if threshold is not None and wrong.any():
        measured = mean_interval(accepted[wrong], (weight[wrong] for weight in resampled.weights()))
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


def _halves(out_of_set: OutOfSetScores, seed: int) -> np.ndarray:
    """Divide the groups of a single class into two halves by the seed, or its clips where fewer than two are known."""
    units, _ = _resampled_units(out_of_set, "group")
    names = sorted({unit for unit in units if unit is not None})
    order = np.random.default_rng(seed).permutation(len(names))
    half = {names[index]: int(number >= len(names) / 2) for number, index in enumerate(order)}
    return np.array([half[unit] for unit in units if unit is not None])


def _bootstrap_unknown(out_of_set: OutOfSetScores, resampling: Resampling) -> Bootstrap:
    units, name = _resampled_units(out_of_set, resampling.group_name)
    return bootstrap(units, Resampling(resampling.resamples, resampling.seed, name))


def _resampled_units(out_of_set: OutOfSetScores, group_name: str) -> tuple[Sequence[str | None], str]:
    """What is resampled: classes or, for a single class, groups or clips, each with its rows of all folds."""
    if len(set(out_of_set.classes)) > 1:
        return out_of_set.classes, "class"
    if None not in out_of_set.groups and len(set(out_of_set.groups)) > 1:
        return out_of_set.groups, group_name
    return out_of_set.ids, "clip"


def _not_tested(errors: Scores, tested: Scores) -> np.ndarray:
    """Which errors are neither on the tested clips nor on their groups: (clips,) bool."""
    ids, groups = set(tested.ids), {group for group in tested.groups if group is not None}
    return np.array(
        [id not in ids and group not in groups for id, group in zip(errors.ids, errors.groups, strict=True)], dtype=bool
    )
