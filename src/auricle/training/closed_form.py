"""Families that are fitted in closed form, from embeddings that are computed once for all folds.

In: a PreparedCorpus. Out: for each fold a fitted model. The ensemble member of a network is fitted by the same
functions.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from auricle import __version__
from auricle.evaluation import open_set, scoring
from auricle.models import torch_runtime
from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.run_folder import atomic_write
from auricle.training.fold import Embeddings, FoldData, Scorer, TrainedFold, TrainingSummary


@dataclass(frozen=True)
class ClosedFormTraining:
    """Fits a model to the embeddings of each fold's training and validation clips. Its logits need no temperature."""

    corpus: PreparedCorpus
    options: Any
    embeddings: Embeddings
    clips_per_second: float

    @classmethod
    def prepare(cls, corpus: PreparedCorpus, options: Any) -> "ClosedFormTraining":
        """Compute the embeddings that all folds share."""
        start = time.perf_counter()
        embeddings = embed_clips(corpus, build_model(corpus.recipe, corpus.labels, options))
        return cls(corpus, options, embeddings, len(embeddings.rows) / (time.perf_counter() - start))

    def train(self, data: FoldData) -> TrainedFold:
        start = time.perf_counter()
        fold = data.fold
        model = build_model(data.recipe, self.corpus.labels, self.options)
        validation_logits = None
        if fold.valid and open_set.max_false_accept_rate(data.recipe) is not None:
            # The threshold is set by mistakes on clips that the model was not fitted to; the final fit includes them.
            fit(model.fit, self.embeddings, data.corpus, fold.train)
            validation_logits = torch_runtime.score_embeddings(model, self.embeddings.of(fold.valid))
        fit(model.fit, self.embeddings, data.corpus, (*fold.train, *fold.valid))
        seconds = time.perf_counter() - start
        summary = TrainingSummary(1, 1, 1, len(fold.train), 1, seconds, self.clips_per_second)
        return TrainedFold(model, summary, validation_logits)

    def scorer(self, trained: TrainedFold, model_folder: Path) -> Scorer:
        return Scorer(trained.model, self.corpus, self.embeddings)


def fit(solve: Callable[..., None], embeddings: Embeddings, corpus: PreparedCorpus, ids: Sequence[str]) -> None:
    """Fit a closed-form classifier to the embeddings, classes and groups of some clips."""
    grouped = all(clip.group is not None for clip in corpus.usable)
    solve(
        embeddings.of(ids),
        corpus.classes(ids),
        groups=np.array(corpus.groups(ids)) if grouped else None,
        class_weighted=corpus.recipe.train.class_balance != "none",
        seed=corpus.recipe.train.seed,
    )


def embed_clips(corpus: PreparedCorpus, model: PreTrainedModel) -> Embeddings:
    """Embed every usable clip, or read what an earlier run of the same corpus and settings cached with the store."""
    ids = [clip.id for clip in (*corpus.usable, *corpus.held_out)]
    settings = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    key = hashlib.blake2b(json.dumps([__version__, settings, ids], sort_keys=True).encode(), digest_size=12).hexdigest()
    path = corpus.store.folder / f"vectors-{key}.npy"
    if not path.is_file():
        values = scoring.embed(model, corpus.audio(ids), batch_seconds=corpus.recipe.evaluate.batch_seconds)
        with atomic_write(path) as partial:
            np.save(partial, values)
    return Embeddings(np.load(path), {id: row for row, id in enumerate(ids)})
