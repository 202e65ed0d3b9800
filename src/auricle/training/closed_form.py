"""Families that are fitted in closed form, from embeddings that are computed once for all folds.

In: a PreparedCorpus. Out: for each fold a fitted model. The ensemble member of a network is fitted by the same
functions.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedModel

from auricle import __version__
from auricle.evaluation import duration, open_set, scoring
from auricle.models.load import build_model
from auricle.parallel import Progress
from auricle.preparation.prepare import PreparedCorpus
from auricle.preparation.windows import AudioSource
from auricle.run_folder import atomic_write
from auricle.training.fold import Embeddings, FoldData, FoldTrainer, TrainedFold, TrainingSummary
from auricle.training.progress import ProgressReporter

Result = TypeVar("Result")
# Clips of which centers are embedded, for each duration: of a test split of a fifth, as many as of other families.
MOST_CENTERS = 5 * duration.MOST_CLIPS


def closed_form_trainer(corpus: PreparedCorpus, reporter: ProgressReporter | None = None) -> FoldTrainer:
    """Compute the embeddings that all folds share."""
    embeddings = embed_once(corpus, reporter or ProgressReporter())
    return lambda data: fit_fold(data, embeddings)


def embed_once(corpus: PreparedCorpus, reporter: ProgressReporter) -> Embeddings:
    """Embed the clips of all folds with the recipe's model, and report its notes and the progress."""
    model = build_model(corpus.recipe, corpus.labels)
    for note in getattr(model, "notes", ()):
        reporter.message(note)
    return embed_clips(corpus, model, reporter.progress, centers=True)


def fit_fold(data: FoldData, embeddings: Embeddings) -> TrainedFold:
    """Fit a model to a fold's training and validation clips. Its logits need no temperature."""
    start = time.perf_counter()
    fold = data.fold
    model = build_model(data.recipe, data.corpus.labels)
    validation_logits = None
    if fold.valid and open_set.max_false_accept_rate(data.recipe) is not None:
        # The threshold is set by mistakes on clips that the model was not fitted to; the final fit includes them.
        fit(model.fit, embeddings, data.corpus, fold.train)
        validation_logits = replace(embeddings, values=model.used(embeddings.values)).logits(model, fold.valid)
    fit(model.fit, embeddings, data.corpus, (*fold.train, *fold.valid))
    seconds = time.perf_counter() - start
    summary = TrainingSummary(1, 1, 1, len(fold.train), 1, seconds, len(fold.train) / seconds)
    fitted = replace(embeddings, values=model.used(embeddings.values))
    return TrainedFold(model, summary, validation_logits, fitted)


def fit(solve: Callable[..., Result], embeddings: Embeddings, corpus: PreparedCorpus, ids: Sequence[str]) -> Result:
    """Fit a closed-form classifier to the embeddings, classes and groups of some clips; returns what `solve` does."""
    grouped = all(clip.group is not None for clip in corpus.usable)
    return solve(
        embeddings.means(ids),
        corpus.classes(ids),
        groups=np.array(corpus.groups(ids)) if grouped else None,
        class_weighted=corpus.recipe.train.class_balance != "none",
        seed=corpus.recipe.train.seed,
    )


def _windows(config: Any) -> tuple[float | None, float]:
    """How recordings are cut; an ensemble member has no settings for it and takes clips whole."""
    return getattr(config, "window_seconds", None), getattr(config, "overlap", 0.0)


def embed_clips(
    corpus: PreparedCorpus, model: PreTrainedModel, progress: Progress | None = None, *, centers: bool = False
) -> Embeddings:
    """Embed every usable clip, or read what an earlier run of the same corpus and settings cached.

    With `centers` and a model that can, the centers of clips too, by whose scores the effect of duration is measured.
    """
    ids = [clip.id for clip in (*corpus.usable, *corpus.held_out)]
    audio, config = corpus.audio(ids), model.config
    settings = [__version__, model.embedding_identity(), *_windows(config), ids]
    key = hashlib.blake2b(json.dumps(settings).encode(), digest_size=12).hexdigest()
    # By the seconds of a center, the clips that are longer; and the file of the vectors of each.
    longer = {seconds: _longer(audio, config.sample_rate * seconds) for seconds in duration.SECONDS}
    longer = {seconds: numbers for seconds, numbers in longer.items() if numbers}
    longer = longer if centers and getattr(model, "describes_centers", False) else {}
    path = corpus.store.folder / f"vectors-{key}.npy"
    center_paths = {seconds: path.with_name(f"vectors-{key}-{seconds:g}s.npy") for seconds in longer}
    if not all(file.is_file() for file in (path, *center_paths.values())):
        batch_seconds = corpus.recipe.evaluate.batch_seconds
        if longer:
            sizes = {round(config.sample_rate * seconds): numbers for seconds, numbers in longer.items()}
            found = scoring.embed_with_centers(model, audio, sizes, batch_seconds=batch_seconds, progress=progress)
        else:
            found = [scoring.embed_windows(model, audio, batch_seconds=batch_seconds, progress=progress)]
        for file, values in zip((*center_paths.values(), path), (*found[1:], found[0]), strict=True):
            with atomic_write(file) as partial:
                np.save(partial, values)
    counts = np.bincount([window.clip for window in scoring.windows_of(config, audio.lengths)], minlength=len(ids))
    ends = np.cumsum(counts)
    rows = {id: slice(end - count, end) for id, end, count in zip(ids, ends, counts, strict=True)}
    crops = {
        seconds: Embeddings(
            np.load(file), {ids[clip]: slice(row, row + 1) for row, clip in enumerate(longer[seconds])}
        )
        for seconds, file in center_paths.items()
    }
    return Embeddings(np.load(path), rows, crops or None)


def _longer(audio: AudioSource, samples: float) -> list[int]:
    """The clips whose centers are embedded: at most so many that their share of the work is bounded."""
    return duration.longer_clips(audio.lengths, round(samples), MOST_CENTERS)
