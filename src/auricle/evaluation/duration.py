"""How much a model must hear: accuracy against the seconds that it is given.

In: clips, and what a model says of their middles. Out: for 1, 2, 4 and 8 seconds the accuracy on the cuts beside that
on the same clips whole; and how far the lengths that are tested lie from those that training heard. A cut is a stretch
as a training crop is one, so the two accuracies tell whether longer is better or only stranger.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from auricle.evaluation.intervals import Interval, resample
from auricle.evaluation.metrics import judge
from auricle.evaluation.scoring import Scores, join
from auricle.preparation.windows import AudioSource

SECONDS = (1.0, 2.0, 4.0, 8.0)
MOST_CLIPS = 1000
RESAMPLES = 400
# Lengths are compared with this tolerance: a clip of 5.02 seconds is none that is longer than a crop of five.
TOLERANCE = 1.02
CAUTIOUS_SHARE = 0.05


@dataclass(frozen=True)
class Heard:
    """The accuracy of `clips` clips when `seconds` of their middle are heard, and of the same clips whole."""

    seconds: float
    clips: int
    groups: int
    accuracy: float
    low: float
    high: float
    whole: Interval


def longer(seconds: np.ndarray, stretch: float, most: int = MOST_CLIPS) -> list[int]:
    """The places of clips that are longer than a stretch, evenly spaced where there are more than `most`."""
    places = np.flatnonzero(seconds > stretch)
    spaced = np.unique(np.linspace(0, len(places) - 1, min(len(places), most)).astype(int))
    return [int(place) for place in places[spaced]]


def cuts(
    whole: Scores,
    sounds: AudioSource,
    sample_rate: float,
    said: Callable[[AudioSource], np.ndarray],
    most: int = MOST_CLIPS,
) -> Scores:
    """Scores of the middle 1, 2, 4 and 8 seconds of the clips that are longer; their seconds are the cuts'.

    `whole` are the clips' own scores, `sounds` their sounds in the same order; `said` gives logits.
    """
    parts = [whole.select(np.zeros(len(whole), bool))]
    for seconds in SECONDS:
        size = round(seconds * sample_rate)
        places = longer(sounds.lengths, size, most)
        if places:
            logits = said(middles(sounds, places, size))
            part = whole.select(np.isin(np.arange(len(whole)), places))
            parts.append(replace(part, logits=logits, seconds=np.full(len(places), seconds)))
    return join(parts)


def middles(sounds: AudioSource, places: Sequence[int], samples: int) -> AudioSource:
    """The middle `samples` samples of some clips, none of which is shorter."""

    def get(number: int) -> np.ndarray:
        start = (int(sounds.lengths[places[number]]) - samples) // 2
        return sounds.get(places[number])[..., start : start + samples]

    return AudioSource(np.full(len(places), samples, np.int64), get)


def by_seconds(cut: Scores, whole: Scores, least: int, group_name: str) -> list[Heard]:
    """Accuracy for each length of cut that at least `least` clips have. `cut` is what `cuts` gave."""
    rows = []
    place = {(id, fold): row for row, (id, fold) in enumerate(zip(whole.ids, whole.folds, strict=True))}
    for seconds in sorted(set(cut.seconds)):
        part = cut.select(cut.seconds == seconds)
        if len(part) < least:
            continue
        same = [place[pair] for pair in zip(part.ids, part.folds, strict=True)]
        groups = len({group for group in part.groups if group is not None})
        ours = _accuracy(part.truth, part.logits, part.groups, group_name)
        uncut = _accuracy(whole.truth[same], whole.logits[same], part.groups, group_name)
        rows.append(Heard(float(seconds), len(part), groups, ours.value, ours.low, ours.high, uncut))
    return rows


def stretches(seconds: np.ndarray, crop: float | None) -> tuple[float, float]:
    """The shortest and the longest stretch that training hears of clips of so many seconds, cropped or not."""
    shortest, longest = float(seconds.min()), float(seconds.max())
    return (shortest, longest) if crop is None else (min(shortest, crop), min(longest, crop))


def outside(scores: Scores, trained: Mapping[str, tuple[float, float]], window: float | None) -> tuple[float, float]:
    """The shares of test clips that are shorter, and longer, than any stretch that their fold's training heard.

    `trained` gives that stretch in seconds by fold; with windows a model hears no more than one of them at a time.
    """
    heard = scores.seconds if window is None else np.minimum(scores.seconds, window)
    bounds = np.array([trained[fold] for fold in scores.folds])
    return float((heard * TOLERANCE < bounds[:, 0]).mean()), float((heard > bounds[:, 1] * TOLERANCE).mean())


def cautions(scores: Scores, trained: Mapping[str, tuple[float, float]], window: float | None) -> list[str]:
    """Say it when more than a few test clips have a length that training never heard."""
    shorter, longer = outside(scores, trained, window)
    said = []
    if longer > CAUTIOUS_SHARE:
        most = max(bounds[1] for bounds in trained.values())
        said.append(
            f"{longer * 100:.0f} % of the test clips are longer than anything that training heard ({most:.1f} s at "
            "most): the accuracy against seconds heard says whether that costs anything."
        )
    if shorter > CAUTIOUS_SHARE:
        least = min(bounds[0] for bounds in trained.values())
        said.append(
            f"{shorter * 100:.0f} % of the test clips are shorter than anything that training heard ({least:.1f} s at "
            "least)."
        )
    return said


def _accuracy(truth: np.ndarray, logits: np.ndarray, groups: Sequence[str | None], group_name: str) -> Interval:
    correct = judge(truth, logits).correct
    drawn = resample(groups, len(truth), RESAMPLES, 0, group_name)
    low, high = np.quantile([float(weight @ correct / weight.sum()) for weight in drawn.weights()], [0.025, 0.975])
    return Interval(float(correct.mean()), float(low), float(high))
