"""Train the folds of a split, one after the other, and score what each was not trained on.

In: a PreparedCorpus. Out: for each fold a model folder, its history, its scores, and trained.json, which is written
last: a fold that has it is complete and is never trained again. Every family goes the same way.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from transformers import PreTrainedModel

from auricle.corpus import splits
from auricle.corpus.splits import Fold
from auricle.evaluation import duration, open_set, scoring
from auricle.evaluation.report import CurvePoint
from auricle.evaluation.scoring import Scores, confidence
from auricle.models import registration
from auricle.models.load import load_model, save_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.run_folder import RunFolder, atomic_write, write_json
from auricle.training.closed_form import closed_form_trainer
from auricle.training.fold import FoldData, FoldTrainer, Scorer, TrainedFold, TrainingSummary
from auricle.training.progress import ProgressReporter


@dataclass(frozen=True)
class FoldResult:
    """A complete fold, read back from its folder; None is what does not apply. `scores` are of its test clips.

    `center_crops` are of the centers of these, `out_of_set` of clips of held-out classes.
    """

    name: str
    folder: RunFolder
    summary: TrainingSummary
    parameters: int
    history: list[CurvePoint]
    scores: Scores | None
    validation: Scores | None
    center_crops: Scores | None
    out_of_set: Scores | None

    @classmethod
    def read(cls, name: str, folder: RunFolder) -> "FoldResult":
        """Read what `train_fold` wrote."""
        trained = json.loads(folder.trained.read_text(encoding="utf-8"))
        parameters = trained.pop("parameters")
        lines = folder.history.read_text(encoding="utf-8").splitlines() if folder.history.is_file() else []
        # Without the times, which differ from run to run.
        names = [column.name for column in fields(CurvePoint)]
        history = [CurvePoint(**{name: line[name] for name in names}) for line in map(json.loads, lines)]
        paths = (folder.fold_scores, folder.validation_scores, folder.center_crop_scores, folder.out_of_set_scores)
        scores = [Scores.load(path) if path.is_file() else None for path in paths]
        return cls(name, folder, TrainingSummary(**trained), parameters, history, *scores)


def prepare_training(corpus: PreparedCorpus, reporter: ProgressReporter) -> FoldTrainer:
    """Compute what all folds share, in the way that the family is trained."""
    training = registration.family(corpus.recipe.model.family).TRAINING
    if training == "closed_form":
        return closed_form_trainer(corpus, reporter)
    # Trainer and what it imports take seconds, which a closed-form family does without.
    if training == "fine_tuning":
        from auricle.training.finetune import FineTuning

        return FineTuning.prepare(corpus, reporter).train
    from auricle.training.train import gradient_trainer

    return gradient_trainer(corpus, reporter)


def train_all(
    corpus: PreparedCorpus, folder: RunFolder, train: FoldTrainer, reporter: ProgressReporter
) -> list[FoldResult]:
    """Train every fold, and after several folds a final model on all clips; the last result is the run's own model."""
    folds = corpus.split.folds
    if len(folds) == 1:
        return [train_fold(FoldData(corpus, folds[0], folder, reporter), train, [])]
    results: list[FoldResult] = []
    for number, fold in enumerate(folds, start=1):
        reporter.message(f"Fold {number} of {len(folds)}: tests on '{fold.name}', {len(fold.test)} clips.")
        data = FoldData(corpus, fold, folder.fold(number, fold.name), reporter)
        results.append(train_fold(data, train))
    reporter.message("The final model: trained on all clips. The folds above measure how good it is.")
    fold = splits.all_clips(corpus.usable, corpus.recipe.data, corpus.audit.duplicate_groups)
    return [*results, train_fold(FoldData(corpus, fold, folder, reporter), train, results)]


def train_again(
    corpus: PreparedCorpus, folder: RunFolder, train: FoldTrainer, reporter: ProgressReporter
) -> list[FoldResult]:
    """Train the folds once more into a repetition's folder, without a final model."""
    folds = corpus.split.folds
    folders = [folder]
    if len(folds) > 1:
        folders = [RunFolder(folder.path / "folds" / f"{number:02d}") for number in range(1, len(folds) + 1)]
    return [
        train_fold(FoldData(corpus, fold, inner, reporter), train) for fold, inner in zip(folds, folders, strict=True)
    ]


def cross_validate(corpus: PreparedCorpus, folds: Sequence[Fold], train: FoldTrainer, folder: RunFolder) -> Scores:
    """Out-of-fold scores, without saving the models."""
    parts = []
    for fold in folds:
        trained = train(FoldData(corpus, fold, folder, ProgressReporter()))
        logits = Scorer(trained.model, corpus, trained.embeddings).clips(fold.test)
        parts.append(scores_of(corpus, fold.test, logits, fold.name))
    return scoring.join(parts)


def train_fold(data: FoldData, train: FoldTrainer, others: Sequence[FoldResult] | None = None) -> FoldResult:
    """Train, save and score one fold unless it is complete.

    The run's own model gets a rejection threshold, for which `others` are the folds before it; else they are None.
    """
    folder = data.folder
    if not folder.trained.is_file():
        folder.path.mkdir(parents=True, exist_ok=True)
        trained = train(data)
        # A model's natural window in long recordings.
        seconds = float(np.median(data.train.audio.lengths)) / data.corpus.store.settings.sample_rate
        trained.model.config.median_clip_seconds = round(seconds, 3)
        trained.model.config.min_clip_seconds = data.recipe.audio.min_seconds
        with atomic_write(folder.model) as partial:
            save_model(trained.model, partial)
            model = trained.model
            if trained.embeddings is None:
                # As prediction will open it.
                model = load_model(partial, data.recipe.train.precision)
            _score(data, trained, Scorer(model, data.corpus, trained.embeddings))
            if others is not None and _set_threshold(data, trained.model, others):
                save_model(trained.model, partial)
        parameters = sum(weight.numel() for weight in trained.model.parameters())
        write_json(folder.trained, {**asdict(trained.summary), "parameters": parameters})
        is_fitted = trained.embeddings is not None
        del trained, model
        if not is_fitted:
            release_memory()
    return FoldResult.read(data.fold.name, folder)


def scores_of(corpus: PreparedCorpus, ids: Sequence[str], logits: np.ndarray, fold: str) -> Scores:
    """The logits of some clips, usable or of held-out classes, with what the report needs to know of these."""
    clips = [corpus.index.clips[corpus.positions[id]] for id in ids]
    return Scores.of_clips(corpus.labels, clips, corpus.seconds(ids), logits, fold)


def release_memory() -> None:
    """Return freed memory to the system: a trainer and its model are a reference cycle."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _score(data: FoldData, trained: TrainedFold, scorer: Scorer) -> None:
    corpus, fold, folder = data.corpus, data.fold, data.folder
    if fold.test:
        scores = scores_of(corpus, fold.test, scorer.clips(fold.test), fold.name)
        scores.save(folder.fold_scores)
        most = duration.MOST_CLIPS // len(corpus.split.folds) + 1
        scorer.centers(scores, most).save(folder.center_crop_scores)
    if trained.validation_logits is not None:
        scores_of(corpus, fold.valid, trained.validation_logits, fold.name).save(folder.validation_scores)
    held_out = [clip.id for clip in corpus.held_out]
    if held_out:
        scores_of(corpus, held_out, scorer.clips(held_out), fold.name).save(folder.out_of_set_scores)


def _set_threshold(data: FoldData, model: PreTrainedModel, others: Sequence[FoldResult]) -> bool:
    """Set the rejection threshold in the model's config where the recipe wants one; returns whether it does."""
    max_rate = open_set.max_false_accept_rate(data.recipe)
    if max_rate is None:
        return False
    folder = data.folder
    if folder.out_of_set_scores.is_file():
        impostors = [Scores.load(folder.out_of_set_scores)]
    else:
        validations = [other.validation for other in others if other.validation is not None]
        if folder.validation_scores.is_file():
            validations.append(Scores.load(folder.validation_scores))
        impostors = [part.select(~part.correct) for part in validations]
    confidences = [confidence(part.logits) for part in impostors]
    model.config.threshold = open_set.rejection_threshold(np.concatenate(confidences or [np.zeros(0)]), max_rate)
    model.config.max_false_accept_rate = max_rate
    return True
