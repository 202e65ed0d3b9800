"""What goes into training one fold, whatever the family, and what comes out.

In: a FoldData. Out: a TrainedFold. Each way of training (closed_form, train, finetune) is a FoldTrainer that is built
once for all folds and holds what they share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from transformers import PreTrainedModel

from auricle.corpus.splits import Fold
from auricle.evaluation import calibration, duration, metrics, scoring
from auricle.evaluation.scoring import Scores
from auricle.preparation.prepare import LabelledClips, PreparedCorpus
from auricle.preparation.windows import AudioSource
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
from auricle.training.embeddings import Embeddings
from auricle.training.progress import Epoch, ProgressReporter


@dataclass(frozen=True)
class FoldData:
    """One fold to train on. Checkpoints and history go into its folder."""

    corpus: PreparedCorpus
    fold: Fold
    folder: RunFolder
    reporter: ProgressReporter

    @property
    def recipe(self) -> Recipe:
        return self.corpus.recipe

    @property
    def train(self) -> LabelledClips:
        return self.corpus.labelled(self.fold.train)

    @property
    def validation(self) -> LabelledClips:
        return self.corpus.labelled(self.fold.valid)

    def report_epoch(self, epoch: Epoch) -> None:
        self.reporter.epoch(self.fold.name, epoch)


@dataclass(frozen=True)
class TrainingSummary:
    """What training did, as trained.json has it. `chosen_epoch`, counted from 1, is the one whose weights are used; 0
    where none was better than the probe that training began from.

    `seconds` is this session's; logits of the finished model are divided by `temperature`.
    """

    epochs: int
    chosen_epoch: int
    steps: int
    batch_size: int
    gradient_accumulation_steps: int
    seconds: float = field(compare=False)
    clips_per_second: float = field(compare=False)
    temperature: float = 1.0


@dataclass(frozen=True)
class Validation:
    """The classes (clips,) of the validation clips, and their `logits` (clips, classes) by the model as it is now."""

    labels: np.ndarray
    top_k: int
    logits: Callable[[], np.ndarray]

    def metrics(self) -> dict[str, float]:
        """Every metric, by name."""
        return metrics.compute_metrics(metrics.evaluate_logits(self.labels, self.logits(), self.top_k))


@dataclass(frozen=True)
class TrainedFold:
    """A finished model. `validation_logits` are None where the model was fitted to the validation clips too.

    `embeddings` are those of every usable clip, from which a closed-form model is scored.
    """

    model: PreTrainedModel
    summary: TrainingSummary
    validation_logits: np.ndarray | None
    embeddings: Embeddings | None = None


@dataclass(frozen=True)
class Scorer:
    """Logits (clips, classes) of a finished model, from embeddings where they are there already."""

    model: PreTrainedModel
    corpus: PreparedCorpus
    embeddings: Embeddings | None = None

    def clips(self, ids: Sequence[str]) -> np.ndarray:
        """Score usable clips of the corpus by id."""
        if self.embeddings is not None:
            return self.embeddings.logits(self.model, ids)
        return self.audio(self.corpus.audio(ids))

    def centers(self, full: Scores, most: int) -> Scores:
        """Score the centers of the clips of `full`: those that were embedded, or else `most` of each duration."""
        known = None if self.embeddings is None else self.embeddings.centers
        if self.embeddings is None or known is None:
            rate = self.corpus.store.settings.sample_rate
            return duration.center_crops(full, self.corpus.audio(full.ids), rate, self.audio, most)
        parts = {}
        for seconds, center in known.items():
            rows = [row for row, id in enumerate(full.ids) if id in center.rows]
            if rows:
                parts[seconds] = rows, center.logits(self.model, [full.ids[row] for row in rows])
        return duration.scores_of_centers(full, parts)

    def audio(self, audio: AudioSource) -> np.ndarray:
        """Score any other audio."""
        return scoring.score(self.model, audio, batch_seconds=self.corpus.recipe.evaluate.batch_seconds)


# One way of training, built once for all folds.
FoldTrainer = Callable[[FoldData], TrainedFold]


def calibrate(
    data: FoldData, model: PreTrainedModel, summary: TrainingSummary, validation: Validation | None
) -> TrainedFold:
    """Fit the temperature to the validation clips' logits, where there are any, and apply it to model and logits."""
    if validation is None:
        return TrainedFold(model, summary, None)
    logits, ids = validation.logits(), data.fold.valid
    temperature = calibration.fit_temperature(logits, data.corpus.classes(ids), data.corpus.groups(ids))
    model.apply_temperature(temperature)
    return TrainedFold(model, replace(summary, temperature=temperature), (logits / temperature).astype(np.float32))
