"""Evaluate a finished run again: on its own test clips, or on other labelled recordings.

In: a run folder and, for other recordings, DATA read by any reader. Out: an Evaluation. The run's own test clips are
scored by the models that were not trained on them; other recordings by the kept model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from auricle import recipes
from auricle.audio.settings import Settings, describe_content
from auricle.audio.store import prepare as prepare_store
from auricle.corpus.clip import Index
from auricle.corpus.splits import load as load_split
from auricle.errors import DataError, RunError
from auricle.evaluation import calibration, duration, error_analysis, metrics, open_set, scoring
from auricle.evaluation.calibration import CoveragePoint
from auricle.evaluation.duration import DurationAccuracy
from auricle.evaluation.error_analysis import Slice
from auricle.evaluation.intervals import Interval, Resampling, bootstrap, metric_intervals
from auricle.evaluation.metrics import ClassMetrics
from auricle.evaluation.open_set import RejectionReport
from auricle.evaluation.report import IntervalBasis
from auricle.evaluation.scoring import Scores
from auricle.models.load import load_model
from auricle.models.runtime import ModelInfo
from auricle.parallel import Progress
from auricle.preparation.prepare import read
from auricle.preparation.windows import AudioSource, from_store
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder, model_folder


@dataclass(frozen=True)
class Evaluation:
    """How a model does on labelled clips: a Report's fields without a baseline, which other recordings do not have."""

    description: str
    test_clips: int
    unusable: int
    interval: IntervalBasis
    metrics: dict[str, Interval]
    cautions: tuple[str, ...]
    labels: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    risk_coverage: tuple[CoveragePoint, ...]
    rejection: RejectionReport | None
    accuracy_by_duration: tuple[DurationAccuracy, ...]
    accuracy_by_clip_duration: tuple[Slice, ...]

    def as_json(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        content: dict[str, Any] = pydantic.TypeAdapter(Evaluation).dump_python(self, mode="json")
        return content


@dataclass(frozen=True)
class _Scored:
    """Scores of clips in full, of their center crops and, where there are any, of clips of held-out classes."""

    model: ModelInfo
    full: Scores
    center_crops: Scores
    out_of_set: Scores | None = None


def evaluate(run: Path, data: str | None, progress: Progress) -> Evaluation:
    """Score clips and measure. Raises RunError for a folder that is not a run, DataError for unknown labels."""
    folder = RunFolder(run)
    model = model_folder(run)
    if not folder.recipe.is_file():
        raise RunError(
            f"'{run}' is not a run folder: it has no recipe.yaml. Name the folder that `auricle train` wrote."
        )
    recipe = recipes.load(folder.recipe)
    settings, unusable, rejection = recipe.evaluate, 0, None
    if data is None:
        index = Index.load(folder.index)
        scored = _score_own_test_clips(folder, recipe, index, progress)
    else:
        index = read(data, recipe.replace("data", reader="auto", reader_options={}, fold=None, corrections=None))
        scored = _score(model, index, tuple(clip.id for clip in index), recipe, progress, "all")
        unusable = len(index) - len(scored.full) - len(scored.out_of_set or ())
    scores = scored.full
    resampling = Resampling(settings.bootstrap_resamples, recipe.train.seed, index.group_name)
    limit, max_rate = scored.model.threshold, scored.model.max_false_accept_rate
    if scored.out_of_set is not None and limit is not None and max_rate is not None:
        rejection = open_set.by_fixed_threshold(scores, scored.out_of_set, limit, max_rate, resampling)
    resampled = bootstrap(scores.groups, resampling)
    basis = IntervalBasis.of(resampled)
    outcomes = metrics.evaluate_logits(scores.truth, scores.logits, settings.top_k)
    intervals = metric_intervals(outcomes, resampled)
    return Evaluation(
        description=index.description,
        test_clips=len(scores),
        unusable=unusable,
        interval=basis,
        metrics=intervals,
        cautions=tuple(basis.caution("accuracy", intervals["accuracy"])),
        labels=scores.labels,
        per_class=metrics.per_class(scores),
        confusion_matrix=tuple(tuple(map(int, row)) for row in metrics.confusion_matrix(scores)),
        risk_coverage=calibration.risk_coverage(scores),
        rejection=rejection,
        accuracy_by_duration=duration.accuracy_by_duration(scored.center_crops, scores, settings.min_slice_clips),
        accuracy_by_clip_duration=error_analysis.by_clip_duration(scores),
    )


def _score_own_test_clips(run: RunFolder, recipe: Recipe, index: Index, progress: Progress) -> _Scored:
    split = load_split(run.split, index)
    several = len(split.folds) > 1
    folders = [
        run.fold(number, fold.name).path if several else run.path for number, fold in enumerate(split.folds, start=1)
    ]
    finished = sum(RunFolder(folder).trained.is_file() for folder in folders)
    if finished < len(folders):
        raise RunError(
            f"'{run.path}' has {finished} of {len(folders)} folds. Resume its training: auricle train DATA --out "
            f"{run.path} --resume."
        )
    parts = [
        _score(model_folder(folder), index, fold.test, recipe, progress, fold.name)
        for fold, folder in zip(split.folds, folders, strict=True)
    ]
    full, crops = [part.full for part in parts], [part.center_crops for part in parts]
    return _Scored(parts[0].model, scoring.join(full), scoring.join(crops))


def _score(folder: Path, index: Index, ids: tuple[str, ...], recipe: Recipe, progress: Progress, fold: str) -> _Scored:
    model = load_model(folder, recipe.train.precision)
    info = ModelInfo.of_model(model)
    _check(index, info, recipe)
    audio = recipe.audio
    settings = Settings(info.sample_rate, info.channels, audio.min_seconds, audio.max_seconds, info.num_features)
    store = prepare_store(index.clips, settings, progress=progress)
    positions = {clip.id: position for position, clip in enumerate(index)}
    usable = [position for id in ids if store.clip_info[position := positions[id]].usable]
    known = [position for position in usable if index.clips[position].label in info.labels]
    unknown = [position for position in usable if index.clips[position].label not in info.labels]
    if not known:
        raise DataError(f"None of the {len(ids)} clips is usable. `auricle inspect` lists the reasons.")

    def score(source: AudioSource) -> np.ndarray:
        return scoring.score(model, source, batch_seconds=recipe.evaluate.batch_seconds)

    def scores_of(chosen: list[int]) -> Scores:
        seconds = np.array([store.clip_info[position].seconds for position in chosen])
        clips = [index.clips[position] for position in chosen]
        return Scores.of_clips(info.labels, clips, seconds, score(from_store(store, chosen)), fold)

    full = scores_of(known)
    crops = duration.center_crops(full, from_store(store, known), settings.sample_rate, score)
    return _Scored(info, full, crops, scores_of(unknown) if unknown else None)


def _check(index: Index, model: ModelInfo, recipe: Recipe) -> None:
    unknown = sorted(set(index.labels) - set(model.labels) - set(recipe.data.held_out_classes))
    if unknown:
        listed = ", ".join(f"'{label}'" for label in unknown[:5])
        raise DataError(f"The model was not trained on {listed}. Its classes: {', '.join(model.labels)}.")
    if model.num_features != index.num_features:
        raise DataError(
            f"'{index.origin}' holds {describe_content(index.num_features)}, and the model takes "
            f"{describe_content(model.num_features)}."
        )
