"""The frozen part of a model is computed once: its output for every clip, in files.

In: a FrozenPart (an encoder's lower layers, or the log-mel of a network that learns from scratch) and the clips. Out:
FrozenFeatures, which training and validation read instead of waveforms. The part runs in evaluation mode, in batches of
similar length. A clip that training changes before the part has a stated number of variants. Shards are written
atomically, so a run that was killed computes only the missing ones; plain file reads keep memory flat.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from auricle import __version__, parallel
from auricle.audio import FULL_SCALE
from auricle.models import torch_runtime
from auricle.models.encoders import depth_of
from auricle.models.families.pretrained.network import Model
from auricle.models.layers import augment
from auricle.models.layers.front_end import STEPS, LogMel
from auricle.models.layers.parametrized import portable
from auricle.models.runtime import ModelInfo
from auricle.parallel import Progress
from auricle.preparation.batches import CropSample, build
from auricle.preparation.windows import AudioSource, Window, by_length
from auricle.recipe import Augment, Recipe
from auricle.run_folder import atomic_write
from auricle.training.freezing import pack_state, summarized_layers, summary_count

SHARD_BYTES = 32 << 20
# Disk space that must stay free.
FREE_BYTES = 1 << 30
# Audio whose log-mel is computed at once.
LOG_MEL_SECONDS = 60


@dataclass(frozen=True)
class FrozenPart:
    """What is computed once. A view of some samples (views,) has `rows(samples)` rows of `width` values of `dtype`, of
    which `frames(samples)` are real frames.

    `key` names all that the rows depend on but the clips, and equal keys are equal parts. `load` gives the function
    from waveforms and their mask to rows (views, rows, width), which takes `batch_samples` of audio at once.
    """

    key: bytes
    width: int = field(compare=False)
    dtype: torch.dtype = field(compare=False)
    rows: Callable[[Tensor], Tensor] = field(compare=False)
    frames: Callable[[Tensor], Tensor] = field(compare=False)
    load: Callable[[], Callable[[Tensor, Tensor | None], Tensor]] = field(compare=False)
    batch_samples: int = field(compare=False)


def encoder_part(model: Model, depth: int, bf16: bool) -> FrozenPart:
    """All that a pretrained model computes before layer `depth`; in bfloat16 where the processor multiplies it."""
    info, summaries, key = ModelInfo.of_model(model), summary_count(model, depth), _encoder_key(model, depth, bf16)
    if parallel.on_cluster():
        model = portable(model).cpu()

    def rows(samples: Tensor) -> Tensor:
        count = model.encoder.feature_frames(samples) if depth == 0 else model.encoder.frames(samples)
        return (count if depth < model.final_depth else torch.zeros_like(count)) + summaries

    def load() -> Callable[[Tensor, Tensor | None], Tensor]:
        used = (model.bf16_copy() if bf16 else model).eval()
        device = torch_runtime.device_of(used)

        def compute(values: Tensor, mask: Tensor | None) -> Tensor:
            state = used.extract_features(values.to(device), mask.to(device) if mask is not None else None)
            return pack_state(used, used.run_layers(state, depth))

        return compute

    width = model.encoder.feature_size() if depth == 0 else int(model.config.hidden_size)
    dtype = torch.bfloat16 if bf16 else torch.float32
    frames = partial(model.encoder.state_frames, depth=depth)
    return FrozenPart(key, width, dtype, rows, frames, load, info.batch_samples(model.batch_seconds))


def log_mel_part(front_end: LogMel) -> FrozenPart:
    """Log power before standardisation, which all folds share: int16, as `LogMel.pack` gives it."""
    mel = front_end.mel
    settings = [mel.sample_rate, mel.n_fft, mel.hop_length, mel.n_mels, front_end.mel_floor, front_end.channels, STEPS]

    def compute(values: Tensor, _: Tensor | None) -> Tensor:
        values = values.to(torch_runtime.device_of(front_end))
        mixed = front_end.mix(values[:, None] if values.dim() == 2 else values)
        every = torch.ones(1, mel.frames(values.shape[-1]), dtype=torch.bool, device=values.device)
        return front_end.pack(front_end.extract(mixed, every))

    return FrozenPart(
        json.dumps([__version__, "log-mel", *settings]).encode(),
        front_end.channels * mel.n_mels,
        torch.int16,
        mel.frames,
        mel.frames,
        lambda: compute,
        LOG_MEL_SECONDS * mel.sample_rate,
    )


def _encoder_key(model: Model, depth: int, bf16: bool) -> bytes:
    """Settings and the weights of the frozen part, as a hash."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    settings = [__version__, depth, bf16, config, model.preprocessor.to_dict()]
    settings.append([bool(model.layers), summarized_layers(model, depth)])
    key = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=12)
    for name, value in sorted(model.network.state_dict().items()):
        if depth_of(model.encoder, name) < depth:
            key.update(name.encode())
            key.update(value.detach().cpu().contiguous().numpy().tobytes())
    return key.digest()


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
        part: FrozenPart,
        lengths: np.ndarray,
        windows: Sequence[Window],
        trained: Sequence[int],
        plan: CropPlan,
        *,
        folder: Path,
        identity: str,
    ) -> None:
        self.part, self.lengths, self.plan = part, lengths, plan
        views = {ClipView(window.clip, window.start, window.stop) for window in windows}
        for clip in trained:
            views.update(plan.views(clip, int(lengths[clip])))
        self.views = sorted(views, key=lambda view: (view.start - view.stop, view.clip, view.start, view.variant or 0))
        self._row_bytes = part.width * part.dtype.itemsize
        samples = torch.tensor([view.stop - view.start for view in self.views])
        self._assign(part.rows(samples).tolist(), part.frames(samples).tolist())
        key = hashlib.blake2b(part.key, digest_size=12)
        key.update(json.dumps([identity, [len(shard) for shard in self.shards]]).encode())
        key.update(repr((self.views, plan if plan.augments else None)).encode())
        self.folder = folder / f"frozen-{key.hexdigest()}"

    def __getstate__(self) -> dict[str, object]:
        """What another process needs to read what was computed; it cannot compute anything."""
        return {**vars(self), "part": replace(self.part, rows=_elsewhere, frames=_elsewhere, load=_elsewhere)}

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

    @property
    def bytes(self) -> int:
        """The disk space of all shards."""
        return sum(rows.count for rows in self._rows.values()) * self._row_bytes

    def fits_on_disk(self) -> bool:
        """Whether the disk has room for the shards."""
        return self.folder.is_dir() or shutil.disk_usage(self.folder.parent).free > self.bytes + FREE_BYTES

    def count(self, view: ClipView) -> int:
        """The number of rows of one view."""
        return self._rows[view].count

    def read(self, view: ClipView, start: int = 0, count: int | None = None) -> tuple[Tensor, int]:
        """The rows (rows, width) of one view, and its number of real frames; of all rows, or of `count` frames from
        `start` on.
        """
        rows = self._rows[view]
        flat = np.fromfile(
            self._path(rows.shard),
            np.int16 if self.part.dtype.itemsize == 2 else np.float32,
            count=(count or rows.count) * self.part.width,
            offset=(rows.start + start) * self._row_bytes,
        )
        return torch.from_numpy(flat).view(-1, self.part.width).view(self.part.dtype), count or rows.frames

    def compute(self, audio: AudioSource, progress: Progress) -> None:
        """Compute the missing shards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [shard for shard in range(len(self.shards)) if not self._is_complete(shard)]
        if not missing:
            return
        done = len(self.views) - sum(len(self.shards[shard]) for shard in missing)
        if parallel.on_cluster():
            for shard, _ in zip(missing, parallel.cluster_map(ShardWork(self, self.part, audio), missing), strict=True):
                done += len(self.shards[shard])
                progress(done, len(self.views))
            return
        run = self.part.load()
        for shard in missing:
            for count in self._compute_shard(run, audio, shard):
                done += count
                progress(done, len(self.views))

    def _compute_shard(
        self, run: Callable[[Tensor, Tensor | None], Tensor], audio: AudioSource, shard: int
    ) -> Iterator[int]:
        """Write a shard; gives the number of views of each batch."""
        views = self.shards[shard]
        spans = [Window(number, 0, view.stop - view.start) for number, view in enumerate(views)]
        with atomic_write(self._path(shard)) as partial, partial.open("wb") as file:
            for batch in by_length(spans, self.part.batch_samples):
                file.write(self._compute_batch(run, audio, [views[span.clip] for span in batch]).tobytes())
                yield len(batch)

    def _compute_batch(
        self, run: Callable[[Tensor, Tensor | None], Tensor], audio: AudioSource, views: Sequence[ClipView]
    ) -> np.ndarray:
        """The rows of some views, one view after the other."""
        with torch.inference_mode():
            rows = run(*build([self._waveform(audio, view) for view in views])).to(self.part.dtype).cpu()
        real = torch.cat([row[: self._rows[view].count] for row, view in zip(rows, views, strict=True)])
        stored: np.ndarray = (real.view(torch.int16) if self.part.dtype.itemsize == 2 else real).numpy()
        return stored

    def _waveform(self, audio: AudioSource, view: ClipView) -> np.ndarray:
        """The samples (channels, samples) of a view, augmented as its variant is."""
        samples = audio.get(view.clip)[:, view.start : view.stop]
        if view.variant is None or not self.plan.augments:
            return samples
        values = torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
        seed = np.random.SeedSequence([self.plan.seed, view.clip, view.variant, 1]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        changed = augment.waveform(values[None], torch.tensor([values.shape[1]]), self.plan.augment, generator)[0]
        return np.asarray(changed)

    def _is_complete(self, shard: int) -> bool:
        path = self._path(shard)
        expected = sum(self._rows[view].count for view in self.shards[shard]) * self._row_bytes
        return path.is_file() and path.stat().st_size == expected

    def _path(self, shard: int) -> Path:
        return self.folder / f"rows-{shard:05d}.{str(self.part.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class ShardWork:
    """Computes shards in another process, which is sent the part that the features leave behind."""

    features: FrozenFeatures
    part: FrozenPart
    audio: AudioSource

    def __call__(self, shard: int) -> int:
        self.features.part = self.part
        return sum(self.features._compute_shard(_loaded(self.part), self.audio, shard))


@functools.lru_cache(maxsize=1)
def _loaded(part: FrozenPart) -> Callable[[Tensor, Tensor | None], Tensor]:
    """What a process computes many shards with."""
    return part.load()


def _elsewhere(*_: object) -> Any:
    raise AssertionError("frozen features are computed where they were planned")


class FrozenFeatureClips(Dataset[tuple[tuple[Tensor, int], int]]):
    """The training clips as frozen features: a CropSample gives one of a clip's variants, and its class.

    Of longer variants a random crop of frames is read: `crop` of them or, by the sample's length_fraction, between
    `min_crop` and that; of a frame at its edge the audio beyond is a part, where a cropped waveform has zeros.
    """

    def __init__(
        self,
        features: FrozenFeatures,
        clips: Sequence[int],
        labels: np.ndarray,
        crop: int | None = None,
        min_crop: int | None = None,
    ) -> None:
        self.features = features
        self.labels = labels
        self.crop = crop
        self.min_crop = crop if min_crop is None else min_crop
        self.views = [features.plan.views(clip, int(features.lengths[clip])) for clip in clips]

    def __len__(self) -> int:
        return len(self.views)

    @property
    def lengths(self) -> np.ndarray:
        """How long each clip's views are, which sorts them into batches: in samples, or rows where they are cropped."""
        if self.crop is None:
            return np.array([views[0].stop - views[0].start for views in self.views])
        return np.minimum([self.features.count(views[0]) for views in self.views], self.crop)

    def __getitem__(self, sample: CropSample) -> tuple[tuple[Tensor, int], int]:
        views = self.views[sample.clip]
        generator, label = np.random.default_rng(sample.seed), int(self.labels[sample.clip])
        view = views[int(generator.integers(len(views)))] if len(views) > 1 else views[0]
        if self.crop is not None and self.min_crop is not None:
            crop = round(self.min_crop + sample.length_fraction * (self.crop - self.min_crop))
            if self.features.count(view) > crop:
                return self.features.read(
                    view, int(generator.integers(self.features.count(view) - crop + 1)), crop
                ), label
        return self.features.read(view), label


def collate(items: Sequence[tuple[tuple[Tensor, int], int]]) -> dict[str, Tensor]:
    """The batch that `Trainer` gives to a PartiallyFrozenModel."""
    batch = padded([rows for rows, _ in items], torch.device("cpu"))
    return {**batch, "labels": torch.tensor([label for _, label in items])}


def padded(views: Sequence[tuple[Tensor, int]], device: torch.device) -> dict[str, Tensor]:
    """The rows of some views, padded to one tensor (views, rows, width), and their real frames (views,)."""
    rows = pad_sequence([rows for rows, _ in views], batch_first=True)
    return {"rows": rows.to(device), "frames": torch.tensor([frames for _, frames in views], device=device)}
