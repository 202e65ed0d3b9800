"""From stored clips to the tensors that a model eats.

Training: random crops in batches that follow from (seed, epoch, clip) alone, so that a resumed run sees what it would
have seen. Evaluation: whole clips or overlapping windows, sorted by length, in batches bounded by their padded
seconds. Samples stay int16 until the batch is built.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from auricle.audio.store import Store

FULL_SCALE = 32768.0
BUCKET_BATCHES = 32


@dataclass(frozen=True)
class Sounds:
    """Clips to be scored: their lengths in samples, and how to get the samples of each.

    Samples are int16 (channels, frames), or the float32 (bands, frames) of ready frames.
    """

    lengths: np.ndarray
    get: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.lengths)


def stored(store: Store, positions: Sequence[int]) -> Sounds:
    """Some clips of a store, in the order of `positions`."""
    lengths = np.array([store.frames(position) for position in positions], dtype=np.int64)
    return Sounds(lengths, lambda number: store.samples(positions[number]))


def held(arrays: Sequence[np.ndarray]) -> Sounds:
    """Clips in memory: arrays as `Sounds` has them."""
    return Sounds(np.array([array.shape[-1] for array in arrays], dtype=np.int64), lambda number: arrays[number])


def build(pieces: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
    """Pad pieces (channels, frames) on the right into one batch; int16 full scale becomes 1, float32 stays as it is.

    Returns float32 (batch, samples), or (batch, channels, samples) when any piece has several channels, and the
    attention mask (batch, samples), None when every piece is as long as the longest.
    """
    channels = max(piece.shape[0] for piece in pieces)
    longest = max(piece.shape[-1] for piece in pieces)
    batch = np.zeros((len(pieces), channels, longest), pieces[0].dtype)
    for row, piece in zip(batch, pieces, strict=True):
        row[:, : piece.shape[-1]] = piece
    values = torch.from_numpy(batch)
    if values.dtype == torch.int16:
        values = values.to(torch.float32).div_(FULL_SCALE)
    lengths = torch.tensor([piece.shape[-1] for piece in pieces])
    mask = None
    if int(lengths.min()) < longest:
        mask = (torch.arange(longest)[None, :] < lengths[:, None]).to(torch.int64)
    return (values[:, 0] if channels == 1 else values), mask


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


@dataclass(frozen=True)
class Draw:
    """One clip of one training batch: the seed decides where its crop begins, the batch's share how long it is."""

    number: int
    seed: tuple[int, ...]
    share: float = 1.0


class TrainClips(Dataset[dict[str, Any]]):
    """The training clips: a Draw gives one crop of its samples and the clip's class.

    Crops are `crop` samples long, or, by the draw's share, between `least` and that: clips of one batch have one share.
    """

    def __init__(self, sounds: Sounds, labels: np.ndarray, crop: int | None, least: int | None = None) -> None:
        self.sounds = sounds
        self.labels = labels
        self.crop = crop
        self.least = crop if least is None else least

    def __len__(self) -> int:
        return len(self.sounds)

    @property
    def lengths(self) -> np.ndarray:
        """How long each clip is when it is cropped, in samples: (clips,)."""
        lengths = self.sounds.lengths
        return lengths if self.crop is None else np.minimum(lengths, self.crop)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        samples = self.sounds.get(draw.number)
        if self.crop is not None and self.least is not None:
            crop = round(self.least + draw.share * (self.crop - self.least))
            if samples.shape[-1] > crop:
                start = int(np.random.default_rng(draw.seed).integers(samples.shape[-1] - crop + 1))
                samples = samples[:, start : start + crop]
        return {"samples": samples, "label": int(self.labels[draw.number])}


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The batch that `Trainer` hands to a model."""
    values, mask = build([item["samples"] for item in items])
    batch = {"input_values": values, "labels": torch.tensor([item["label"] for item in items])}
    if mask is not None:
        batch["attention_mask"] = mask
    return batch


class EpochBatches(Sampler[list[Draw]]):
    """The batches of one epoch, decided by the seed and the epoch.

    Clips are shuffled, then sorted by their cropped length within buckets of some batches, and the batches are shuffled
    again. With `balanced`, as many draws are made with replacement, every class as likely as any other.
    """

    def __init__(self, lengths: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, balanced: bool) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.labels = labels
        self.lengths = lengths
        self.balanced = balanced

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng((self.seed, self.epoch))
        # A stream of its own: what is drawn beside it does not depend on whether lengths are drawn.
        shares = np.random.default_rng((self.seed, self.epoch, 1))
        order = self._draws(random)
        bucket = self.batch_size * BUCKET_BATCHES
        batches = []
        for first in range(0, len(order), bucket):
            part = order[first : first + bucket]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
        place = 0
        for number in random.permutation(len(batches)):
            draws, share = [], float(shares.random())
            for clip in batches[number]:
                draws.append(Draw(int(clip), (self.seed, self.epoch, place), share))
                place += 1
            yield draws

    def _draws(self, random: np.random.Generator) -> np.ndarray:
        count = len(self.lengths)
        if not self.balanced:
            return random.permutation(count)
        sizes = np.bincount(self.labels)
        weight = 1.0 / sizes[self.labels]
        return random.choice(count, size=count, replace=True, p=weight / weight.sum())
