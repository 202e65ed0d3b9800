"""The only way from clips to logits: validation, test, prediction and benchmarks all call `score`.

In: a PyTorch model or an exported graph, and an AudioSource. Out: one row of logits per clip, the mean over its
windows. Clips are batched with others of similar length; the logits of a clip do not depend on the others.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from auricle import parallel
from auricle.corpus.clip import Clip
from auricle.models.onnx_runtime import OnnxModel
from auricle.models.runtime import ModelInfo, Runtime
from auricle.parallel import Progress
from auricle.preparation.windows import AudioSource, Window, by_length, cut_clips, padded

Result = TypeVar("Result")


@dataclass(frozen=True)
class Scores:
    """The logits (clips, classes) of clips, by models whose classes are `labels`, and what is known of the clips.

    `classes` are the clips' own: none of `labels` for clips of held-out classes, which have a row for each fold model.
    """

    labels: tuple[str, ...]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    logits: np.ndarray
    seconds: np.ndarray
    groups: tuple[str | None, ...]
    folds: tuple[str, ...]

    @classmethod
    def of_clips(
        cls, labels: tuple[str, ...], clips: Sequence[Clip], seconds: np.ndarray, logits: np.ndarray, fold: str
    ) -> "Scores":
        """The scores of some clips by the model of one fold."""
        ids, classes = tuple(clip.id for clip in clips), tuple(clip.label for clip in clips)
        return cls(labels, ids, classes, logits, seconds, tuple(clip.group for clip in clips), (fold,) * len(clips))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def truth(self) -> np.ndarray:
        """The index into `labels` of each clip's class: (clips,) int64. Raises KeyError for a held-out class."""
        index_of = {label: index for index, label in enumerate(self.labels)}
        return np.array([index_of[name] for name in self.classes], dtype=np.int64)

    @property
    def probabilities(self) -> np.ndarray:
        return softmax(self.logits)

    @property
    def predicted(self) -> np.ndarray:
        return np.asarray(self.logits.argmax(1))

    @property
    def correct(self) -> np.ndarray:
        return np.asarray(self.predicted == self.truth)

    def select(self, keep: np.ndarray) -> "Scores":
        """The clips for which `keep` (clips,) bool is true."""
        return self.take(np.flatnonzero(keep))

    def take(self, rows: np.ndarray) -> "Scores":
        """The clips of some rows (rows,) int, in the order of the rows."""
        ids, classes, groups, folds = (
            tuple(column[row] for row in rows) for column in (self.ids, self.classes, self.groups, self.folds)
        )
        return Scores(self.labels, ids, classes, self.logits[rows], self.seconds[rows], groups, folds)

    def by_fold(self) -> dict[str, "Scores"]:
        """The scores of each fold, in order."""
        folds = np.array(self.folds)
        return {fold: self.select(folds == fold) for fold in dict.fromkeys(self.folds)}

    def save(self, path: Path) -> None:
        """Write one row per clip as Parquet: names, class and prediction in words, the logits as a list."""
        table = pa.table(
            {
                "id": list(self.ids),
                "fold": list(self.folds),
                "group": pa.array(self.groups, pa.string()),
                "seconds": self.seconds,
                "label": list(self.classes),
                "predicted": [self.labels[row] for row in self.predicted],
                "logits": list(self.logits.astype(np.float32)),
            }
        ).replace_schema_metadata({"labels": "\n".join(self.labels)})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Read scores that `save` wrote."""
        table = pq.read_table(path)
        labels = tuple((table.schema.metadata or {})[b"labels"].decode().split("\n"))
        columns = table.to_pydict()
        return cls(
            labels,
            tuple(columns["id"]),
            tuple(columns["label"]),
            np.array(columns["logits"], dtype=np.float32).reshape(len(table), len(labels)),
            np.array(columns["seconds"], dtype=np.float64),
            tuple(columns["group"]),
            tuple(columns["fold"]),
        )


class WindowRows(NamedTuple):
    """The rows (windows, width) float32 of some windows, by number (windows,)."""

    numbers: np.ndarray
    rows: np.ndarray


def join(parts: Sequence[Scores]) -> Scores:
    """The scores of several models, one after the other."""
    return Scores(
        parts[0].labels,
        tuple(id for part in parts for id in part.ids),
        tuple(name for part in parts for name in part.classes),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.seconds for part in parts]),
        tuple(group for part in parts for group in part.groups),
        tuple(fold for part in parts for fold in part.folds),
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (clips, classes) in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def confidence(logits: np.ndarray) -> np.ndarray:
    """The greatest probability of each clip: logits (clips, classes) → (clips,) float64."""
    return np.asarray(softmax(logits).max(1))


def score(model: Any, source: AudioSource, *, batch_seconds: float) -> np.ndarray:
    """Logits (clips, classes) float32. The model's config gives the windows; batches are bounded in seconds.

    `model` is a PyTorch model or an OnnxModel.
    """
    runtime = runtime_of(model)
    return _score_windows(runtime, source, batch_seconds, runtime.logits)


def embed(model: Any, source: AudioSource, *, batch_seconds: float) -> np.ndarray:
    """Pooled vectors (clips, width) float32 of a PyTorch model, the mean over each clip's windows."""
    found = _gather(embed_windows(model, source, batch_seconds=batch_seconds))
    return mean_by_clip(found, model.config, source.lengths)


def embed_windows(
    model: Any, source: AudioSource, *, batch_seconds: float, progress: Progress | None = None
) -> Iterator[WindowRows]:
    """The pooled vectors of a PyTorch model, a batch at a time, on a cluster if one is used.

    Windows are numbered as `windows_of` its config.
    """
    work = EmbeddingWork.of(model, source)
    batches = _batches(ModelInfo.of_model(model), source.lengths, batch_seconds)
    for (numbers, _), rows in _with_results(batches, work, progress):
        yield WindowRows(numbers, rows)


def embed_with_centers(
    model: Any,
    source: AudioSource,
    centers: Mapping[int, Sequence[int]],
    *,
    batch_seconds: float,
    progress: Progress | None = None,
) -> Iterator[list[WindowRows]]:
    """The vectors of the baseline, a batch at a time: of whole clips, then of centers of some, from the same frames.

    centers: by their samples, the numbers of clips, all longer, in order: a center is numbered by its place here.
    """
    chosen = {samples: np.isin(np.arange(len(source)), clips) for samples, clips in centers.items()}
    places = {samples: np.cumsum(mask) - 1 for samples, mask in chosen.items()}
    work = CenterWork(EmbeddingWork.of(model, source), chosen)
    batches = _batches(ModelInfo.of_model(model), source.lengths, batch_seconds)
    for (numbers, batch), (whole, *parts) in _with_results(batches, work, progress):
        clips = np.array([window.clip for window in batch])
        of_centers = (
            WindowRows(places[samples][clips[mask[clips]]], part)
            for (samples, mask), part in zip(chosen.items(), parts, strict=True)
        )
        yield [WindowRows(numbers, whole), *of_centers]


@dataclass(frozen=True)
class EmbeddingWork:
    """From a batch of windows to their vectors (windows, width). Sums over as many `threads` have the same digits."""

    model: Any
    source: AudioSource
    threads: int

    @classmethod
    def of(cls, model: Any, source: AudioSource) -> "EmbeddingWork":
        import torch

        from auricle.models.layers.parametrized import portable

        return cls(portable(model).cpu() if parallel.on_cluster() else model, source, torch.get_num_threads())

    @property
    def runtime(self) -> Any:
        import torch

        from auricle.models.torch_runtime import TorchRuntime

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        return TorchRuntime(self.model)

    def __call__(self, batch: Sequence[Window]) -> np.ndarray:
        return np.asarray(_batch_runner(self.source, self.runtime.embed)(batch))


@dataclass(frozen=True)
class CenterWork:
    """From a batch of whole clips to their vectors, and those of the centers of the `chosen`, by their samples."""

    work: EmbeddingWork
    chosen: Mapping[int, np.ndarray]

    def __call__(self, batch: Sequence[Window]) -> list[np.ndarray]:
        clips = np.array([window.clip for window in batch])
        values = padded([self.work.source.get(clip) for clip in clips])
        centers = {samples: mask[clips] for samples, mask in self.chosen.items()}
        return list(self.work.runtime.embed_centers(*values, centers))


def _with_results(
    batches: Iterable[tuple[np.ndarray, Sequence[Window]]],
    work: Callable[[Sequence[Window]], Result],
    progress: Progress | None,
) -> Iterator[tuple[tuple[np.ndarray, Sequence[Window]], Result]]:
    """Each batch, and what the work makes of it, on a cluster if one is used."""
    known = list(batches)
    parts = [batch for _, batch in known]
    results = parallel.cluster_map(work, parts) if parallel.on_cluster() else map(work, parts)
    done, total = 0, sum(map(len, parts))
    for batch, result in zip(known, results, strict=True):
        done += len(batch[1])
        if progress is not None:
            progress(done, total)
        yield batch, result


def vectors(model: Any, source: AudioSource, *, batch_seconds: float) -> np.ndarray:
    """Vectors (clips, width) float32 to compare by angle, the mean over each clip's windows. Models as in `score`."""
    runtime = runtime_of(model)
    return _score_windows(runtime, source, batch_seconds, runtime.vectors)


def runtime_of(model: Any) -> Runtime:
    """The Runtime of a model: an exported model is one, a PyTorch model gets a TorchRuntime."""
    if isinstance(model, OnnxModel):
        return model
    from auricle.models.torch_runtime import TorchRuntime

    return TorchRuntime(model)


def _score_windows(
    runtime: Runtime, source: AudioSource, batch_seconds: float, run: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    return mean_over_windows(runtime.info, source.lengths, batch_seconds, _batch_runner(source, run))


def _batch_runner(
    source: AudioSource, run: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Callable[[Sequence[Window]], np.ndarray]:
    def run_batch(batch: Sequence[Window]) -> np.ndarray:
        return run(*padded([source.get(window.clip)[:, window.start : window.stop] for window in batch]))

    return run_batch


def windows_of(config: Any, lengths: np.ndarray) -> list[Window]:
    """The windows that a model's config, or its ModelInfo, asks for, of clips of so many samples each."""
    seconds = getattr(config, "window_seconds", None)
    if not seconds:
        return cut_clips(lengths, None)
    size = round(seconds * config.sample_rate)
    return cut_clips(lengths, size, max(1, round(size * (1 - getattr(config, "overlap", 0.0)))))


def mean_over_windows(
    info: ModelInfo, lengths: np.ndarray, batch_seconds: float, run_batch: Callable[[Sequence[Window]], np.ndarray]
) -> np.ndarray:
    """The mean over each clip's windows of the rows that `run_batch` gives: (clips, width) float32."""
    return mean_by_clip(_window_rows(info, lengths, batch_seconds, run_batch), info, lengths)


def mean_by_clip(rows: np.ndarray, config: Any, lengths: np.ndarray) -> np.ndarray:
    """Average rows (windows, width), in the order of `windows_of`, over each clip's: (clips, width) float32."""
    clips = [window.clip for window in windows_of(config, lengths)]
    total = np.zeros((len(lengths), rows.shape[1]), np.float32)
    np.add.at(total, clips, rows)
    return np.asarray(total / np.bincount(clips, minlength=len(lengths))[:, None].astype(np.float32))


def _window_rows(
    info: ModelInfo, lengths: np.ndarray, batch_seconds: float, run_batch: Callable[[Sequence[Window]], np.ndarray]
) -> np.ndarray:
    """The rows that `run_batch` gives, (windows, width) float32 in the order of `windows_of`."""
    batches = _batches(info, lengths, batch_seconds)
    return _gather(WindowRows(numbers, run_batch(batch)) for numbers, batch in batches)


def _gather(parts: Iterable[WindowRows]) -> np.ndarray:
    """The rows of all windows in their order, (windows, width) float32."""
    found = list(parts)
    rows = np.empty((sum(len(part.numbers) for part in found), found[0].rows.shape[1]), np.float32)
    for part in found:
        rows[part.numbers] = part.rows
    return rows


def _batches(
    info: ModelInfo, lengths: np.ndarray, batch_seconds: float
) -> Iterator[tuple[np.ndarray, Sequence[Window]]]:
    """The windows in batches of similar length, with their numbers in the order of `windows_of`."""
    windows = windows_of(info, lengths)
    positions = {window: number for number, window in enumerate(windows)}
    for batch in by_length(windows, info.batch_samples(batch_seconds)):
        yield np.array([positions[window] for window in batch]), batch
