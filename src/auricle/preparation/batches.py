"""From stored clips to the tensors that a model eats.

Training: random crops in batches that follow from (seed, epoch, clip) alone, so that a resumed run sees what it would
have seen. Evaluation: whole clips or overlapping windows, sorted by length, in batches bounded by their padded
seconds. Samples stay int16 until the batch is built.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from auricle.audio.store import Store
from auricle.preparation.windows import AudioSource, padded

BUCKET_BATCHES = 32


def from_store(store: Store, positions: Sequence[int]) -> AudioSource:
    """Some clips of a store, in the order of `positions`."""
    lengths = np.array([store.frames(position) for position in positions], dtype=np.int64)
    return AudioSource(lengths, lambda number: store.samples(positions[number]))


def build(pieces: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
    """Pad pieces as `windows.padded` does, into tensors.

    Returns float32 (batch, samples), or (batch, channels, samples) when any piece has several channels, and the
    attention mask (batch, samples), None when every piece is as long as the longest.
    """
    values, lengths = padded(pieces)
    return torch.from_numpy(values), mask_of(torch.from_numpy(lengths), values.shape[-1])


def mask_of(lengths: Tensor, samples: int) -> Tensor | None:
    """The attention mask (batch, samples) of clips of lengths (batch,), None when all are as long as that."""
    if int(lengths.min()) == samples:
        return None
    return (torch.arange(samples)[None, :] < lengths[:, None]).to(torch.int64)


@dataclass(frozen=True)
class CropSample:
    """One clip of one training batch: the seed decides where its crop begins, the batch's share how long it is."""

    number: int
    seed: tuple[int, ...]
    share: float = 1.0


class TrainClips(Dataset[dict[str, Any]]):
    """The training clips: a Draw gives one crop of its samples and the clip's class.

    Crops are `crop` samples long, or, by the draw's share, between `least` and that: clips of one batch have one share.
    """

    def __init__(self, sounds: AudioSource, labels: np.ndarray, crop: int | None, least: int | None = None) -> None:
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

    def __getitem__(self, draw: CropSample) -> dict[str, Any]:
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


class EpochBatches(Sampler[list[CropSample]]):
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

    def __iter__(self) -> Iterator[list[CropSample]]:
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
                draws.append(CropSample(int(clip), (self.seed, self.epoch, place), share))
                place += 1
            yield draws

    def _draws(self, random: np.random.Generator) -> np.ndarray:
        count = len(self.lengths)
        if not self.balanced:
            return random.permutation(count)
        sizes = np.bincount(self.labels)
        weight = 1.0 / sizes[self.labels]
        return random.choice(count, size=count, replace=True, p=weight / weight.sum())
