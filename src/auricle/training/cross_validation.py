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
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from auricle.corpus import splits
from auricle.corpus.splits import Fold
from auricle.evaluation import duration, open_set
from auricle.evaluation.open_set import OutOfSetScores
from auricle.evaluation.report import CurvePoint
from auricle.evaluation.scoring import Scores, confidence
from auricle.models.load import save_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.run_folder import RunFolder, atomic_write, write_json
from auricle.training.fold import FoldData, Scorer, TrainedFold, Training, TrainingSummary
from auricle.training.progress import ProgressReporter
from auricle.training.resolve import ResolvedRecipe


@dataclass(frozen=True)
class FoldResult:
    """A complete fold, read back from its folder.

    `scores` are of its test clips (None for the final model of several folds), `validation` of its validation clips,
    `center_crops` of the centers of test clips, `out_of_set` of clips of held-out classes. None is what does not apply.
    """

    name: str
    folder: RunFolder
    summary: TrainingSummary
    parameters: int
    history: list[CurvePoint]
    scores: Scores | None
    validation: Scores | None
    center_crops: Scores | None
    out_of_set: OutOfSetScores | None

    @classmethod
    def read(cls, name: str, folder: RunFolder) -> "FoldResult":
        """Read what `train_fold` wrote."""
        trained = json.loads(folder.trained.read_text(encoding="utf-8"))
        lines = folder.history.read_text(encoding="utf-8").splitlines() if folder.history.is_file() else []
        # Without the times, which differ from run to run.
        names = [column.name for column in fields(CurvePoint)]
        history = [CurvePoint(**{name: line[name] for name in names}) for line in map(json.loads, lines)]
        parameters = trained.pop("parameters")
        out_of_set = folder.out_of_set_scores
        return cls(
            name,
            folder,
            TrainingSummary(**trained),
            parameters,
            history,
            scores=_load(folder.fold_scores),
            validation=_load(folder.validation_scores),
            center_crops=_load(folder.center_crop_scores),
            out_of_set=OutOfSetScores.load(out_of_set) if out_of_set.is_file() else None,
        )


def _load(path: Path) -> Scores | None:
    return Scores.load(path) if path.is_file() else None


def prepare_training(corpus: PreparedCorpus, resolved: ResolvedRecipe, reporter: ProgressReporter) -> Training:
    """Compute what all folds share, in the way that the family is trained."""
    if resolved.training == "closed_form":
        from auricle.training.closed_form import ClosedFormTraining

        return ClosedFormTraining.prepare(corpus, resolved.options)
    # Trainer and what it imports take seconds, which a closed-form family does without.
    if resolved.training == "fine_tuning":
        from auricle.training.finetune import FineTuning

        return FineTuning.prepare(corpus, resolved.options, reporter)
    from auricle.training.gradient import GradientTraining

    return GradientTraining.prepare(corpus, resolved.options)


def train_all(
    corpus: PreparedCorpus, folder: RunFolder, training: Training, reporter: ProgressReporter
) -> list[FoldResult]:
    """Train every fold, and after several folds a final model on all clips; the last result is the run's own model."""
    folds = corpus.split.folds
    if len(folds) == 1:
        return [train_fold(FoldData(corpus, folds[0], folder, reporter), training, [])]
    results: list[FoldResult] = []
    for number, fold in enumerate(folds, start=1):
        reporter.message(f"Fold {number} of {len(folds)}: tests on '{fold.name}', {len(fold.test)} clips.")
        data = FoldData(corpus, fold, folder.fold(number, fold.name), reporter)
        results.append(train_fold(data, training))
    reporter.message("The final model: trained on all clips. The folds above measure how good it is.")
    fold = splits.all_clips(corpus.usable, corpus.recipe.data, corpus.audit.duplicate_groups)
    return [*results, train_fold(FoldData(corpus, fold, folder, reporter), training, results)]


def train_again(
    corpus: PreparedCorpus, folder: RunFolder, training: Training, reporter: ProgressReporter
) -> list[FoldResult]:
    """Train the folds once more into a repetition's folder, without a final model."""
    folds = corpus.split.folds
    if len(folds) == 1:
        return [train_fold(FoldData(corpus, folds[0], folder, reporter), training)]
    return [
        train_fold(FoldData(corpus, fold, RunFolder(folder.path / "folds" / f"{number:02d}"), reporter), training)
        for number, fold in enumerate(folds, start=1)
    ]


def train_fold(data: FoldData, training: Training, others: Sequence[FoldResult] | None = None) -> FoldResult:
    """Train, save and score one fold unless it is complete.

    The run's own model gets its rejection threshold before its folder is there; `others` are the results of the folds
    before it, None for a model that is not the run's own.
    """
    folder = data.folder
    if not folder.trained.is_file():
        folder.path.mkdir(parents=True, exist_ok=True)
        trained = training.train(data)
        trained.model.config.median_clip_seconds = _typical_seconds(data)
        with atomic_write(folder.model) as partial:
            save_model(trained.model, partial)
            _score(data, trained, training.scorer(trained, partial))
            if others is not None and _set_threshold(data, trained.model, others):
                save_model(trained.model, partial)
        parameters = sum(weight.numel() for weight in trained.model.parameters())
        write_json(folder.trained, {**asdict(trained.summary), "parameters": parameters})
        del trained
        release_memory()
    return FoldResult.read(data.fold.name, folder)


def scores_of(corpus: PreparedCorpus, ids: Sequence[str], logits: np.ndarray, fold: str) -> Scores:
    """The logits of some usable clips with what the report needs to know of these."""
    return Scores(
        labels=corpus.labels,
        ids=tuple(ids),
        truth=corpus.classes(ids),
        logits=logits,
        seconds=corpus.seconds(ids),
        groups=corpus.groups(ids),
        folds=(fold,) * len(ids),
    )


def score_test_clips(corpus: PreparedCorpus, fold: Fold, scorer: Scorer) -> Scores:
    """Score the test clips of a fold."""
    return scores_of(corpus, fold.test, scorer.clips(fold.test), fold.name)


def release_memory() -> None:
    """Return freed memory to the system: a trainer and its model are a reference cycle."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _score(data: FoldData, trained: TrainedFold, scorer: Scorer) -> None:
    """Save scores of test clips, whole and cropped, of validation clips and of clips of held-out classes."""
    corpus, fold, folder = data.corpus, data.fold, data.folder
    if fold.test:
        scores = score_test_clips(corpus, fold, scorer)
        scores.save(folder.fold_scores)
        rate = corpus.store.settings.sample_rate
        most = duration.MOST_CLIPS // len(corpus.split.folds) + 1
        crops = duration.center_crops(scores, corpus.audio(fold.test), rate, scorer.audio, most)
        crops.save(folder.center_crop_scores)
    if trained.validation_logits is not None:
        scores_of(corpus, fold.valid, trained.validation_logits, fold.name).save(folder.validation_scores)
    held_out = corpus.held_out.clips
    if held_out:
        ids = tuple(clip.id for clip in held_out)
        labels, groups = tuple(clip.label for clip in held_out), tuple(clip.group for clip in held_out)
        scores_out = OutOfSetScores(ids, labels, groups, (fold.name,) * len(ids), scorer.clips(ids))
        scores_out.save(folder.out_of_set_scores)


def _set_threshold(data: FoldData, model: PreTrainedModel, others: Sequence[FoldResult]) -> bool:
    """Set the rejection threshold in the model's config where the recipe wants one; returns whether it does."""
    max_rate = open_set.max_false_accept_rate(data.recipe)
    if max_rate is None:
        return False
    folder = data.folder
    if folder.out_of_set_scores.is_file():
        impostors = [OutOfSetScores.load(folder.out_of_set_scores).logits]
    else:
        validations = [other.validation for other in others if other.validation is not None]
        if folder.validation_scores.is_file():
            validations.append(Scores.load(folder.validation_scores))
        impostors = [part.logits[part.predicted != part.truth] for part in validations]
    confidences = [confidence(logits) for logits in impostors]
    model.config.threshold = open_set.rejection_threshold(np.concatenate(confidences or [np.zeros(0)]), max_rate)
    model.config.max_false_accept_rate = max_rate
    return True


def _typical_seconds(data: FoldData) -> float:
    """The median length of the training clips: a model's natural window in long recordings."""
    corpus = data.corpus
    lengths = corpus.audio(data.fold.train).lengths
    return round(float(np.median(lengths)) / corpus.store.settings.sample_rate, 3)
