"""Two models beside each other on the same clips: how far their answers differ, and which is the faster one.

In: models, of PyTorch or exported, and Sounds. Out: figures. The sides take turns, so that a machine that slows down
meets both; of their times the least counts, for whatever else the machine does only adds to it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auricle.evaluation import scoring
from auricle.evaluation.scoring import score, softmax
from auricle.preparation.windows import AudioSource, from_arrays

BATCH_SECONDS = 60.0
# So many clips are also answered for one by one: company must change nothing.
ALONE = 8


@dataclass(frozen=True)
class Agreement:
    """How near the second side's probabilities are to the first's, and how many clips a second each answers for.

    difference is the greatest of any probability; same, how many clips have the same likeliest class.
    """

    clips: int
    difference: float
    same: int
    rates: tuple[float, float]


def agreement(first: Any, second: Any, sounds: AudioSource, rounds: int = 1) -> Agreement:
    """Compare whole clips in padded batches, and some of the second side's alone."""
    (ours, theirs), seconds = race((first, second), sounds, rounds)
    ours, theirs = softmax(ours), softmax(theirs)
    few = range(0, len(sounds), max(1, len(sounds) // ALONE))
    alone = np.concatenate(
        [score(second, from_arrays([sounds.get(clip)]), batch_seconds=BATCH_SECONDS) for clip in few]
    )
    difference = max(np.abs(ours - theirs).max(), np.abs(ours[list(few)] - softmax(alone)).max())
    rates = (len(sounds) / seconds[0], len(sounds) / seconds[1])
    # A NaN is no agreement, and no comparison would find it.
    difference = float("inf") if np.isnan(difference) else float(difference)
    return Agreement(len(sounds), difference, int((ours.argmax(1) == theirs.argmax(1)).sum()), rates)


def race(sides: Sequence[Any], sounds: AudioSource, rounds: int) -> tuple[list[np.ndarray], list[float]]:
    """The logits (clips, classes) of each side, and the least of its seconds over the rounds.

    Before the clock starts each side answers for the shortest and the longest clip.
    """
    ends = [sounds.get(int(place)) for place in (sounds.lengths.argmin(), sounds.lengths.argmax())]
    for side in sides:
        scoring.score(side, from_arrays(ends), batch_seconds=BATCH_SECONDS)
    rows: list[np.ndarray] = []
    taken: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds):
        for side, seconds in zip(sides, taken, strict=True):
            start = time.perf_counter()
            logits = scoring.score(side, sounds, batch_seconds=BATCH_SECONDS)
            seconds.append(time.perf_counter() - start)
            if turn == 0:
                rows.append(logits)
    return rows, [min(seconds) for seconds in taken]
