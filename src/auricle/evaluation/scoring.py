"""The only way from clips to logits: validation, test, prediction and benchmarks all come through `score`.

In: a model and Sounds. Out: one row of logits per clip, the mean over its windows. Clips are batched with others of
their length; a model's answer for a clip does not depend on that company.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedModel

from auricle.batches import Sounds, Window, build, by_length, windows


@dataclass(frozen=True)
class Scores:
    """The logits (clips, classes) of judged clips and what is known of them. `truth` (clips,) counts in `labels`."""

    labels: tuple[str, ...]
    ids: tuple[str, ...]
    truth: np.ndarray
    logits: np.ndarray
    seconds: np.ndarray
    groups: tuple[str | None, ...]
    folds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def probabilities(self) -> np.ndarray:
        return softmax(self.logits)

    @property
    def predicted(self) -> np.ndarray:
        return np.asarray(self.logits.argmax(1))

    def only(self, keep: np.ndarray) -> "Scores":
        """The judged clips for which `keep` (clips,) bool is true."""
        rows = np.flatnonzero(keep)
        return Scores(
            self.labels,
            tuple(self.ids[row] for row in rows),
            self.truth[rows],
            self.logits[rows],
            self.seconds[rows],
            tuple(self.groups[row] for row in rows),
            tuple(self.folds[row] for row in rows),
        )

    def save(self, path: Path) -> None:
        """Write one row per clip as Parquet: names, truth and prediction in words, the logits as a list."""
        table = pa.table(
            {
                "id": list(self.ids),
                "fold": list(self.folds),
                "group": pa.array(self.groups, pa.string()),
                "seconds": self.seconds,
                "label": [self.labels[row] for row in self.truth],
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
        place = {label: number for number, label in enumerate(labels)}
        columns = table.to_pydict()
        return cls(
            labels,
            tuple(columns["id"]),
            np.array([place[label] for label in columns["label"]], dtype=np.int64),
            np.array(columns["logits"], dtype=np.float32).reshape(len(table), len(labels)),
            np.array(columns["seconds"], dtype=np.float64),
            tuple(columns["group"]),
            tuple(columns["fold"]),
        )


def join(parts: list[Scores]) -> Scores:
    """The out-of-fold scores of all folds, one after the other."""
    return Scores(
        parts[0].labels,
        tuple(id for part in parts for id in part.ids),
        np.concatenate([part.truth for part in parts]),
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


def score(model: PreTrainedModel, sounds: Sounds, *, batch_seconds: float) -> np.ndarray:
    """Logits (clips, classes) float32. The model's config names the windows; batches are bounded in seconds."""
    return _over_windows(model, sounds, batch_seconds, lambda values, mask: model(values, attention_mask=mask).logits)


def embed(model: PreTrainedModel, sounds: Sounds, *, batch_seconds: float) -> np.ndarray:
    """Pooled vectors (clips, width) float32, the mean over each clip's windows."""
    return _over_windows(model, sounds, batch_seconds, lambda values, mask: model.embed(values, mask))


def score_embedded(model: PreTrainedModel, embeddings: np.ndarray) -> np.ndarray:
    """Logits (clips, classes) from what `embed` gave, for models whose embedding does not depend on training."""
    with torch.inference_mode():
        rows: np.ndarray = model.classify(torch.from_numpy(embeddings).to(_device(model))).float().cpu().numpy()
    return rows


def _device(model: PreTrainedModel) -> torch.device:
    """Where the model is; one that is fitted in closed form has buffers and no parameters."""
    device: torch.device = next(itertools.chain(model.parameters(), model.buffers())).device
    return device


def _over_windows(
    model: PreTrainedModel,
    sounds: Sounds,
    batch_seconds: float,
    answer: Callable[[Tensor, Tensor | None], Tensor],
) -> np.ndarray:
    config = model.config
    device = _device(model)

    def heard(batch: Sequence[Window]) -> Tensor:
        values, mask = build([sounds.get(window.clip)[:, window.start : window.stop] for window in batch])
        return answer(values.to(device), mask.to(device) if mask is not None else None)

    cut = windows_of(config, sounds.lengths)
    seconds = min(batch_seconds, getattr(model, "batch_seconds", batch_seconds))
    return over(model, cut, round(seconds * config.sample_rate), heard)


def windows_of(config: Any, lengths: np.ndarray) -> list[Window]:
    """The windows that a model's config asks for, of clips of so many samples each."""
    seconds = getattr(config, "window_seconds", None)
    size = round(seconds * config.sample_rate) if seconds else None
    return windows(lengths, size, getattr(config, "overlap", 0.0))


def over(
    model: torch.nn.Module, cut: Sequence[Window], batch_samples: int, answer: Callable[[Sequence[Window]], Tensor]
) -> np.ndarray:
    """The mean over each clip's windows of what `answer` gives for a batch of them: (clips, width) float32.

    The model is in evaluation mode meanwhile, and in its former mode afterwards.
    """
    clips = max(window.clip for window in cut) + 1
    total: np.ndarray | None = None
    counts = np.zeros((clips, 1), np.float32)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in by_length(cut, batch_samples):
                rows = answer(batch).float().cpu().numpy()
                if total is None:
                    total = np.zeros((clips, rows.shape[1]), np.float32)
                places = [window.clip for window in batch]
                np.add.at(total, places, rows)
                np.add.at(counts, places, 1.0)
    finally:
        model.train(training)
    assert total is not None, "score is called with at least one clip"
    return total / counts
