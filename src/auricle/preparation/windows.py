"""Clips to score: cut into windows and padded into batches; NumPy only.

In: samples of clips, as a store or a decoder has them. Out: windows, batches of windows of like length, and the padded
arrays that any model takes, PyTorch's or exported.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio import FULL_SCALE
from auricle.audio.store import Store

# How much audio is scored at once.
BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class AudioSource:
    """Clips to score: their lengths in samples, and how to get the samples of each.

    Samples are int16 (channels, frames), or float32 (num_features, frames) of precomputed features.
    """

    lengths: np.ndarray
    get: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.lengths)


def from_arrays(arrays: Sequence[np.ndarray]) -> AudioSource:
    """Clips in memory: arrays as `AudioSource` has them."""
    return AudioSource(np.array([array.shape[-1] for array in arrays], dtype=np.int64), lambda number: arrays[number])


def from_store(store: Store, positions: Sequence[int]) -> AudioSource:
    """Some clips of a store, in the order of `positions`."""
    lengths = np.array([store.frames(position) for position in positions], dtype=np.int64)
    return AudioSource(lengths, functools.partial(_stored, store, positions))


def _stored(store: Store, positions: Sequence[int], number: int) -> np.ndarray:
    return store.samples(positions[number])


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


@dataclass(frozen=True)
class Window:
    """A section of one clip, in samples."""

    clip: int
    start: int
    stop: int


def window_starts(total: int, size: int, hop: int, first: int = 0, covered: int = 0) -> list[int]:
    """Where the windows of `total` samples start, from sample `first` on; the last window ends where the samples end.

    Windows before `first` cover the samples up to `covered`. Samples shorter than a window are one window.
    """
    starts = list(range(first, total - size + 1, hop))
    if total > (starts[-1] + size if starts else covered):
        starts.append(max(total - size, 0))
    return starts


def cut_clips(lengths: np.ndarray, size: int | None, hop: int = 1) -> list[Window]:
    """Cut clips into windows of `size` samples, one every `hop`.

    Clips no longer than a window, or all when `size` is None, are one window each.
    """
    windows = []
    for clip, length in enumerate(int(length) for length in lengths):
        if size is None or length <= size:
            windows.append(Window(clip, 0, length))
        else:
            windows += [Window(clip, start, start + size) for start in window_starts(length, size, hop)]
    return windows


def by_length(windows: Sequence[Window], batch_samples: int) -> Iterator[list[Window]]:
    """Group windows of like length so that no padded batch holds more than `batch_samples`, one window at least.

    The longest come first: what memory they need is there for all that follow.
    """
    ordered = sorted(windows, key=lambda window: (window.start - window.stop, window.clip, window.start))
    batch: list[Window] = []
    for window in ordered:
        if batch and (len(batch) + 1) * (batch[0].stop - batch[0].start) > batch_samples:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def padded(pieces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad pieces (channels, frames) on the right into one batch; int16 full scale becomes 1, float32 stays as it is.

    Returns float32 (batch, samples), or (batch, channels, samples) when any piece has several channels, and the lengths
    (batch,) int64.
    """
    channels = max(piece.shape[0] for piece in pieces)
    lengths = np.array([piece.shape[-1] for piece in pieces], np.int64)
    batch = np.zeros((len(pieces), channels, int(lengths.max())), np.float32)
    for row, piece in zip(batch, pieces, strict=True):
        row[:, : piece.shape[-1]] = piece
    if pieces[0].dtype == np.int16:
        batch /= np.float32(FULL_SCALE)
    return (batch[:, 0] if channels == 1 else batch), lengths
