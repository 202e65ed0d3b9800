"""Accuracy on parts of the test clips, the most confident misclassifications, and suspect labels.

In: scores of test clips and, for the slices, the clips themselves. Out: rows for the report.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.corpus.clip import Clip
from auricle.evaluation.intervals import Interval, mean_interval, unit_numbers
from auricle.evaluation.scoring import Scores, confidence

DURATION_BINS = 4
MOST_VALUES = 12
# A label is suspect where it gets at most the first probability, and another class at least the second.
SUSPECT_LABEL_PROBABILITY = 0.03
SUSPECT_OTHER_PROBABILITY = 0.85


@dataclass(frozen=True)
class Slice:
    """The accuracy on some of the clips, with its 95 % interval over groups or clips."""

    name: str
    clips: int
    groups: int
    accuracy: Interval


@dataclass(frozen=True)
class ClipError:
    """A clip whose prediction differs from its label, with the probabilities of both."""

    id: str
    label: str
    predicted: str
    probability: float
    label_probability: float
    fold: str


def by_clip_duration(scores: Scores) -> tuple[Slice, ...]:
    """Accuracy in up to four bins of clip duration with similar numbers of clips."""
    edges = np.unique(np.quantile(scores.seconds, np.linspace(0, 1, DURATION_BINS + 1)))
    if len(edges) < 2 or edges[-1] - edges[0] < 0.01 * edges[-1]:
        return (_slice(scores, np.ones(len(scores), bool), f"{edges[0]:.2f} s"),)
    bins = np.clip(np.searchsorted(edges, scores.seconds, side="right") - 1, 0, len(edges) - 2)
    return tuple(
        _slice(scores, inside, f"{edges[number]:.2f}-{edges[number + 1]:.2f} s")
        for number in range(len(edges) - 1)
        if (inside := bins == number).any()
    )


def slices(scores: Scores, clips: Mapping[str, Clip], min_clips: int) -> dict[str, tuple[Slice, ...]]:
    """Accuracy for each value of each metadata column with at least two values of `min_clips` clips each.

    A column of many numbers is cut into thirds; one of many texts is skipped.
    """
    columns = sorted({name for id in scores.ids for name in clips[id].meta})
    rows = {}
    for column in columns:
        names = _slice_names([clips[id].meta.get(column) for id in scores.ids])
        counts = Counter(name for name in names if name is not None)
        frequent = sorted(name for name, count in counts.items() if count >= min_clips)
        if len(frequent) < 2 or len(counts) > MOST_VALUES:
            continue
        array = np.array(names, dtype=object)
        rows[column] = tuple(_slice(scores, array == name, name) for name in frequent)
    return rows


def misclassified(scores: Scores, most: int) -> tuple[ClipError, ...]:
    """The misclassified clips, the most confident predictions first."""
    wrong = np.flatnonzero(~scores.correct)
    return _clip_errors(scores, wrong[np.argsort(-confidence(scores.logits)[wrong], kind="stable")][:most])


def suspect_labels(scores: Scores) -> tuple[ClipError, ...]:
    """Clips whose label a model that was not trained on them rules out, while it is confident of another class.

    After confident learning (Northcutt et al., 2021): out-of-sample probabilities test the given labels.
    """
    probabilities = scores.probabilities
    own = probabilities[np.arange(len(scores)), scores.truth]
    other = probabilities.max(1)
    confident = (own <= SUSPECT_LABEL_PROBABILITY) & (other >= SUSPECT_OTHER_PROBABILITY)
    rows = np.flatnonzero(confident & ~scores.correct)
    return _clip_errors(scores, rows[np.argsort(-other[rows], kind="stable")])


def _clip_errors(scores: Scores, rows: np.ndarray) -> tuple[ClipError, ...]:
    probabilities, predicted = scores.probabilities, scores.predicted
    return tuple(
        ClipError(
            scores.ids[row],
            scores.classes[row],
            scores.labels[predicted[row]],
            float(probabilities[row, predicted[row]]),
            float(probabilities[row, scores.truth[row]]),
            scores.folds[row],
        )
        for row in map(int, rows)
    )


def _slice(scores: Scores, inside: np.ndarray, name: str) -> Slice:
    part = scores.select(inside)
    accuracy = mean_interval(part.correct, unit_numbers(part.groups)[0])
    return Slice(name, len(part), len(set(part.groups) - {None}), accuracy)


def _slice_names(values: Sequence[str | None]) -> list[str | None]:
    """The values as slice names; many different numbers become thirds."""
    try:
        numbers = [float(value) for value in values if value]
    except ValueError:
        numbers = []
    if len(set(numbers)) <= MOST_VALUES:
        return [value or None for value in values]
    edges = np.quantile(numbers, [0, 1 / 3, 2 / 3, 1])
    names = [f"{edges[part]:g} to {edges[part + 1]:g}" for part in range(3)]
    return [names[np.searchsorted(edges[1:3], float(value), side="left")] if value else None for value in values]
