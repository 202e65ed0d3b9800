"""The frozen part of a model is computed once: its activations for every clip, in files.

In: a model, its frozen depth, the clips. Out: FrozenFeatures, which training and validation read instead of waveforms.
The frozen part runs in evaluation mode, in batches of one length, in bfloat16 where the processor multiplies it
natively. A clip that training crops or augments at random has a stated number of variants. Shards are written
atomically, so a run that was killed computes only the missing ones; plain file reads keep memory flat.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from auricle import __version__
from auricle.audio import FULL_SCALE
from auricle.models.encoders import depth_of
from auricle.models.families.pretrained.network import Model
from auricle.models.layers import augment, masking
from auricle.parallel import Progress
from auricle.preparation.batches import CropSample
from auricle.preparation.windows import AudioSource, Window
from auricle.recipe import Augment
from auricle.run_folder import atomic_write
from auricle.training.freezing import pack_state, summary_count

SHARD_BYTES = 32 << 20
# Disk space that must stay free.
FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class ClipView:
    """A span of a clip in samples. `variant` numbers the random crops and changes of training; None is unchanged."""

    clip: int
    start: int
    stop: int
    variant: int | None = None


@dataclass(frozen=True)
class CropPlan:
    """How training crops and augments clips: to so many samples, in so many variants of each clip."""

    crop: int | None
    augment: Augment
    variants: int
    seed: int

    @property
    def augments(self) -> bool:
        """Whether a clip is changed at random, cropping apart."""
        return augment.changes_waveform(self.augment)

    def views(self, clip: int, length: int) -> list[ClipView]:
        """The variants of a clip of so many samples."""
        crop = length if self.crop is None else min(self.crop, length)
        if crop == length and not self.augments:
            return [ClipView(clip, 0, length)]
        views = []
        for variant in range(self.variants):
            start = int(np.random.default_rng((self.seed, clip, variant)).integers(length - crop + 1))
            views.append(ClipView(clip, start, start + crop, variant))
        return views


class FeatureShards:
    """The files of the features, and where the rows of each view are. Views are sorted by length, the longest first."""

    def __init__(self, model: Model, depth: int, views: Sequence[ClipView], bf16: bool, folder: Path) -> None:
        self.views = sorted(
            set(views), key=lambda view: (view.start - view.stop, view.clip, view.start, view.variant or 0)
        )
        self.folder = folder
        self.bf16 = bf16
        self.width = model.encoder.feature_size() if depth == 0 else int(model.config.hidden_size)
        samples = torch.tensor([view.stop - view.start for view in self.views])
        frames = model.encoder.feature_frames(samples) if depth == 0 else model.encoder.frames(samples)
        self.frames = frames.tolist()
        stored = frames if depth < model.final_depth else torch.zeros_like(frames)
        self.counts = (stored + summary_count(model, depth)).tolist()
        self.shards = self._assign()
        self.index = {view: number for number, view in enumerate(self.views)}
        self.starts = {
            number: (shard, start)
            for shard, numbers in enumerate(self.shards)
            for number, start in zip(numbers, np.cumsum([0, *(self.counts[n] for n in numbers)]).tolist(), strict=False)
        }

    @property
    def bytes(self) -> int:
        return sum(self.counts) * self.width * self.itemsize

    @property
    def itemsize(self) -> int:
        return 2 if self.bf16 else 4

    def is_complete(self, shard: int) -> bool:
        """Whether a shard has all its bytes; else it is computed again."""
        path = self.path(shard)
        expected = sum(self.counts[number] for number in self.shards[shard]) * self.width * self.itemsize
        return path.is_file() and path.stat().st_size == expected

    def path(self, shard: int) -> Path:
        return self.folder / f"rows-{shard:05d}.{'bfloat16' if self.bf16 else 'float32'}"

    def read(self, view: ClipView) -> tuple[Tensor, int]:
        """The rows (rows, width) of one view, and its number of real frames."""
        number = self.index[view]
        shard, start = self.starts[number]
        flat = np.fromfile(
            self.path(shard),
            np.int16 if self.bf16 else np.float32,
            count=self.counts[number] * self.width,
            offset=start * self.width * self.itemsize,
        )
        rows = torch.from_numpy(flat).view(-1, self.width)
        return rows.view(torch.bfloat16) if self.bf16 else rows, self.frames[number]

    def _assign(self) -> list[list[int]]:
        """Neighbouring views share a shard until it is full."""
        shards: list[list[int]] = []
        size = SHARD_BYTES
        for number, count in enumerate(self.counts):
            if size >= SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(number)
            size += count * self.width * self.itemsize
        return shards


@dataclass(frozen=True)
class FrozenFeatures:
    """The frozen part's output for clips of so many samples (clips,), cropped and augmented by a plan."""

    shards: FeatureShards
    lengths: np.ndarray
    plan: CropPlan

    def batch(self, views: Sequence[ClipView], device: torch.device) -> dict[str, Tensor]:
        """The rows of some views, padded to one tensor (views, rows, width), and their real frames (views,)."""
        return _padded([self.shards.read(view) for view in views], device)


class FrozenFeatureClips(Dataset[tuple[tuple[Tensor, int], int]]):
    """The training clips as frozen features: a CropSample gives one of a clip's variants, and its class."""

    def __init__(self, features: FrozenFeatures, clips: Sequence[int], labels: np.ndarray) -> None:
        self.features = features
        self.labels = labels
        self.views = [features.plan.views(clip, int(features.lengths[clip])) for clip in clips]

    def __len__(self) -> int:
        return len(self.views)

    @property
    def lengths(self) -> np.ndarray:
        """The length of each clip's views, in samples: (clips,)."""
        return np.array([views[0].stop - views[0].start for views in self.views])

    def __getitem__(self, sample: CropSample) -> tuple[tuple[Tensor, int], int]:
        views = self.views[sample.clip]
        variant = int(np.random.default_rng(sample.seed).integers(len(views)))
        return self.features.shards.read(views[variant]), int(self.labels[sample.clip])


def collate(items: Sequence[tuple[tuple[Tensor, int], int]]) -> dict[str, Tensor]:
    """The batch that `Trainer` gives to a PartiallyFrozenModel."""
    batch = _padded([rows for rows, _ in items], torch.device("cpu"))
    return {**batch, "labels": torch.tensor([label for _, label in items])}


def layout(
    model: Model,
    depth: int,
    audio: AudioSource,
    windows: Sequence[Window],
    trained: Sequence[int],
    plan: CropPlan,
    *,
    bf16: bool,
    folder: Path,
    identity: str,
) -> FrozenFeatures:
    """Lay out the shards of all clips, without computing any: `shards.bytes` is the disk space they need.

    `windows` are scored in validation, the clips `trained` are also trained on; `identity` names the recordings.
    """
    views = [ClipView(window.clip, window.start, window.stop) for window in windows]
    for clip in trained:
        views += plan.views(clip, int(audio.lengths[clip]))
    shards = FeatureShards(model, depth, views, bf16, folder)
    key = hashlib.blake2b(digest_size=12)
    settings = [__version__, identity, depth, bf16, _settings(model), shards.shards]
    key.update(json.dumps(settings, sort_keys=True).encode())
    key.update(repr((shards.views, plan if plan.augments else None)).encode())
    for name, value in sorted(model.network.state_dict().items()):
        if depth_of(model.encoder, name) < depth:
            key.update(name.encode())
            key.update(value.detach().cpu().contiguous().numpy().tobytes())
    shards.folder = folder / f"frozen-{key.hexdigest()}"
    return FrozenFeatures(shards, audio.lengths, plan)


def fits_on_disk(features: FrozenFeatures) -> bool:
    """Whether the disk has room for the shards."""
    if features.shards.folder.is_dir():
        return True
    return shutil.disk_usage(features.shards.folder.parent).free > features.shards.bytes + FREE_BYTES


def compute(features: FrozenFeatures, model: Model, depth: int, audio: AudioSource, progress: Progress) -> None:
    """Compute the missing shards."""
    shards = features.shards
    shards.folder.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in range(len(shards.shards)) if not shards.is_complete(shard)]
    done = len(shards.views) - sum(len(shards.shards[shard]) for shard in missing)
    if not missing:
        return
    model = (model.bf16_copy() if shards.bf16 else model).eval()
    device = next(model.parameters()).device
    dtype = torch.bfloat16 if shards.bf16 else torch.float32
    for shard in missing:
        with atomic_write(shards.path(shard)) as partial, partial.open("wb") as file:
            for numbers in _batches(shards, shards.shards[shard], model.batch_seconds * model.config.sample_rate):
                values, lengths = _waveforms(features, audio, [shards.views[number] for number in numbers])
                mask = masking.real(lengths, values.shape[1]).long() if int(lengths.min()) < values.shape[1] else None
                with torch.inference_mode():
                    state = model.extract_features(values.to(device), mask.to(device) if mask is not None else None)
                    rows = pack_state(model, model.run_layers(state, depth)).to(dtype).cpu()
                for row, number in zip(rows, numbers, strict=True):
                    real = row[: shards.counts[number]].contiguous()
                    file.write((real.view(torch.int16) if shards.bf16 else real).numpy().tobytes())
                done += len(numbers)
                progress(done, len(shards.views))


def _batches(shards: FeatureShards, numbers: Sequence[int], batch_samples: float) -> list[list[int]]:
    """Neighbouring views in batches of bounded length; one view at least."""
    batches: list[list[int]] = []
    for number in numbers:
        longest = shards.views[batches[-1][0]] if batches else shards.views[number]
        if not batches or (len(batches[-1]) + 1) * (longest.stop - longest.start) > batch_samples:
            batches.append([])
        batches[-1].append(number)
    return batches


def _waveforms(features: FrozenFeatures, audio: AudioSource, views: Sequence[ClipView]) -> tuple[Tensor, Tensor]:
    """The waveforms (views, samples) and their lengths (views,), each augmented as its variant is."""
    plan = features.plan
    pieces = []
    for view in views:
        samples = audio.get(view.clip)[0, view.start : view.stop]
        values = torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
        if view.variant is not None and plan.augments:
            seed = np.random.SeedSequence([plan.seed, view.clip, view.variant, 1]).generate_state(1)
            generator = torch.Generator().manual_seed(int(seed[0]))
            length = torch.tensor([len(values)])
            values = augment.waveform(values[None, None], length, plan.augment, generator)[0, 0]
        pieces.append(values)
    return pad_sequence(pieces, batch_first=True), torch.tensor([len(piece) for piece in pieces])


def _padded(views: Sequence[tuple[Tensor, int]], device: torch.device) -> dict[str, Tensor]:
    rows = pad_sequence([rows for rows, _ in views], batch_first=True)
    return {"rows": rows.to(device), "frames": torch.tensor([frames for _, frames in views], device=device)}


def _settings(model: Model) -> list[Any]:
    config = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    return [config, model.extractor.to_dict()]
