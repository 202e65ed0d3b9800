"""Accuracy by duration: how many seconds of a clip a model needs.

In: clips, and a model's logits of their centers. Out: for 1, 2, 4 and 8 seconds the accuracy on the center crops and on
the same clips in full; and how many test clips are shorter or longer than anything in training. A center crop is cut as
a training crop is, so the two accuracies separate "longer is better" from "longer is out of range". The baseline
describes a crop from its clip's frames, to the same result: it begins with the nearest hop, at most 5 ms away.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from auricle.evaluation.intervals import Interval, mean_interval, unit_numbers
from auricle.evaluation.scoring import Scores, join
from auricle.preparation.windows import AudioSource

SECONDS = (1.0, 2.0, 4.0, 8.0)
MOST_CLIPS = 1000
# Durations are compared with this tolerance: a clip of 5.02 seconds is not longer than a crop of five.
TOLERANCE = 1.02
CAUTION_SHARE = 0.05


@dataclass(frozen=True)
class DurationAccuracy:
    """The accuracy on the center `seconds` of `clips` clips, and on the same clips in full."""

    seconds: float
    clips: int
    groups: int
    accuracy: Interval
    full_clips: Interval


def longer_clips(lengths: np.ndarray, limit: float, most: int = MOST_CLIPS) -> list[int]:
    """The indices of clips longer than a limit, evenly spaced where there are more than `most`."""
    indices = np.flatnonzero(lengths > limit)
    spaced = np.unique(np.linspace(0, len(indices) - 1, min(len(indices), most)).astype(int))
    return [int(index) for index in indices[spaced]]


def center_crops(
    full: Scores,
    source: AudioSource,
    sample_rate: float,
    score: Callable[[AudioSource], np.ndarray],
    most: int = MOST_CLIPS,
) -> Scores:
    """Score the center 1, 2, 4 and 8 seconds of the clips that are longer; `seconds` of the result are the crops'.

    `full` holds the scores of the full clips, `source` their audio in the same order; `score` gives logits.
    """
    parts = {}
    for seconds in SECONDS:
        size = round(seconds * sample_rate)
        indices = longer_clips(source.lengths, size, most)
        if indices:
            parts[seconds] = indices, score(crop_centers(source, indices, size))
    return scores_of_centers(full, parts)


def scores_of_centers(full: Scores, parts: Mapping[float, tuple[Sequence[int], np.ndarray]]) -> Scores:
    """The scores of center crops. parts: by their seconds, the rows of `full`, in order, and the logits of each."""
    crops = [full.select(np.zeros(len(full), bool))]
    for seconds, (rows, logits) in parts.items():
        crops.append(replace(full.take(np.array(rows)), logits=logits, seconds=np.full(len(rows), seconds)))
    return join(crops)


def crop_centers(source: AudioSource, indices: Sequence[int], samples: int) -> AudioSource:
    """The center `samples` samples of some clips, none of which is shorter."""

    def get(number: int) -> np.ndarray:
        start = (int(source.lengths[indices[number]]) - samples) // 2
        return source.get(indices[number])[..., start : start + samples]

    return AudioSource(np.full(len(indices), samples, np.int64), get)


def accuracy_by_duration(crops: Scores, full: Scores, min_clips: int) -> tuple[DurationAccuracy, ...]:
    """Accuracy for each crop duration that at least `min_clips` clips have. `crops` come from `center_crops`."""
    rows = []
    row_of = {pair: row for row, pair in enumerate(zip(full.ids, full.folds, strict=True))}
    for seconds in sorted(set(crops.seconds)):
        part = crops.select(crops.seconds == seconds)
        if len(part) < min_clips:
            continue
        same = [row_of[pair] for pair in zip(part.ids, part.folds, strict=True)]
        units, _ = unit_numbers(part.groups)
        cropped, uncropped = (mean_interval(correct, units) for correct in (part.correct, full.correct[same]))
        groups = len(set(part.groups) - {None})
        rows.append(DurationAccuracy(float(seconds), len(part), groups, cropped, uncropped))
    return tuple(rows)


def trained_range(seconds: np.ndarray, crop: float | None) -> tuple[float, float]:
    """The shortest and the longest input in training, from clips of so many seconds, cropped or not."""
    shortest, longest = float(seconds.min()), float(seconds.max())
    return (shortest, longest) if crop is None else (min(shortest, crop), min(longest, crop))


def shares_outside(
    scores: Scores, trained: Mapping[str, tuple[float, float]], window: float | None
) -> tuple[float, float]:
    """The shares of test clips that are shorter, and longer, than any training input of their fold.

    `trained` gives that range in seconds by fold; with windows, no input is longer than one window.
    """
    inputs = scores.seconds if window is None else np.minimum(scores.seconds, window)
    bounds = np.array([trained[fold] for fold in scores.folds])
    return float((inputs * TOLERANCE < bounds[:, 0]).mean()), float((inputs > bounds[:, 1] * TOLERANCE).mean())


def cautions(scores: Scores, trained: Mapping[str, tuple[float, float]], window: float | None) -> list[str]:
    """Warn where more than a few test clips have a duration that did not occur in training."""
    shorter, longer = shares_outside(scores, trained, window)
    lines = []
    if longer > CAUTION_SHARE:
        longest = max(bounds[1] for bounds in trained.values())
        lines.append(
            f"{longer * 100:.0f} % of the test clips are longer than any training input ({longest:.1f} s at most): see "
            "'Accuracy by duration' for the effect."
        )
    if shorter > CAUTION_SHARE:
        shortest = min(bounds[0] for bounds in trained.values())
        lines.append(
            f"{shorter * 100:.0f} % of the test clips are shorter than any training input ({shortest:.1f} s at least)."
        )
    return lines
