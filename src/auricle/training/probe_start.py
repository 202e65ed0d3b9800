"""The probe that fine-tuning begins from: one fit per fold, from embeddings that are computed once for all folds.

In: a PreparedCorpus whose recipe fine-tunes a checkpoint. Out: for each fold a fitted model of the family `probe`, and
the network to fine-tune: the encoder up to the layers that the probe chose, with the linear ridge classifier as head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from auricle.models.families.pretrained import Options
from auricle.models.families.pretrained.network import Model
from auricle.models.features.ridge import fit_ridge
from auricle.models.load import build_model, to_device
from auricle.preparation.prepare import PreparedCorpus
from auricle.recipe import Model as ModelSection
from auricle.training.closed_form import embed_once, fit, fit_fold
from auricle.training.embeddings import Embeddings
from auricle.training.fold import FoldData, TrainedFold, TrainingSummary
from auricle.training.progress import ProgressReporter


@dataclass(frozen=True)
class ProbeStart:
    """`corpus` has a recipe of the family probe; `embeddings` are the statistics of all layers for all usable clips."""

    corpus: PreparedCorpus
    embeddings: Embeddings

    @classmethod
    def prepare(cls, corpus: PreparedCorpus, options: Options, reporter: ProgressReporter) -> "ProbeStart":
        """Run the encoder over the clips, or read what an earlier run cached."""
        names = ("checkpoint", "revision", "allow_pickle", "preprocessor")
        section = ModelSection(family="probe", **{name: getattr(options, name) for name in names})
        corpus = replace(corpus, recipe=corpus.recipe.model_copy(update={"model": section}))
        reporter.message(f"The frozen encoder runs once over {len(corpus.usable)} clips, for the probe.")
        return cls(corpus, embed_once(corpus, reporter))

    def fit(self, ids: Sequence[str]) -> Any:
        """A probe that is fitted to some clips."""
        probe = build_model(self.corpus.recipe, self.corpus.labels)
        fit(probe.fit, self.embeddings, self.corpus, ids)
        return probe

    def logits(self, probe: Any, ids: Sequence[str]) -> np.ndarray:
        """The logits (clips, classes) of a fitted probe."""
        return self.embeddings.used_by(probe).logits(probe, ids)

    def network(self, model: Model, probe: Any, ids: Sequence[str]) -> Model:
        """The network to fine-tune: the encoder of `model`, and a head that is fitted to the probe's layers."""
        statistics = replace(self.embeddings, columns=probe.used_columns(layers_only=True))
        solve = partial(
            fit_ridge,
            sizes=[statistics.of(ids).width],
            classes=len(self.corpus.labels),
            max_support=probe.config.max_support,
        )
        head = fit(solve, statistics, self.corpus, ids).linear_classifier()
        parts = (head.mean, head.scale, head.weights.T, head.bias)
        tensors = (torch.as_tensor(part, dtype=torch.float32) for part in parts)
        return to_device(model.over_layers(probe.config.layers, *tensors))

    def trained_fold(self, data: FoldData, tuning: TrainingSummary | None) -> TrainedFold:
        """A fold's probe, fitted to training and validation clips. `tuning` summarizes the fine-tuning that lost."""
        trained = fit_fold(replace(data, corpus=self.corpus), self.embeddings)
        return trained if tuning is None else replace(trained, summary=tuning)
