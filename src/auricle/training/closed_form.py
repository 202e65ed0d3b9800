"""Families that are fitted in closed form, from embeddings that are computed once for all folds.

In: a PreparedCorpus. Out: for each fold a fitted model. The ensemble member of a network is fitted by the same
functions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from transformers import PreTrainedModel

from auricle.evaluation import open_set
from auricle.models import registration
from auricle.models.features.ridge import FactoredRidge
from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.training.embeddings import Embeddings, embed_clips
from auricle.training.fold import FoldData, FoldTrainer, TrainedFold, TrainingSummary
from auricle.training.progress import ProgressReporter

Result = TypeVar("Result")
# From so many clips and folds on, fits take minutes one by one.
SHARED_CLIPS, SHARED_FOLDS = 2000, 10


def closed_form_trainer(
    corpus: PreparedCorpus, reporter: ProgressReporter | None = None, *, has_vectors: bool = True
) -> FoldTrainer:
    """Compute the embeddings that all folds share, and what else they can share.

    Without `has_vectors` the models give logits alone, and take less time.
    """
    reporter = reporter or ProgressReporter()
    embeddings = embed_once(corpus, reporter)
    shared = SharedFit.of(corpus, embeddings, reporter)
    return lambda data: fit_fold(data, embeddings, shared, has_vectors=has_vectors)


@dataclass(frozen=True)
class SharedFit:
    """One factorisation of all usable clips, from which the fit to the training clips of every fold follows.

    The mean and the scale of each feature, and the weights of the classes, are then those of all clips: the labels of
    test clips are used for these weights only. So it is for many folds, each of which leaves out a small part.
    """

    factored: FactoredRidge
    rows: Mapping[str, int]

    @classmethod
    def of(cls, corpus: PreparedCorpus, embeddings: Embeddings, reporter: ProgressReporter) -> "SharedFit | None":
        """Factor a corpus of so many clips and folds that fitting each alone takes minutes; None for any other."""
        note = shared_note(corpus)
        if not note:
            return None
        reporter.message(note)
        model, ids = build_model(corpus.recipe, corpus.labels), [clip.id for clip in corpus.usable]
        weighted = corpus.recipe.train.class_balance != "none"
        factored = model.factor(embeddings.of(ids).everything(), corpus.classes(ids), class_weighted=weighted)
        return cls(factored, {id: row for row, id in enumerate(ids)})

    def fit(self, model: PreTrainedModel, corpus: PreparedCorpus, ids: Sequence[str]) -> None:
        """Give a model the fit to some clips."""
        rows = np.array([self.rows[id] for id in ids])
        model.take(self.factored.fit(rows, _groups(corpus, ids), corpus.recipe.train.seed))


def embed_once(corpus: PreparedCorpus, reporter: ProgressReporter) -> Embeddings:
    """Embed the clips of all folds with the recipe's model, and report its notes and the progress."""
    model = build_model(corpus.recipe, corpus.labels)
    for note in getattr(model, "notes", ()):
        reporter.message(note)
    return embed_clips(corpus, model, reporter.progress, centers=True)


def shared_note(corpus: PreparedCorpus) -> str:
    """What a SharedFit changes, for a corpus and a recipe that get one; "" where every fold is fitted alone."""
    recipe, folds = corpus.recipe, len(corpus.split.folds)
    if recipe.model.family != "baseline" or folds < SHARED_FOLDS or len(corpus.usable) < SHARED_CLIPS:
        return ""
    if len(corpus.usable) > int(getattr(registration.parse_options(recipe), "max_support", 0)):
        return ""
    return (
        f"The {folds} folds share one factorisation, which takes seconds instead of minutes: features are standardised "
        "and classes weighed over all clips, a fold's test clips too, whose labels train nothing else."
    )


def fit_fold(
    data: FoldData, embeddings: Embeddings, shared: SharedFit | None = None, *, has_vectors: bool = True
) -> TrainedFold:
    """Fit a model to a fold's training and validation clips. Its logits need no temperature."""
    start = time.perf_counter()
    fold = data.fold
    model = build_model(data.recipe, data.corpus.labels)
    model.ridge.has_vectors = has_vectors
    validation_logits = None

    def solve(ids: Sequence[str]) -> None:
        if shared is None:
            fit(model.fit, embeddings, data.corpus, ids)
        else:
            shared.fit(model, data.corpus, ids)

    if fold.valid and open_set.max_false_accept_rate(data.recipe) is not None:
        # The threshold is set by mistakes on clips that the model was not fitted to; the final fit includes them.
        solve(fold.train)
        validation_logits = embeddings.used_by(model).logits(model, fold.valid)
    solve((*fold.train, *fold.valid))
    seconds = time.perf_counter() - start
    summary = TrainingSummary(1, 1, 1, len(fold.train), 1, seconds, len(fold.train) / seconds)
    return TrainedFold(model, summary, validation_logits, embeddings.used_by(model))


def fit(solve: Callable[..., Result], embeddings: Embeddings, corpus: PreparedCorpus, ids: Sequence[str]) -> Result:
    """Fit a closed-form classifier to the embeddings, classes and groups of some clips; returns what `solve` does."""
    return solve(
        embeddings.of(ids),
        corpus.classes(ids),
        groups=_groups(corpus, ids),
        class_weighted=corpus.recipe.train.class_balance != "none",
        seed=corpus.recipe.train.seed,
    )


def _groups(corpus: PreparedCorpus, ids: Sequence[str]) -> np.ndarray | None:
    grouped = all(clip.group is not None for clip in corpus.usable)
    return np.array(corpus.groups(ids)) if grouped else None
