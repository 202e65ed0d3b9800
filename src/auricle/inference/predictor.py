"""The one predictor: recordings of any length as rows of windows, each with the model's logits.

Out: ScoredWindows in order of time; a recording's prediction is the mean over them. A short recording is one window,
unless windows are asked for. Memory is that of one batch of windows, however long a recording is.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from auricle.audio import FULL_SCALE
from auricle.audio.recordings import DecodedRecording
from auricle.evaluation.scoring import softmax
from auricle.inference.events import MIN_LEVEL
from auricle.preparation.windows import BATCH_SECONDS, WindowSpec, window_starts

if TYPE_CHECKING:
    from auricle.inference.classifier import Classifier


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


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Windows to score together: the number of the first, and the first sample and the samples of each."""

    number: int
    starts: tuple[int, ...]
    pieces: tuple[np.ndarray, ...]
    hop: int

    def scored(self, rows: Iterable[np.ndarray], sample_rate: int) -> list[ScoredWindow]:
        """Join the windows with their logits, rows (windows, classes)."""
        return [
            ScoredWindow(
                start / sample_rate,
                (start + piece.shape[1]) / sample_rate,
                row,
                self.hop / sample_rate,
                start // self.hop,
                _levels(piece, start, self.hop),
            )
            for start, piece, row in zip(self.starts, self.pieces, rows, strict=True)
        ]


class WindowCutter:
    """Cuts a stream of samples into windows, and gives a batch of them as soon as its last sample is there.

    `size` and `hop` are in samples. One hop before the next window is kept, for the last window may begin there.
    """

    def __init__(self, size: int, hop: int, per_batch: int = 1) -> None:
        self.size, self.hop, self._per_batch = size, hop, per_batch
        self._samples: list[np.ndarray] = []
        self._begin = self._count = self._number = 0

    @property
    def received(self) -> int:
        """How many samples came in."""
        return self._begin + self._count

    @property
    def newest(self) -> np.ndarray:
        """The last samples that came in, at most a window of them."""
        return self._join()[:, -self.size :]

    def add(self, block: np.ndarray) -> Iterator[WindowBatch]:
        """Take more samples (channels, frames), and give the batches that they complete."""
        self._samples.append(block)
        self._count += block.shape[1]
        first = self._number
        while self.received >= (self._number + self._per_batch - 1) * self.hop + self.size:
            yield self._batch([(self._number + offset) * self.hop for offset in range(self._per_batch)])
            self._number += self._per_batch
        if self._number > first:
            begin = (self._number - 1) * self.hop
            self._samples = [self._join()[:, begin - self._begin :].copy()]
            self._begin, self._count = begin, self._samples[0].shape[1]

    def finish(self) -> Iterator[WindowBatch]:
        """No more samples come: give the windows that are left, the last of which ends where the samples end."""
        covered = (self._number - 1) * self.hop + self.size if self._number else 0
        starts = window_starts(self.received, self.size, self.hop, self._number * self.hop, covered)
        if starts:
            yield self._batch(starts)

    def _join(self) -> np.ndarray:
        if len(self._samples) != 1:
            self._samples = [np.concatenate(self._samples, axis=1)] if self._samples else [np.zeros((1, 0), np.int16)]
        return self._samples[0]

    def _batch(self, starts: Sequence[int]) -> WindowBatch:
        samples = self._join()
        pieces = tuple(samples[:, start - self._begin : start - self._begin + self.size] for start in starts)
        return WindowBatch(self._number, tuple(starts), pieces, self.hop)


class MeanLogits:
    """The mean over windows, in constant memory. `total` (classes,) and `count` are its state."""

    def __init__(self, total: Sequence[float] = (0.0,), count: int = 0) -> None:
        self.total, self.count = np.array(total, np.float64), count

    def add(self, logits: np.ndarray) -> None:
        """Take the logits (classes,) of one more window."""
        self.total = self.total + logits
        self.count += 1

    @property
    def value(self) -> np.ndarray:
        """The mean (classes,) in float32."""
        return np.asarray((self.total / self.count).astype(np.float32))


def spec_for(classifier: "Classifier", recording: DecodedRecording) -> WindowSpec:
    """How a recording is cut for its prediction: a short one is one window."""
    return classifier.window_spec if recording.is_long else WindowSpec(recording.seconds, recording.seconds)


def window_batches(
    blocks: Iterable[np.ndarray], spec: WindowSpec, sample_rate: int, per_batch: int
) -> Iterator[WindowBatch]:
    """Cut blocks (channels, samples) into batches of windows, as the samples come. No samples have no window."""
    cutter = WindowCutter(*spec.samples(sample_rate), per_batch)
    for block in blocks:
        yield from cutter.add(block)
    yield from cutter.finish()


def score_windows(
    classifier: "Classifier",
    blocks: Iterable[np.ndarray],
    spec: WindowSpec,
    *,
    skip: int = 0,
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[ScoredWindow]:
    """Score a stream of blocks (channels, samples) in the classifier's form, window after window.

    The first `skip` windows, a multiple of `spec.batch()`, are neither scored nor given: the rest is the same to the
    last bit, for batches stay the same.
    """
    rate = classifier.settings.sample_rate
    for batch in window_batches(blocks, spec, rate, spec.batch(batch_seconds)):
        if batch.number >= skip:
            yield from batch.scored(classifier.logits(batch.pieces), rate)


def score_recordings(
    classifier: "Classifier", chunk: Sequence[DecodedRecording], spec: WindowSpec | None = None, *, skip: int = 0
) -> Iterator[tuple[DecodedRecording, Iterable[ScoredWindow]]]:
    """Give the recordings of a chunk, each with its scored windows; without `spec`, those for its prediction.

    Short recordings are scored all together, so that they share batches. A long one is scored while its windows are
    taken. `skip` is for a chunk of one long recording, as in `score_windows`.
    """
    if len(chunk) == 1 and chunk[0].is_long:
        recording = chunk[0]
        yield recording, score_windows(classifier, recording.blocks, spec or spec_for(classifier, recording), skip=skip)
        return
    rate = classifier.settings.sample_rate
    batches = [
        list(window_batches(recording.blocks, spec or spec_for(classifier, recording), rate, 1)) for recording in chunk
    ]
    rows = iter(classifier.logits([piece for own in batches for batch in own for piece in batch.pieces]))
    for recording, own in zip(chunk, batches, strict=True):
        scored = [batch.scored(itertools.islice(rows, len(batch.starts)), rate) for batch in own]
        yield recording, [window for windows in scored for window in windows]


def _levels(piece: np.ndarray, start: int, hop: int) -> np.ndarray:
    """RMS in dBFS of each cell's part of a window (channels, samples) that begins at sample `start`."""
    power = np.square(piece, dtype=np.float32).mean(axis=0)
    first = -(start % hop)
    bounds = np.maximum(np.arange(first, len(power), hop), 0)
    sums = np.add.reduceat(power, bounds, dtype=np.float64)
    mean = sums / np.diff(np.append(bounds, len(power))) / FULL_SCALE**2
    return np.asarray(10.0 * np.log10(np.maximum(mean, 10.0 ** (MIN_LEVEL / 10.0))))
