"""What a person should know beyond the headline: by length, by metadata, the worst mistakes, the labels to doubt.

In: scores of judged clips and, for the slices, their Index. Out: plain rows for report.json.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.corpus.clip import Clip
from auricle.evaluation.intervals import resample
from auricle.evaluation.metrics import judge
from auricle.evaluation.scoring import Scores

LENGTH_BINS = 4
MOST_VALUES = 12
SUSPECT_OWN = 0.03
SUSPECT_OTHER = 0.85
SLICE_RESAMPLES = 400


@dataclass(frozen=True)
class Slice:
    """The accuracy on some of the clips, with its 95 % interval over groups or clips."""

    name: str
    clips: int
    groups: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Mistake:
    """A judged clip that the model got wrong, or whose label is doubted, and how strongly it said so."""

    id: str
    label: str
    predicted: str
    probability: float
    own_probability: float
    fold: str


def by_length(scores: Scores, group_name: str) -> list[Slice]:
    """Accuracy in up to four bins of clip length with like numbers of clips."""
    edges = np.unique(np.quantile(scores.seconds, np.linspace(0, 1, LENGTH_BINS + 1)))
    if len(edges) < 2 or edges[-1] - edges[0] < 0.01 * edges[-1]:
        return [_slice(scores, np.ones(len(scores), bool), f"{edges[0]:.2f} s", group_name)]
    place = np.clip(np.searchsorted(edges, scores.seconds, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for number in range(len(edges) - 1):
        inside = place == number
        if inside.any():
            rows.append(_slice(scores, inside, f"{edges[number]:.2f}-{edges[number + 1]:.2f} s", group_name))
    return rows


def slices(scores: Scores, clips: Mapping[str, Clip], least: int, group_name: str) -> dict[str, list[Slice]]:
    """Accuracy for each value of each metadata column, where at least two values have `least` clips each.

    A column of many numbers is cut into thirds; one of many texts says nothing of groups of clips and is passed over.
    """
    columns = sorted({name for id in scores.ids for name in clips[id].meta})
    found = {}
    for column in columns:
        values = [clips[id].meta.get(column) for id in scores.ids]
        named = _named(values)
        counts = Counter(name for name in named if name is not None)
        kept = sorted(name for name, count in counts.items() if count >= least)
        if len(kept) < 2 or len(counts) > MOST_VALUES:
            continue
        array = np.array(named, dtype=object)
        found[column] = [_slice(scores, array == name, name, group_name) for name in kept]
    return found


def mistakes(scores: Scores, most: int) -> list[Mistake]:
    """The wrong answers that were given with the greatest confidence."""
    probabilities = scores.probabilities
    predicted = scores.predicted
    confidence = probabilities[np.arange(len(scores)), predicted]
    wrong = np.flatnonzero(predicted != scores.truth)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    return [_mistake(scores, probabilities, int(row)) for row in order]


def suspect_labels(scores: Scores) -> list[Mistake]:
    """Clips whose label a model that never saw them finds all but impossible, while it is sure of another.

    After confident learning (Northcutt et al., 2021): out-of-sample probabilities judge the given labels.
    """
    probabilities = scores.probabilities
    own = probabilities[np.arange(len(scores)), scores.truth]
    other = probabilities.max(1)
    rows = np.flatnonzero((own <= SUSPECT_OWN) & (other >= SUSPECT_OTHER) & (scores.predicted != scores.truth))
    return [_mistake(scores, probabilities, int(row)) for row in rows[np.argsort(-other[rows], kind="stable")]]


def _mistake(scores: Scores, probabilities: np.ndarray, row: int) -> Mistake:
    predicted = int(probabilities[row].argmax())
    truth = int(scores.truth[row])
    return Mistake(
        scores.ids[row],
        scores.labels[truth],
        scores.labels[predicted],
        float(probabilities[row, predicted]),
        float(probabilities[row, truth]),
        scores.folds[row],
    )


def _slice(scores: Scores, inside: np.ndarray, name: str, group_name: str) -> Slice:
    part = scores.select(inside)
    correct = judge(part.truth, part.logits).correct
    drawn = resample(part.groups, len(part), SLICE_RESAMPLES, 0, group_name)
    tries = [float((weight * correct).sum() / weight.sum()) for weight in drawn.weights()]
    low, high = np.quantile(tries, [0.025, 0.975])
    groups = len({group for group in part.groups if group is not None})
    return Slice(name, len(part), groups, float(correct.mean()), float(low), float(high))


def _named(values: Sequence[str | None]) -> list[str | None]:
    """The values as slice names; many different numbers become thirds."""
    numbers = _numbers(values)
    if numbers is None or len(set(numbers.values())) <= MOST_VALUES:
        return [value or None for value in values]
    edges = np.quantile(list(numbers.values()), [0, 1 / 3, 2 / 3, 1])
    names = [f"{edges[part]:g} to {edges[part + 1]:g}" for part in range(3)]
    return [
        names[min(2, int(np.searchsorted(edges[1:3], numbers[place], side="left")))] if place in numbers else None
        for place in range(len(values))
    ]


def _numbers(values: Sequence[str | None]) -> dict[int, float] | None:
    """The values that are there as numbers by place, or None when one of them is no number."""
    numbers: dict[int, float] = {}
    for place, value in enumerate(values):
        if not value:
            continue
        try:
            numbers[place] = float(value)
        except ValueError:
            return None
    return numbers or None


def by_fold(scores: Scores) -> dict[str, Scores]:
    """The scores of each fold, in order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, fold in enumerate(scores.folds):
        rows[fold].append(row)
    found = {}
    for fold, places in rows.items():
        keep = np.zeros(len(scores), bool)
        keep[places] = True
        found[fold] = scores.select(keep)
    return found
