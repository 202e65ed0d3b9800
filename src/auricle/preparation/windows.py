"""Clips to be judged, cut into windows and padded into batches; NumPy only.

In: samples of clips, as a store or a decoder has them. Out: windows, batches of windows of like length, and the padded
arrays that any model eats, be it PyTorch's or an exported graph.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio.store import Store

FULL_SCALE = 32768.0


@dataclass(frozen=True)
class AudioSource:
    """Clips to be scored: their lengths in samples, and how to get the samples of each.

    Samples are int16 (channels, frames), or the float32 (bands, frames) of precomputed features.
    """

    lengths: np.ndarray
    get: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.lengths)


def from_arrays(arrays: Sequence[np.ndarray]) -> AudioSource:
    """Clips in memory: arrays as `Sounds` has them."""
    return AudioSource(np.array([array.shape[-1] for array in arrays], dtype=np.int64), lambda number: arrays[number])


def from_store(store: Store, positions: Sequence[int]) -> AudioSource:
    """Some clips of a store, in the order of `positions`."""
    lengths = np.array([store.frames(position) for position in positions], dtype=np.int64)
    return AudioSource(lengths, lambda number: store.samples(positions[number]))


@dataclass(frozen=True)
class Window:
    """A stretch of one clip, in samples."""

    clip: int
    start: int
    stop: int


def windows(lengths: np.ndarray, size: int | None, overlap: float) -> list[Window]:
    """Cut clips into overlapping windows of `size` samples; the last one ends where the clip ends.

    Clips no longer than a window, or all when `size` is None, are one window each.
    """
    cut = []
    for clip, length in enumerate(int(length) for length in lengths):
        if size is None or length <= size:
            cut.append(Window(clip, 0, length))
            continue
        hop = max(1, round(size * (1 - overlap)))
        starts = [*range(0, length - size, hop), length - size]
        cut += [Window(clip, start, start + size) for start in starts]
    return cut


def by_length(cut: Sequence[Window], batch_samples: int) -> Iterator[list[Window]]:
    """Group windows of like length so that no padded batch holds more than `batch_samples`, one window at least.

    The longest come first: what memory they need is there for all that follow.
    """
    ordered = sorted(cut, key=lambda window: (window.start - window.stop, window.clip, window.start))
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
