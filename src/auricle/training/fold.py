"""What goes into training one fold, whatever the family, and what comes out.

In: a FoldData. Out: a TrainedFold. Each way of training (closed_form, gradient, finetune) is a class that is built once
for all folds and holds what they share; its `train` takes the one and gives the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from transformers import PreTrainedModel

from auricle.corpus.splits import Fold
from auricle.evaluation import calibration, scoring
from auricle.models import torch_runtime
from auricle.preparation.prepare import LabelledClips, PreparedCorpus
from auricle.preparation.windows import AudioSource
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
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
    """What training did, as trained.json has it. `chosen_epoch`, counted from 1, is the one whose weights are used.

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
class TrainedFold:
    """A finished model. `validation_logits` are None where the model was fitted to the validation clips too."""

    model: PreTrainedModel
    summary: TrainingSummary
    validation_logits: np.ndarray | None


@dataclass(frozen=True)
class Embeddings:
    """What no training changes, of every usable clip: values (clips, width) and each clip's row, by id."""

    values: np.ndarray
    rows: dict[str, int]

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """The embeddings of some clips, in their order."""
        return np.asarray(self.values[[self.rows[id] for id in ids]])


@dataclass(frozen=True)
class Scorer:
    """Logits (clips, classes) of a finished model, from embeddings where they are there already."""

    model: PreTrainedModel
    corpus: PreparedCorpus
    embeddings: Embeddings | None = None

    def clips(self, ids: Sequence[str]) -> np.ndarray:
        """Score usable clips of the corpus by id."""
        if self.embeddings is not None:
            return torch_runtime.score_embeddings(self.model, self.embeddings.of(ids))
        return self.audio(self.corpus.audio(ids))

    def audio(self, audio: AudioSource) -> np.ndarray:
        """Score any other audio."""
        return scoring.score(self.model, audio, batch_seconds=self.corpus.recipe.evaluate.batch_seconds)


class Training(Protocol):
    """One way of training, built once for all folds."""

    def train(self, data: FoldData) -> TrainedFold:
        """Train one fold."""

    def scorer(self, trained: TrainedFold, model_folder: Path) -> Scorer:
        """How the finished model is scored, once it is saved in `model_folder`."""


def fit_temperature(data: FoldData, model: PreTrainedModel, logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit the temperature to the validation clips' logits and apply it; returns it and the calibrated logits."""
    ids = data.fold.valid
    temperature = calibration.fit_temperature(logits, data.corpus.classes(ids), data.corpus.groups(ids))
    model.apply_temperature(temperature)
    return temperature, (logits / temperature).astype(np.float32)
