"""The embeddings of a corpus, in files: computed once, and read where they are needed.

In: a model and the clips of a PreparedCorpus. Out: Embeddings. Memory holds one batch while they are computed, and
later the rows that are asked for: 100,000 clips of the instant baseline are three quarters of a gigabyte.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from auricle import __version__
from auricle.evaluation import duration, scoring
from auricle.models import torch_runtime
from auricle.parallel import Progress
from auricle.preparation.prepare import PreparedCorpus
from auricle.preparation.windows import AudioSource
from auricle.run_folder import atomic_write

# Clips of which centers are embedded, for each duration: of a test split of a fifth, as many as of other families.
MOST_CENTERS = 5 * duration.MOST_CLIPS
# Clips whose logits are computed at once.
BLOCK_CLIPS = 2048


@dataclass(frozen=True)
class Embeddings:
    """What closed-form models are fitted to and scored from: a float32 row of the .npy file `path` for each window.

    `rows` are each clip's, by id; a clip that no window cuts has one. Of a row the `columns` are used, None for all.
    `centers` are those of the centers of clips, by their seconds, where they were computed too.
    """

    path: Path
    rows: Mapping[str, slice]
    columns: np.ndarray | None = None
    centers: Mapping[float, "Embeddings"] | None = None

    def used_by(self, model: PreTrainedModel) -> "Embeddings":
        """What a fitted model's classifier takes of them: a probe takes the layers that it chose."""
        centers = {seconds: center.used_by(model) for seconds, center in (self.centers or {}).items()}
        return replace(self, columns=model.used_columns(), centers=centers or None)

    def of(self, ids: Sequence[str]) -> "ClipVectors":
        """The vectors of some clips."""
        return ClipVectors(self.path, self.columns, [self.rows[id] for id in ids])

    def logits(self, model: PreTrainedModel, ids: Sequence[str]) -> np.ndarray:
        """The mean over each clip's windows of the logits (clips, classes), as prediction gives them."""
        parts = []
        for start in range(0, len(ids), BLOCK_CLIPS):
            vectors = self.of(ids[start : start + BLOCK_CLIPS])
            parts.append(vectors.mean(torch_runtime.score_embeddings(model, vectors.windows())))
        return np.concatenate(parts)


@dataclass(frozen=True)
class ClipVectors:
    """The mean vector of each of some clips: an array (clips, width) float32, of which asked rows are read."""

    path: Path
    columns: np.ndarray | None
    slices: Sequence[slice]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def width(self) -> int:
        return int(np.load(self.path, mmap_mode="r").shape[1]) if self.columns is None else len(self.columns)

    def __getitem__(self, clips: np.ndarray) -> np.ndarray:
        """The vectors of some clips, by number: (clips, width)."""
        chosen = ClipVectors(self.path, self.columns, [self.slices[clip] for clip in clips.tolist()])
        return chosen.mean(chosen.windows())

    def everything(self) -> np.ndarray:
        """The vectors of all: (clips, width)."""
        return self.mean(self.windows())

    def windows(self) -> np.ndarray:
        """The rows of every window, clip after clip: (windows, width)."""
        rows = np.concatenate([np.arange(0), *(np.arange(one.start, one.stop) for one in self.slices)])
        # Opened for these rows alone: the pages of a file that stays open would count as memory in use.
        stored = np.load(self.path, mmap_mode="r")[rows]
        return np.asarray(stored if self.columns is None else np.ascontiguousarray(stored[:, self.columns]))

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """The mean over each clip's windows of rows (windows, size) that belong to these: (clips, size)."""
        counts = np.array([one.stop - one.start for one in self.slices])
        if len(rows) == len(counts):
            return rows
        starts = np.cumsum(counts) - counts
        return np.asarray(np.add.reduceat(rows, starts, 0) / counts[:, None].astype(np.float32))


class RowFile:
    """An .npy file (count, width) float32 that is written a few rows at a time; none of them stays in memory."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count, self._start = path, count, 0

    def write(self, numbers: np.ndarray, rows: np.ndarray) -> None:
        """Set the rows (numbers, width) of these numbers; the first call makes the file."""
        with self.path.open("r+b" if self._start else "wb") as file:
            if not self._start:
                header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, rows.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
                self._start = file.tell()
            for number, row in zip(numbers.tolist(), np.ascontiguousarray(rows, "<f4"), strict=True):
                file.seek(self._start + number * row.nbytes)
                file.write(row.data)


def embed_clips(
    corpus: PreparedCorpus, model: PreTrainedModel, progress: Progress | None = None, *, centers: bool = False
) -> Embeddings:
    """Embed every usable clip, or find what an earlier run of the same corpus and settings cached.

    With `centers` those of the centers of clips too, by whose scores the effect of duration is measured.
    """
    ids = [clip.id for clip in (*corpus.usable, *corpus.held_out)]
    audio, config = corpus.audio(ids), model.config
    settings = [__version__, model.embedding_identity(), *_windows(config), ids]
    key = hashlib.blake2b(json.dumps(settings).encode(), digest_size=12).hexdigest()
    # By the seconds of a center, the clips that are longer; and the file of the vectors of each.
    longer = {seconds: _longer(audio, config.sample_rate * seconds) for seconds in duration.SECONDS if centers}
    longer = {seconds: numbers for seconds, numbers in longer.items() if numbers}
    path = corpus.store.folder / f"vectors-{key}.npy"
    center_paths = {seconds: path.with_name(f"vectors-{key}-{seconds:g}s.npy") for seconds in longer}
    sizes = {seconds: round(config.sample_rate * seconds) for seconds in longer}
    if not all(file.is_file() for file in (path, *center_paths.values())):
        wanted = {sizes[seconds]: numbers for seconds, numbers in longer.items()}
        # The whole clips' file comes into being last.
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(atomic_write(path))
            others = [stack.enter_context(atomic_write(file)) for file in center_paths.values()]
            _embed(model, audio, wanted, [partial, *others], corpus.recipe.evaluate.batch_seconds, progress)
    crops = {}
    for seconds, file in center_paths.items():
        lengths = np.full(len(longer[seconds]), sizes[seconds])
        crops[seconds] = Embeddings(file, _rows(config, lengths, [ids[clip] for clip in longer[seconds]]))
    return Embeddings(path, _rows(config, audio.lengths, ids), centers=crops or None)


def _embed(
    model: Any,
    audio: AudioSource,
    sizes: Mapping[int, Sequence[int]],
    paths: Sequence[Path],
    batch_seconds: float,
    progress: Progress | None,
) -> None:
    """Write the vectors of all clips, then those of the centers of some: of so many samples, of these clips."""
    if sizes and getattr(model, "describes_centers", False):
        counts = [len(audio), *map(len, sizes.values())]
        files = [RowFile(path, count) for path, count in zip(paths, counts, strict=True)]
        for found in scoring.embed_with_centers(model, audio, sizes, batch_seconds=batch_seconds, progress=progress):
            for file, (numbers, rows) in zip(files, found, strict=True):
                file.write(numbers, rows)
        return
    sources = (audio, *(duration.crop_centers(audio, clips, samples) for samples, clips in sizes.items()))
    for path, source in zip(paths, sources, strict=True):
        file = RowFile(path, len(scoring.windows_of(model.config, source.lengths)))
        for numbers, rows in scoring.embed_windows(model, source, batch_seconds=batch_seconds, progress=progress):
            file.write(numbers, rows)


def _windows(config: Any) -> tuple[float | None, float]:
    """How recordings are cut; an ensemble member has no settings for it and takes clips whole."""
    return getattr(config, "window_seconds", None), getattr(config, "overlap", 0.0)


def _rows(config: Any, lengths: np.ndarray, ids: Sequence[str]) -> dict[str, slice]:
    """Where the windows of each clip are: one after the other, in order."""
    counts = np.bincount([window.clip for window in scoring.windows_of(config, lengths)], minlength=len(ids))
    ends = np.cumsum(counts)
    return {id: slice(end - count, end) for id, end, count in zip(ids, ends, counts, strict=True)}


def _longer(audio: AudioSource, samples: float) -> list[int]:
    """The clips whose centers are embedded: at most so many that their share of the work is bounded."""
    return duration.longer_clips(audio.lengths, round(samples), MOST_CENTERS)
