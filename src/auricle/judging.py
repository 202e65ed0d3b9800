"""Judge a finished run again: on its own test clips, or on other labelled recordings.

In: a run folder and, for other recordings, DATA read by any reader. Out: the headline metrics with intervals, per
class. The run's own test clips are scored by the models that never heard them; other recordings by the model that was
kept.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from auricle import recipe as recipes
from auricle.audio.store import prepare as prepare_store
from auricle.audio.survey import Progress, Settings
from auricle.batches import stored
from auricle.classifier import load_model, model_folder
from auricle.corpus.clip import Index
from auricle.corpus.splits import Split
from auricle.corpus.splits import load as load_split
from auricle.errors import DataError, RunError
from auricle.evaluation import findings, metrics, scoring
from auricle.evaluation.intervals import intervals, resample
from auricle.evaluation.scoring import Scores
from auricle.prepare import read
from auricle.recipe import Recipe


def evaluate(run: Path, data: str | None, progress: Progress) -> dict[str, Any]:
    """Score clips anew and measure. Raises RunError for a folder that is no run, DataError for labels not learnt."""
    folder = model_folder(run)
    if not (run / "recipe.yaml").is_file():
        raise RunError(
            f"'{run}' is not a run folder: it has no recipe.yaml. Name the folder that `auricle train` made."
        )
    recipe = recipes.load(run / "recipe.yaml")
    if data is None:
        index = Index.load(run / "index.parquet")
        scores = _own_test(run, recipe, index, progress)
    else:
        index = read(data, recipe.replace("data", reader="auto", options={}, fold=None, fixes=None))
        scores = _score(folder, index, tuple(clip.id for clip in index), recipe, progress, "all")
    judged = metrics.judge(scores.truth, scores.logits, recipe.evaluate.top_k)
    drawn = resample(scores.groups, len(scores), recipe.evaluate.resamples, recipe.train.seed, index.group_name)
    return {
        "recognised": index.recognised,
        "test_clips": len(scores),
        "unusable": len(index) - len(scores) if data is not None else 0,
        "interval": {"unit": drawn.unit, "units": drawn.units, "level": 0.95},
        "metrics": {name: asdict(figure) for name, figure in intervals(judged, drawn).items()},
        "labels": list(scores.labels),
        "per_class": [asdict(row) for row in metrics.per_class(scores)],
        "confusion": metrics.confusion(scores).tolist(),
        "by_length": [asdict(row) for row in findings.by_length(scores, index.group_name)],
    }


def _own_test(run: Path, recipe: Recipe, index: Index, progress: Progress) -> Scores:
    audit_ids = {clip.id for clip in index}
    split: Split = load_split(run / "split.json", index)
    folders = sorted((run / "folds").glob("*")) if len(split.folds) > 1 else [run]
    if len(folders) != len(split.folds):
        raise RunError(
            f"'{run}' has {len(folders)} of {len(split.folds)} folds. Finish it: auricle train DATA --resume."
        )
    parts = []
    for fold, folder in zip(split.folds, folders, strict=True):
        ids = tuple(id for id in fold.test if id in audit_ids)
        parts.append(_score(model_folder(folder), index, ids, recipe, progress, fold.name))
    return scoring.join(parts)


def _score(folder: Path, index: Index, ids: tuple[str, ...], recipe: Recipe, progress: Progress, fold: str) -> Scores:
    model = load_model(folder, recipe.train.precision)
    labels = tuple(model.config.id2label[number] for number in range(model.config.num_labels))
    strange = sorted(set(index.labels) - set(labels))
    if strange:
        listed = ", ".join(f"'{label}'" for label in strange[:5])
        raise DataError(f"The model never learnt {listed}. It knows: {', '.join(labels)}.")
    audio = recipe.audio
    bands = getattr(model.config, "bands", None)
    if bands != index.bands:
        raise DataError(f"'{index.origin}' holds {_input(index.bands)}, and the model takes {_input(bands)}.")
    settings = Settings(model.config.sample_rate, model.config.channels, audio.min_seconds, audio.max_seconds, bands)
    store = prepare_store(index.clips, settings, progress=progress)
    places = {clip.id: place for place, clip in enumerate(index)}
    usable = tuple(id for id in ids if store.facts[places[id]].usable)
    if not usable:
        raise DataError(f"None of the {len(ids)} clips is usable. `auricle inspect` says why.")
    clips = {clip.id: clip for clip in index}
    number = {label: place for place, label in enumerate(labels)}
    positions = [places[id] for id in usable]
    return Scores(
        labels=labels,
        ids=usable,
        truth=np.array([number[clips[id].label] for id in usable], dtype=np.int64),
        logits=scoring.score(model, stored(store, positions), batch_seconds=recipe.evaluate.batch_seconds),
        seconds=np.array([store.facts[place].seconds for place in positions]),
        groups=tuple(clips[id].group for id in usable),
        folds=(fold,) * len(usable),
    )


def _input(bands: int | None) -> str:
    return "sound" if bands is None else f"ready frames of {bands} bands"
