"""From stored clips to the tensors that a model takes.

In: clips and their classes. Out: random crops in batches that follow from (seed, epoch, clip) alone, so that a resumed
run gets the same batches as one that was never interrupted. Samples stay int16 until the batch is built.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from auricle.preparation.windows import AudioSource, padded

BUCKET_BATCHES = 32


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
    """One clip of one training batch: the seed decides where its crop begins, length_fraction how long it is."""

    clip: int
    seed: tuple[int, ...]
    length_fraction: float = 1.0


class TrainClips(Dataset[tuple[np.ndarray, int]]):
    """The training clips: a CropSample gives one random crop and the clip's class.

    Crops are `crop` samples long or, by the sample's length_fraction, between `min_crop` and that; it is the same for
    all clips of a batch.
    """

    def __init__(self, audio: AudioSource, labels: np.ndarray, crop: int | None, min_crop: int | None = None) -> None:
        self.audio = audio
        self.labels = labels
        self.crop = crop
        self.min_crop = crop if min_crop is None else min_crop

    def __len__(self) -> int:
        return len(self.audio)

    @property
    def lengths(self) -> np.ndarray:
        """The longest crop of each clip, in samples: (clips,)."""
        lengths = self.audio.lengths
        return lengths if self.crop is None else np.minimum(lengths, self.crop)

    def __getitem__(self, sample: CropSample) -> tuple[np.ndarray, int]:
        samples = self.audio.get(sample.clip)
        if self.crop is not None and self.min_crop is not None:
            crop = round(self.min_crop + sample.length_fraction * (self.crop - self.min_crop))
            if samples.shape[-1] > crop:
                start = int(np.random.default_rng(sample.seed).integers(samples.shape[-1] - crop + 1))
                samples = samples[:, start : start + crop]
        return samples, int(self.labels[sample.clip])


def collate(items: Sequence[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
    """The batch that `Trainer` hands to a model."""
    values, mask = build([samples for samples, _ in items])
    batch = {"input_values": values, "labels": torch.tensor([label for _, label in items])}
    if mask is not None:
        batch["attention_mask"] = mask
    return batch


class EpochBatches(Sampler[list[CropSample]]):
    """The batches of one epoch, which follow from the seed and the epoch alone.

    Clips are shuffled, then sorted by their cropped length within buckets of some batches, and the batches are shuffled
    again. With `balanced`, as many clips are sampled with replacement, each class with equal probability. `part` is
    which of so many ranks gets its part of every batch; of a batch with fewer clips than ranks each gets all.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        balanced: bool,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.labels = labels
        self.lengths = lengths
        self.balanced = balanced
        self.part = part

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[CropSample]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        # A generator of its own: the other random numbers do not depend on whether crop lengths are random.
        length_generator = np.random.default_rng((self.seed, self.epoch, 1))
        order = self._order(generator)
        bucket = self.batch_size * BUCKET_BATCHES
        batches = []
        for first in range(0, len(order), bucket):
            part = order[first : first + bucket]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
        position = 0
        for number in generator.permutation(len(batches)):
            samples, fraction = [], float(length_generator.random())
            for clip in batches[number]:
                samples.append(CropSample(int(clip), (self.seed, self.epoch, position), fraction))
                position += 1
            rank, ranks = self.part
            # Clips of a batch are sorted by length: every rank gets short and long ones.
            yield samples[rank::ranks] if len(samples) >= ranks else samples

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        count = len(self.lengths)
        if not self.balanced:
            return generator.permutation(count)
        sizes = np.bincount(self.labels)
        weight = 1.0 / sizes[self.labels]
        return generator.choice(count, size=count, replace=True, p=weight / weight.sum())
