"""What is frozen is computed once: the activations at the end of a model's frozen part, kept on disk.

In: a model, its plan, the clips. Out: a Prefix, from which training and validation take rows in the place of sound. A
clip is heard in evaluation mode, in batches of one length, in bfloat16 where the processor multiplies it natively. A
clip that training crops or changes at random is kept in a stated number of variants. Shards are written whole or not
at all, so that a run that was killed computes what is missing. Reading takes file reads, not a map: memory stays flat.
"""

import hashlib
import json
import os
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
from auricle.models.encoders import place
from auricle.models.families.pretrained import Model
from auricle.models.layers import augment, masking
from auricle.parallel import Progress
from auricle.preparation.batches import CropSample
from auricle.preparation.windows import FULL_SCALE, AudioSource, Window
from auricle.recipe import Augment
from auricle.training.freezing import packed, summaries

SHARD_BYTES = 32 << 20
# What must stay free beside the rows.
SPARE_BYTES = 1 << 30


@dataclass(frozen=True)
class View:
    """A stretch of a clip in samples; `variant` counts the random ways in which training hears it, None is as it is."""

    clip: int
    start: int
    stop: int
    variant: int | None = None


@dataclass(frozen=True)
class Hearing:
    """How training hears clips: cropped to so many samples, changed at random, in so many kept variants."""

    crop: int | None
    augment: Augment
    variants: int
    seed: int

    @property
    def changes(self) -> bool:
        """Whether a clip is changed at random, cropping apart."""
        return augment.changes(self.augment)

    def views(self, clip: int, length: int) -> list[View]:
        """The ways in which training hears a clip of so many samples."""
        crop = length if self.crop is None else min(self.crop, length)
        if crop == length and not self.changes:
            return [View(clip, 0, length)]
        found = []
        for variant in range(self.variants):
            start = int(np.random.default_rng((self.seed, clip, variant)).integers(length - crop + 1))
            found.append(View(clip, start, start + crop, variant))
        return found


class Rows:
    """Where the rows of each view lie. Views of like length are neighbours, the longest first."""

    def __init__(self, model: Model, depth: int, views: Sequence[View], bf16: bool, folder: Path) -> None:
        self.views = sorted(
            set(views), key=lambda view: (view.start - view.stop, view.clip, view.start, view.variant or 0)
        )
        self.folder = folder
        self.bf16 = bf16
        self.width = model.encoder.feature_width() if depth == 0 else int(model.config.hidden_size)
        samples = torch.tensor([view.stop - view.start for view in self.views])
        frames = model.encoder.feature_frames(samples) if depth == 0 else model.encoder.frames(samples)
        self.frames = frames.tolist()
        kept = frames if depth < model.depths else torch.zeros_like(frames)
        self.counts = (kept + summaries(model, depth)).tolist()
        self.shards = self._dealt()
        self.places = {view: number for number, view in enumerate(self.views)}
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

    def is_whole(self, shard: int) -> bool:
        """Whether a shard is there with all its bytes; one that was cut off is computed anew."""
        path = self.path(shard)
        expected = sum(self.counts[number] for number in self.shards[shard]) * self.width * self.itemsize
        return path.is_file() and path.stat().st_size == expected

    def path(self, shard: int) -> Path:
        return self.folder / f"rows-{shard:05d}.{'bfloat16' if self.bf16 else 'float32'}"

    def read(self, view: View) -> tuple[Tensor, int]:
        """The rows (rows, width) of one view, and its number of real frames."""
        number = self.places[view]
        shard, start = self.starts[number]
        flat = np.fromfile(
            self.path(shard),
            np.int16 if self.bf16 else np.float32,
            count=self.counts[number] * self.width,
            offset=start * self.width * self.itemsize,
        )
        rows = torch.from_numpy(flat).view(-1, self.width)
        return rows.view(torch.bfloat16) if self.bf16 else rows, self.frames[number]

    def _dealt(self) -> list[list[int]]:
        """Neighbouring views, as many to a shard as make it full."""
        shards: list[list[int]] = []
        held = SHARD_BYTES
        for number, count in enumerate(self.counts):
            if held >= SHARD_BYTES:
                shards.append([])
                held = 0
            shards[-1].append(number)
            held += count * self.width * self.itemsize
        return shards


@dataclass(frozen=True)
class FrozenFeatures:
    """Clips whose frozen part is computed. `rows` reads it; `hearing` says how training hears them."""

    rows: Rows
    lengths: np.ndarray
    hearing: Hearing

    def batch(self, views: Sequence[View], device: torch.device) -> dict[str, Tensor]:
        """The rows of some views, padded to one tensor (views, rows, width), and each one's real frames (views,)."""
        return _together([self.rows.read(view) for view in views], device)


class FrozenFeatureClips(Dataset[dict[str, Any]]):
    """The training clips as the frozen part gives them: a Draw gives one of a clip's variants, and its class."""

    def __init__(self, prefix: FrozenFeatures, clips: Sequence[int], labels: np.ndarray) -> None:
        self.prefix = prefix
        self.labels = labels
        self.views = [prefix.hearing.views(clip, int(prefix.lengths[clip])) for clip in clips]

    def __len__(self) -> int:
        return len(self.views)

    @property
    def lengths(self) -> np.ndarray:
        """How long each clip is when it is heard, in samples: (clips,)."""
        return np.array([views[0].stop - views[0].start for views in self.views])

    def __getitem__(self, draw: CropSample) -> dict[str, Any]:
        views = self.views[draw.number]
        chosen = int(np.random.default_rng(draw.seed).integers(len(views)))
        return {"read": self.prefix.rows.read(views[chosen]), "label": int(self.labels[draw.number])}


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The batch that `Trainer` hands to a Learner."""
    batch = _together([item["read"] for item in items], torch.device("cpu"))
    return {**batch, "labels": torch.tensor([item["label"] for item in items])}


def layout(
    model: Model,
    depth: int,
    sounds: AudioSource,
    cut: Sequence[Window],
    trained: Sequence[int],
    hearing: Hearing,
    *,
    bf16: bool,
    folder: Path,
    identity: str,
) -> FrozenFeatures:
    """Plan the rows of all clips: nothing is computed yet, and `rows.bytes` says what they will take.

    `cut` are the windows that are scored, `trained` the clips that training hears, `identity` names the recordings.
    """
    views = [View(window.clip, window.start, window.stop) for window in cut]
    for clip in trained:
        views += hearing.views(clip, int(sounds.lengths[clip]))
    rows = Rows(model, depth, views, bf16, folder)
    key = hashlib.blake2b(digest_size=12)
    key.update(json.dumps([__version__, identity, depth, bf16, _settings(model), rows.shards], sort_keys=True).encode())
    key.update(repr((rows.views, hearing if hearing.changes else None)).encode())
    for name, value in sorted(model.network.state_dict().items()):
        if place(model.encoder, name) < depth:
            key.update(name.encode())
            key.update(value.detach().cpu().contiguous().numpy().tobytes())
    rows.folder = folder / f"prefix-{key.hexdigest()}"
    return FrozenFeatures(rows, sounds.lengths, hearing)


def room_for(prefix: FrozenFeatures) -> bool:
    """Whether the disk has room for what is not there yet."""
    if prefix.rows.folder.is_dir():
        return True
    return shutil.disk_usage(prefix.rows.folder.parent).free > prefix.rows.bytes + SPARE_BYTES


def compute(prefix: FrozenFeatures, model: Model, depth: int, sounds: AudioSource, progress: Progress) -> None:
    """Compute the shards that are missing, each whole or not at all."""
    rows = prefix.rows
    rows.folder.mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in range(len(rows.shards)) if not rows.is_whole(shard)]
    done = len(rows.views) - sum(len(rows.shards[shard]) for shard in missing)
    if not missing:
        return
    heard = (model.bf16_copy() if rows.bf16 else model).eval()
    device = next(heard.parameters()).device
    dtype = torch.bfloat16 if rows.bf16 else torch.float32
    for shard in missing:
        partial = rows.path(shard).with_name(f".{rows.path(shard).name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            for numbers in _batches(rows, rows.shards[shard], heard.batch_seconds * heard.config.sample_rate):
                values, lengths = _heard(prefix, sounds, [rows.views[number] for number in numbers])
                mask = masking.real(lengths, values.shape[1]).long() if int(lengths.min()) < values.shape[1] else None
                with torch.inference_mode():
                    state = heard.hear(values.to(device), mask.to(device) if mask is not None else None)
                    given = packed(heard, heard.advance(state, depth)).to(dtype).cpu()
                for row, number in zip(given, numbers, strict=True):
                    kept = row[: rows.counts[number]].contiguous()
                    file.write((kept.view(torch.int16) if rows.bf16 else kept).numpy().tobytes())
                done += len(numbers)
                progress(done, len(rows.views))
        os.replace(partial, rows.path(shard))


def _batches(rows: Rows, numbers: Sequence[int], batch_samples: float) -> list[list[int]]:
    """Neighbours in batches of bounded length; one view at least."""
    batches: list[list[int]] = []
    for number in numbers:
        longest = rows.views[batches[-1][0]] if batches else rows.views[number]
        if not batches or (len(batches[-1]) + 1) * (longest.stop - longest.start) > batch_samples:
            batches.append([])
        batches[-1].append(number)
    return batches


def _heard(prefix: FrozenFeatures, sounds: AudioSource, views: Sequence[View]) -> tuple[Tensor, Tensor]:
    """The waveforms (views, samples) and their lengths (views,), each changed as its variant says."""
    hearing = prefix.hearing
    pieces = []
    for view in views:
        samples = sounds.get(view.clip)[0, view.start : view.stop]
        values = torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
        if view.variant is not None and hearing.changes:
            words = np.random.SeedSequence([hearing.seed, view.clip, view.variant, 1]).generate_state(1)
            generator = torch.Generator().manual_seed(int(words[0]))
            length = torch.tensor([len(values)])
            values = augment.waveform(values[None, None], length, hearing.augment, generator)[0, 0]
        pieces.append(values)
    return pad_sequence(pieces, batch_first=True), torch.tensor([len(piece) for piece in pieces])


def _together(read: Sequence[tuple[Tensor, int]], device: torch.device) -> dict[str, Tensor]:
    rows = pad_sequence([rows for rows, _ in read], batch_first=True)
    return {"rows": rows.to(device), "frames": torch.tensor([frames for _, frames in read], device=device)}


def _settings(model: Model) -> list[Any]:
    config = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    return [config, model.extractor.to_dict()]
