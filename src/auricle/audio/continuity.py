"""Whether one piece of sound goes on where another ends, as pieces of one recording do that was cut without a gap.

In: the samples of clips and pairs of them. Out: how often the second of a pair fits the end of the first better than
other clips do: 0.5 where they are unrelated. The fit is the error of linear prediction from the end of one clip into
the beginning of the next. Noise without any colour cannot be predicted, so it gives no evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ORDER, PAST, AHEAD = 8, 512, 3
MAX_PAIRS = 400
# Unrelated clips give 0.5; the standard deviation of a pair's rank is that of a uniform variable, 1 / sqrt(12).
# The least rank was chosen while looking at pieces of one second cut from ESC-10, LibriSpeech and EmoDB, with a gap of
# 800 samples and without, and at generated noise.
FEWEST_PAIRS, LEAST_RANK, DEVIATIONS = 6, 0.65, 4.0


@dataclass(frozen=True)
class Continuity:
    """The mean rank of the following clip among others, 0 to 1, over a number of pairs."""

    rank: float
    pairs: int

    @property
    def is_certain(self) -> bool:
        """Whether the pairs continue each other, beyond chance and nearly always."""
        deviation = (12 * max(1, self.pairs)) ** -0.5
        return self.pairs >= FEWEST_PAIRS and self.rank >= max(LEAST_RANK, min(0.95, 0.5 + DEVIATIONS * deviation))


def measure_continuity(
    samples: Callable[[int], np.ndarray],
    pairs: Sequence[tuple[int, int]],
    others: Sequence[Sequence[int]],
    seed: int,
) -> Continuity:
    """Compare the clip that follows with others. `samples` gives a clip's (channels, frames); of many pairs a random
    sample is measured. Clips that begin and end in silence do not count.
    """
    ranks = []
    for number in np.random.default_rng(seed).permutation(len(pairs))[:MAX_PAIRS]:
        first, second = pairs[number]
        past = samples(first)[0, -PAST:].astype(np.float64)
        starts = [samples(clip)[0, :AHEAD].astype(np.float64) for clip in (second, *others[number])]
        if len(past) < 4 * ORDER or not past[-AHEAD:].any() or min(map(len, starts)) < AHEAD:
            continue
        errors = np.abs(np.array(starts) - _predicted(past)).mean(1)
        if len(errors) > 1:
            ranks.append(float((errors[1:] > errors[0]).mean() + (errors[1:] == errors[0]).mean() / 2))
    return Continuity(float(np.mean(ranks)) if ranks else 0.5, len(ranks))


def _predicted(past: np.ndarray) -> np.ndarray:
    """The next samples (AHEAD,) after some (time,), by linear prediction fitted to these (least squares)."""
    rows = np.lib.stride_tricks.sliding_window_view(past, ORDER + 1)
    lags, following = rows[:, :-1], rows[:, -1]
    gram = lags.T @ lags
    weights = np.linalg.solve(gram + (1e-6 * np.trace(gram) + 1e-9) * np.eye(ORDER), lags.T @ following)
    signal = list(past[-ORDER:])
    for _ in range(AHEAD):
        signal.append(float(np.dot(signal[-ORDER:], weights)))
    return np.array(signal[-AHEAD:])
