"""Families that are fitted in closed form, from embeddings that are computed once for all folds.

In: a PreparedCorpus. Out: for each fold a fitted model. The ensemble member of a network is fitted by the same
functions.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from transformers import PreTrainedModel

from auricle import __version__
from auricle.evaluation import open_set, scoring
from auricle.models import torch_runtime
from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.run_folder import atomic_write
from auricle.training.fold import FoldData, FoldTrainer, TrainedFold, TrainingSummary


def closed_form_trainer(corpus: PreparedCorpus) -> FoldTrainer:
    """Compute the embeddings that all folds share; each fold fits a model to those of its training and validation
    clips. Its logits need no temperature.
    """
    embeddings = embed_clips(corpus, build_model(corpus.recipe, corpus.labels))

    def train(data: FoldData) -> TrainedFold:
        start = time.perf_counter()
        fold = data.fold
        model = build_model(data.recipe, data.corpus.labels)
        validation_logits = None
        if fold.valid and open_set.max_false_accept_rate(data.recipe) is not None:
            # The threshold is set by mistakes on clips that the model was not fitted to; the final fit includes them.
            fit(model.fit, embeddings, data.corpus, fold.train)
            validation_logits = torch_runtime.score_embeddings(model, np.stack([embeddings[id] for id in fold.valid]))
        fit(model.fit, embeddings, data.corpus, (*fold.train, *fold.valid))
        seconds = time.perf_counter() - start
        summary = TrainingSummary(1, 1, 1, len(fold.train), 1, seconds, len(fold.train) / seconds)
        return TrainedFold(model, summary, validation_logits, embeddings)

    return train


def fit(
    solve: Callable[..., None], embeddings: Mapping[str, np.ndarray], corpus: PreparedCorpus, ids: Sequence[str]
) -> None:
    """Fit a closed-form classifier to the embeddings, classes and groups of some clips."""
    grouped = all(clip.group is not None for clip in corpus.usable)
    solve(
        np.stack([embeddings[id] for id in ids]),
        corpus.classes(ids),
        groups=np.array(corpus.groups(ids)) if grouped else None,
        class_weighted=corpus.recipe.train.class_balance != "none",
        seed=corpus.recipe.train.seed,
    )


def embed_clips(corpus: PreparedCorpus, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Embed every usable clip, or read what an earlier run of the same corpus and settings cached; by id."""
    ids = [clip.id for clip in (*corpus.usable, *corpus.held_out)]
    settings = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    key = hashlib.blake2b(json.dumps([__version__, settings, ids], sort_keys=True).encode(), digest_size=12).hexdigest()
    path = corpus.store.folder / f"vectors-{key}.npy"
    if not path.is_file():
        values = scoring.embed(model, corpus.audio(ids), batch_seconds=corpus.recipe.evaluate.batch_seconds)
        with atomic_write(path) as partial:
            np.save(partial, values)
    return dict(zip(ids, np.load(path), strict=True))
