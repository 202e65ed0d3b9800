"""The frozen part of a model is computed once: its activations for every clip, in files.

In: a model, its frozen depth, the clips. Out: FrozenFeatures, which training and validation read instead of waveforms.
The frozen part runs in evaluation mode, in batches of similar length, in bfloat16 where the processor multiplies it
natively. A clip that training crops or augments at random has a stated number of variants. Shards are written
atomically, so a run that was killed computes only the missing ones; plain file reads keep memory flat.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from auricle import __version__
from auricle.audio import FULL_SCALE
from auricle.models import torch_runtime
from auricle.models.encoders import depth_of
from auricle.models.families.pretrained.network import Model
from auricle.models.layers import augment, masking
from auricle.models.runtime import ModelInfo
from auricle.parallel import Progress
from auricle.preparation.batches import CropSample
from auricle.preparation.windows import AudioSource, Window, by_length
from auricle.recipe import Augment, Recipe
from auricle.run_folder import atomic_write
from auricle.training.freezing import pack_state, summarized_layers, summary_count

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

    @classmethod
    def of(cls, recipe: Recipe, sample_rate: int, variants: int) -> "CropPlan":
        seconds = recipe.train.crop_seconds
        return cls(round(seconds * sample_rate) if seconds else None, recipe.augment, variants, recipe.train.seed)

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


@dataclass(frozen=True)
class _Rows:
    """Where the rows of a view are: `count` rows of a shard from `start` on. `frames` is its number of real frames."""

    shard: int
    start: int
    count: int
    frames: int


class FrozenFeatures:
    """The frozen part's output for views of clips, in shards. Nothing is computed until `compute`.

    `windows` are scored in validation, the clips `trained` are also trained on, as `plan` crops and augments them.
    `lengths` (clips,) are in samples; `identity` names the recordings. Views are sorted, the longest first.
    """

    def __init__(
        self,
        model: Model,
        depth: int,
        lengths: np.ndarray,
        windows: Sequence[Window],
        trained: Sequence[int],
        plan: CropPlan,
        *,
        bf16: bool,
        folder: Path,
        identity: str,
    ) -> None:
        self.depth, self.lengths, self.plan, self.bf16 = depth, lengths, plan, bf16
        views = {ClipView(window.clip, window.start, window.stop) for window in windows}
        for clip in trained:
            views.update(plan.views(clip, int(lengths[clip])))
        self.views = sorted(views, key=lambda view: (view.start - view.stop, view.clip, view.start, view.variant or 0))
        self.width = model.encoder.feature_size() if depth == 0 else int(model.config.hidden_size)
        self._row_bytes = self.width * (2 if bf16 else 4)
        samples = torch.tensor([view.stop - view.start for view in self.views])
        rows = model.encoder.feature_frames(samples) if depth == 0 else model.encoder.frames(samples)
        stored = rows if depth < model.final_depth else torch.zeros_like(rows)
        frames = model.encoder.state_frames(samples, depth)
        self._assign((stored + summary_count(model, depth)).tolist(), frames.tolist())
        self.folder = folder / f"frozen-{self._key(model, identity)}"

    def _assign(self, counts: Sequence[int], frames: Sequence[int]) -> None:
        """Neighbouring views share a shard until it is full."""
        self.shards: list[list[ClipView]] = []
        self._rows: dict[ClipView, _Rows] = {}
        rows = 0
        for view, count, real in zip(self.views, counts, frames, strict=True):
            if not self.shards or rows * self._row_bytes >= SHARD_BYTES:
                self.shards.append([])
                rows = 0
            self.shards[-1].append(view)
            self._rows[view] = _Rows(len(self.shards) - 1, rows, count, real)
            rows += count

    def _key(self, model: Model, identity: str) -> str:
        """What the rows depend on, as a hash: recordings, views, settings and the weights of the frozen part."""
        config = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
        sizes = [len(shard) for shard in self.shards]
        settings = [__version__, identity, self.depth, self.bf16, config, model.preprocessor.to_dict(), sizes]
        settings.append([bool(model.layers), summarized_layers(model, self.depth)])
        key = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=12)
        key.update(repr((self.views, self.plan if self.plan.augments else None)).encode())
        for name, value in sorted(model.network.state_dict().items()):
            if depth_of(model.encoder, name) < self.depth:
                key.update(name.encode())
                key.update(value.detach().cpu().contiguous().numpy().tobytes())
        return key.hexdigest()

    @property
    def bytes(self) -> int:
        """The disk space of all shards."""
        return sum(rows.count for rows in self._rows.values()) * self._row_bytes

    def fits_on_disk(self) -> bool:
        """Whether the disk has room for the shards."""
        return self.folder.is_dir() or shutil.disk_usage(self.folder.parent).free > self.bytes + FREE_BYTES

    def read(self, view: ClipView) -> tuple[Tensor, int]:
        """The rows (rows, width) of one view, and its number of real frames."""
        rows = self._rows[view]
        flat = np.fromfile(
            self._path(rows.shard),
            np.int16 if self.bf16 else np.float32,
            count=rows.count * self.width,
            offset=rows.start * self._row_bytes,
        )
        values = torch.from_numpy(flat).view(-1, self.width)
        return values.view(torch.bfloat16) if self.bf16 else values, rows.frames

    def compute(self, model: Model, audio: AudioSource, progress: Progress) -> None:
        """Compute the missing shards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [shard for shard in range(len(self.shards)) if not self._is_complete(shard)]
        if not missing:
            return
        done = len(self.views) - sum(len(self.shards[shard]) for shard in missing)
        model = (model.bf16_copy() if self.bf16 else model).eval()
        batch_samples = ModelInfo.of_model(model).batch_samples(model.batch_seconds)
        for shard in missing:
            views = self.shards[shard]
            spans = [Window(number, 0, view.stop - view.start) for number, view in enumerate(views)]
            with atomic_write(self._path(shard)) as partial, partial.open("wb") as file:
                for batch in by_length(spans, batch_samples):
                    rows = self._compute_batch(model, audio, [views[span.clip] for span in batch])
                    file.write(rows.tobytes())
                    done += len(batch)
                    progress(done, len(self.views))

    def _compute_batch(self, model: Model, audio: AudioSource, views: Sequence[ClipView]) -> np.ndarray:
        """The rows of some views, one view after the other."""
        pieces = [self._waveform(audio, view) for view in views]
        values, lengths = pad_sequence(pieces, batch_first=True), torch.tensor([len(piece) for piece in pieces])
        mask = masking.real(lengths, values.shape[1]).long() if int(lengths.min()) < values.shape[1] else None
        device = torch_runtime.device_of(model)
        with torch.inference_mode():
            state = model.extract_features(values.to(device), mask.to(device) if mask is not None else None)
            rows = pack_state(model, model.run_layers(state, self.depth))
            rows = rows.to(torch.bfloat16 if self.bf16 else torch.float32).cpu()
        real = torch.cat([row[: self._rows[view].count] for row, view in zip(rows, views, strict=True)])
        stored: np.ndarray = (real.view(torch.int16) if self.bf16 else real).numpy()
        return stored

    def _waveform(self, audio: AudioSource, view: ClipView) -> Tensor:
        """The samples (samples,) of a view, augmented as its variant is."""
        samples = audio.get(view.clip)[0, view.start : view.stop]
        values = torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
        if view.variant is None or not self.plan.augments:
            return values
        seed = np.random.SeedSequence([self.plan.seed, view.clip, view.variant, 1]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        return augment.waveform(values[None, None], torch.tensor([len(values)]), self.plan.augment, generator)[0, 0]

    def _is_complete(self, shard: int) -> bool:
        path = self._path(shard)
        expected = sum(self._rows[view].count for view in self.shards[shard]) * self._row_bytes
        return path.is_file() and path.stat().st_size == expected

    def _path(self, shard: int) -> Path:
        return self.folder / f"rows-{shard:05d}.{'bfloat16' if self.bf16 else 'float32'}"


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
        return self.features.read(views[variant]), int(self.labels[sample.clip])


def collate(items: Sequence[tuple[tuple[Tensor, int], int]]) -> dict[str, Tensor]:
    """The batch that `Trainer` gives to a PartiallyFrozenModel."""
    batch = padded([rows for rows, _ in items], torch.device("cpu"))
    return {**batch, "labels": torch.tensor([label for _, label in items])}


def padded(views: Sequence[tuple[Tensor, int]], device: torch.device) -> dict[str, Tensor]:
    """The rows of some views, padded to one tensor (views, rows, width), and their real frames (views,)."""
    rows = pad_sequence([rows for rows, _ in views], batch_first=True)
    return {"rows": rows.to(device), "frames": torch.tensor([frames for _, frames in views], device=device)}
