"""Evaluate a finished run again: on its own test clips, or on other labelled recordings.

In: a run folder and, for other recordings, DATA read by any reader. Out: an Evaluation. The run's own test clips are
scored by the models that were not trained on them; other recordings by the kept model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auricle import recipes
from auricle.audio.settings import Settings
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
from auricle.evaluation.open_set import OutOfSetScores, RejectionReport
from auricle.evaluation.report import IntervalBasis, plain
from auricle.evaluation.scoring import Scores
from auricle.models.load import load_model
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
    labels: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    risk_coverage: tuple[CoveragePoint, ...]
    rejection: RejectionReport | None
    accuracy_by_duration: tuple[DurationAccuracy, ...]
    accuracy_by_clip_duration: tuple[Slice, ...]

    def as_json(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        content: dict[str, Any] = plain(self)
        return content


@dataclass(frozen=True)
class _Scored:
    """Scores of clips in full, of their center crops and, where there are any, of clips of held-out classes."""

    full: Scores
    center_crops: Scores
    out_of_set: OutOfSetScores | None = None


def evaluate(run: Path, data: str | None, progress: Progress) -> Evaluation:
    """Score clips and measure. Raises RunError for a folder that is not a run, DataError for unknown labels."""
    folder = RunFolder(run)
    model = model_folder(run)
    if not folder.recipe.is_file():
        raise RunError(
            f"'{run}' is not a run folder: it has no recipe.yaml. Name the folder that `auricle train` wrote."
        )
    recipe = recipes.load(folder.recipe)
    settings, seed = recipe.evaluate, recipe.train.seed
    unusable, rejection = 0, None
    if data is None:
        index = Index.load(folder.index)
        scored = _score_own_test_clips(folder, recipe, index, progress)
    else:
        index = read(data, recipe.replace("data", reader="auto", reader_options={}, fold=None, corrections=None))
        scored = _score(model, index, tuple(clip.id for clip in index), recipe, progress, "all")
        rejection = _rejection(model, scored, Resampling(settings.bootstrap_resamples, seed, index.group_name))
        unusable = len(index) - len(scored.full) - len(scored.out_of_set or ())
    scores, name = scored.full, index.group_name
    resampled = bootstrap(scores.groups, Resampling(settings.bootstrap_resamples, seed, name))
    outcomes = metrics.evaluate_logits(scores.truth, scores.logits, settings.top_k)
    return Evaluation(
        description=index.description,
        test_clips=len(scores),
        unusable=unusable,
        interval=IntervalBasis.of(resampled),
        metrics=metric_intervals(outcomes, resampled),
        labels=scores.labels,
        per_class=metrics.per_class(scores),
        confusion_matrix=tuple(tuple(map(int, row)) for row in metrics.confusion_matrix(scores)),
        risk_coverage=calibration.risk_coverage(scores),
        rejection=rejection,
        accuracy_by_duration=duration.accuracy_by_duration(scored.center_crops, scores, settings.min_slice_clips, name),
        accuracy_by_clip_duration=error_analysis.by_clip_duration(scores, name),
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
    return _Scored(scoring.join([part.full for part in parts]), scoring.join([part.center_crops for part in parts]))


def _rejection(model: Path, scored: _Scored, resampling: Resampling) -> RejectionReport | None:
    """How the kept threshold does on clips of the held-out classes, where the data has some."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if scored.out_of_set is None or config.get("threshold") is None:
        return None
    return open_set.by_fixed_threshold(
        scored.full, scored.out_of_set, config["threshold"], config["max_false_accept_rate"], resampling
    )


def _score(folder: Path, index: Index, ids: tuple[str, ...], recipe: Recipe, progress: Progress, fold: str) -> _Scored:
    model = load_model(folder, recipe.train.precision)
    config = model.config
    labels = tuple(config.id2label[number] for number in range(config.num_labels))
    num_features = getattr(config, "num_features", None)
    _check(index, labels, num_features, recipe)
    audio = recipe.audio
    settings = Settings(config.sample_rate, config.channels, audio.min_seconds, audio.max_seconds, num_features)
    store = prepare_store(index.clips, settings, progress=progress)
    positions = {clip.id: position for position, clip in enumerate(index)}
    clips = {clip.id: clip for clip in index}
    usable = [id for id in ids if store.clip_info[positions[id]].usable]
    known = tuple(id for id in usable if clips[id].label in labels)
    unknown = tuple(id for id in usable if clips[id].label not in labels)
    if not known:
        raise DataError(f"None of the {len(ids)} clips is usable. `auricle inspect` lists the reasons.")

    def score(source: AudioSource) -> np.ndarray:
        return scoring.score(model, source, batch_seconds=recipe.evaluate.batch_seconds)

    def audio_of(ids: tuple[str, ...]) -> AudioSource:
        return from_store(store, [positions[id] for id in ids])

    source = audio_of(known)
    scores = Scores(
        labels=labels,
        ids=known,
        truth=np.array([labels.index(clips[id].label) for id in known], dtype=np.int64),
        logits=score(source),
        seconds=np.array([store.clip_info[positions[id]].seconds for id in known]),
        groups=tuple(clips[id].group for id in known),
        folds=(fold,) * len(known),
    )
    out_of_set = None
    if unknown:
        names, groups = tuple(clips[id].label for id in unknown), tuple(clips[id].group for id in unknown)
        out_of_set = OutOfSetScores(unknown, names, groups, (fold,) * len(unknown), score(audio_of(unknown)))
    return _Scored(scores, duration.center_crops(scores, source, settings.sample_rate, score), out_of_set)


def _check(index: Index, labels: tuple[str, ...], num_features: int | None, recipe: Recipe) -> None:
    """Refuse clips whose labels or kind of input the model does not know."""
    unknown = sorted(set(index.labels) - set(labels) - set(recipe.data.held_out_classes))
    if unknown:
        listed = ", ".join(f"'{label}'" for label in unknown[:5])
        raise DataError(f"The model was not trained on {listed}. Its classes: {', '.join(labels)}.")
    if num_features != index.num_features:
        raise DataError(
            f"'{index.origin}' holds {_input(index.num_features)}, and the model takes {_input(num_features)}."
        )


def _input(num_features: int | None) -> str:
    return "audio" if num_features is None else f"precomputed features of {num_features} bands"
