"""A recording of any length as a row of overlapping windows, each with the model's logits.

In: blocks of samples, as `audio.stream` gives them, and a Cut. Out: Moments in order of time. Memory is that of one
batch of windows, however long the recording is; the tail is kept, for the last window ends where the recording ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from auricle.audio.settings import Settings
from auricle.evaluation.scoring import softmax
from auricle.preparation.windows import FULL_SCALE

BATCH_SECONDS = 60.0
# The level of digital silence, and of anything below it: half a bit of a 20-bit converter.
LOWEST = -120.0


@dataclass(frozen=True)
class WindowSpec:
    """How a recording is cut: windows of so many seconds, one every `hop` seconds. `hop` is at most `seconds`."""

    seconds: float
    hop: float

    def samples(self, sample_rate: int) -> tuple[int, int]:
        """The window and the hop in whole samples, one at least, the hop no longer than the window."""
        size = max(1, round(self.seconds * sample_rate))
        return size, min(size, max(1, round(self.hop * sample_rate)))

    def batch(self, batch_seconds: float = BATCH_SECONDS) -> int:
        """How many windows are scored at once: as many as fill `batch_seconds`, one at least."""
        return max(1, int(batch_seconds / self.seconds))


@dataclass(frozen=True, eq=False)
class ScoredWindow:
    """One window: from `start` to `end` seconds of the recording, and the model's logits (classes,) for it.

    Time is divided in cells of `hop` seconds, exactly as long as from one window to the next. `levels` (cells,) is the
    loudness (RMS in dBFS) of what lies in the window of each cell from number `cell` on.
    """

    start: float
    end: float
    logits: np.ndarray
    hop: float
    cell: int
    levels: np.ndarray = field(repr=False)

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities (classes,) in float64."""
        return np.asarray(softmax(self.logits[None])[0])

    @property
    def level(self) -> float:
        """The loudest cell's RMS level in dBFS; -120 is digital silence."""
        return float(self.levels.max())


class Judge(Protocol):
    """What is asked of a Classifier here."""

    settings: Settings

    def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray: ...


def moments(
    classifier: Judge,
    blocks: Iterator[np.ndarray],
    cut: WindowSpec,
    *,
    skip: int = 0,
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[ScoredWindow]:
    """Score a stream of int16 blocks (channels, samples) at the classifier's rate, window after window.

    A recording shorter than a window is one window; an empty one has none. The first `skip` windows are not scored
    and not given: with a multiple of `cut.batch()` the rest is the same to the last bit, for batches stay the same.
    """
    rate = classifier.settings.sample_rate
    size, hop = cut.samples(rate)
    per_batch = cut.batch(batch_seconds)
    for first, samples, begin, starts in batches(blocks, size, hop, per_batch):
        fresh = [start for number, start in enumerate(starts, first) if number >= skip]
        pieces = [samples[:, start - begin : start - begin + size] for start in fresh]
        for start, piece, row in zip(fresh, pieces, classifier.logits(pieces), strict=True):
            yield moment(piece, start, hop, rate, row)


def moments_of(classifier: Judge, sounds: Sequence[np.ndarray], cut: WindowSpec) -> list[list[ScoredWindow]]:
    """Score whole recordings (channels, samples), all together, so that short ones share batches."""
    rate = classifier.settings.sample_rate
    size, hop = cut.samples(rate)
    places = [
        (number, start) for number, sound in enumerate(sounds) for start in _starts(0, 0, sound.shape[1], size, hop)
    ]
    pieces = [sounds[number][:, start : start + size] for number, start in places]
    found: list[list[ScoredWindow]] = [[] for _ in sounds]
    for (number, start), piece, row in zip(places, pieces, classifier.logits(pieces), strict=True):
        found[number].append(moment(piece, start, hop, rate, row))
    return found


def batches(
    blocks: Iterator[np.ndarray], size: int, hop: int, per_batch: int
) -> Iterator[tuple[int, np.ndarray, int, list[int]]]:
    """Group windows: the number of the first one, samples, the place of these in the recording, where windows start.

    `size` and `hop` are in samples. A group is given as soon as its last sample is there. One hop before the next
    window is kept, for the last window may begin there.
    """
    kept: list[np.ndarray] = []
    begin = count = number = 0
    for block in blocks:
        kept.append(block)
        count += block.shape[1]
        while begin + count >= number * hop + (per_batch - 1) * hop + size:
            samples = np.concatenate(kept, axis=1)
            yield number, samples, begin, [(number + place) * hop for place in range(per_batch)]
            number += per_batch
            new_begin = (number - 1) * hop
            kept = [samples[:, new_begin - begin :].copy()]
            begin, count = new_begin, kept[0].shape[1]
    total = begin + count
    starts = _starts(number * hop, (number - 1) * hop + size if number else 0, total, size, hop)
    if starts:
        yield number, np.concatenate(kept, axis=1), begin, starts


def _starts(first: int, reached: int, total: int, size: int, hop: int) -> list[int]:
    """Where the windows of `total` samples start, from sample `first` on; windows before it end at `reached`."""
    starts = list(range(first, total - size + 1, hop))
    if total > (starts[-1] + size if starts else reached):
        starts.append(max(total - size, 0))
    return starts


def _levels(piece: np.ndarray, start: int, hop: int) -> np.ndarray:
    """RMS in dBFS of each cell's part of a window (channels, samples) that begins at sample `start`."""
    power = np.square(piece, dtype=np.float32).mean(axis=0)
    first = -(start % hop)
    bounds = np.maximum(np.arange(first, len(power), hop), 0)
    sums = np.add.reduceat(power, bounds, dtype=np.float64)
    mean = sums / np.diff(np.append(bounds, len(power))) / FULL_SCALE**2
    return np.asarray(10.0 * np.log10(np.maximum(mean, 10.0 ** (LOWEST / 10.0))))


def moment(piece: np.ndarray, start: int, hop: int, sample_rate: int, logits: np.ndarray) -> ScoredWindow:
    """The Moment of one window (channels, samples) that begins at sample `start`, where it was scored elsewhere."""
    end = start + piece.shape[1]
    return ScoredWindow(
        start / sample_rate, end / sample_rate, logits, hop / sample_rate, start // hop, _levels(piece, start, hop)
    )
