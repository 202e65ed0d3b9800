"""Networks that are trained from scratch, all weights by gradient; their ensemble member is fitted last.

In: a PreparedCorpus. Out: for each fold the model of the chosen epoch, calibrated on the validation clips.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus
from auricle.training import tracking
from auricle.training.closed_form import embed_clips, fit
from auricle.training.fold import Embeddings, FoldData, Scorer, TrainedFold, fit_temperature
from auricle.training.task import waveform_task
from auricle.training.train import fit_normalization, train


@dataclass(frozen=True)
class GradientTraining:
    """Trains a fresh network on each fold. `embeddings` are those of the ensemble member, where there is one."""

    corpus: PreparedCorpus
    options: Any
    embeddings: Embeddings | None

    @classmethod
    def prepare(cls, corpus: PreparedCorpus, options: Any) -> "GradientTraining":
        """Compute the embeddings of the ensemble member, which all folds share."""
        member = build_model(corpus.recipe, corpus.labels, options).ensemble_member
        return cls(corpus, options, embed_clips(corpus, member) if member is not None else None)

    def train(self, data: FoldData) -> TrainedFold:
        recipe, fold = data.recipe, data.fold
        model = build_model(recipe, self.corpus.labels, self.options)
        with tracking.tracked(recipe, data.folder.path):
            clips = data.train
            fit_normalization(model, clips, recipe.evaluate.batch_seconds)
            task = waveform_task(model, recipe, clips, data.validation)
            summary = train(model, recipe, task, data.folder, data.report_epoch)
        validation_logits = None
        if task.validation is not None:
            if self.embeddings is not None:
                # The temperature needs a member that was not fitted to the validation clips; the final one is.
                fit(model.fit_ensemble_member, self.embeddings, data.corpus, fold.train)
            temperature, validation_logits = fit_temperature(data, model, task.validation.logits())
            summary = replace(summary, temperature=temperature)
        if self.embeddings is not None:
            fit(model.fit_ensemble_member, self.embeddings, data.corpus, (*fold.train, *fold.valid))
        return TrainedFold(model, summary, validation_logits)

    def scorer(self, trained: TrainedFold, model_folder: Path) -> Scorer:
        return Scorer(trained.model, self.corpus)
