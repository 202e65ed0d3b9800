"""Judge a finished run again: on its own test clips, or on other labelled recordings.

In: a run folder and, for other recordings, DATA read by any reader. Out: the headline metrics with intervals, per
class. The run's own test clips are scored by the models that never heard them; other recordings by the model that was
kept.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auricle import recipes
from auricle.audio.settings import Settings
from auricle.audio.store import prepare as prepare_store
from auricle.corpus.clip import Index
from auricle.corpus.splits import Split
from auricle.corpus.splits import load as load_split
from auricle.errors import DataError, RunError
from auricle.evaluation import duration, error_analysis, metrics, open_set, scoring
from auricle.evaluation.intervals import intervals, resample
from auricle.evaluation.open_set import OutOfSetScores
from auricle.evaluation.rejection import Draws, RejectionReport, by_threshold
from auricle.evaluation.scoring import Scores
from auricle.models.load import load_model
from auricle.parallel import Progress
from auricle.preparation.prepare import read
from auricle.preparation.windows import AudioSource, from_store
from auricle.recipe import Recipe
from auricle.run_folder import model_folder


@dataclass(frozen=True)
class Said:
    """What models say of clips: scores whole, and cut to some seconds; and, of unknown classes, where there are any."""

    scores: Scores
    cuts: Scores
    out_of_set: OutOfSetScores | None = None


def evaluate(run: Path, data: str | None, progress: Progress) -> dict[str, Any]:
    """Score clips anew and measure. Raises RunError for a folder that is no run, DataError for labels not learnt."""
    folder = model_folder(run)
    if not (run / "recipe.yaml").is_file():
        raise RunError(
            f"'{run}' is not a run folder: it has no recipe.yaml. Name the folder that `auricle train` made."
        )
    recipe = recipes.load(run / "recipe.yaml")
    evaluate = recipe.evaluate
    refusal = None
    if data is None:
        index = Index.load(run / "index.parquet")
        said = _own_test(run, recipe, index, progress)
    else:
        index = read(data, recipe.replace("data", reader="auto", reader_options={}, fold=None, corrections=None))
        said = _score(folder, index, tuple(clip.id for clip in index), recipe, progress, "all")
        refusal = _refusal(folder, said, Draws(evaluate.bootstrap_resamples, recipe.train.seed, index.group_name))
    scores = said.scores
    judged = metrics.judge(scores.truth, scores.logits, evaluate.top_k)
    drawn = resample(scores.groups, len(scores), evaluate.bootstrap_resamples, recipe.train.seed, index.group_name)
    rows = duration.by_seconds(said.cuts, scores, evaluate.min_slice_clips, index.group_name)
    strange = 0 if said.out_of_set is None else len(said.out_of_set)
    return {
        "description": index.description,
        "test_clips": len(scores),
        "unusable": len(index) - len(scores) - strange if data is not None else 0,
        "interval": {"unit": drawn.unit, "units": drawn.units, "level": 0.95},
        "metrics": {name: asdict(figure) for name, figure in intervals(judged, drawn).items()},
        "labels": list(scores.labels),
        "per_class": [asdict(row) for row in metrics.per_class(scores)],
        "confusion": metrics.confusion(scores).tolist(),
        "coverage": [asdict(row) for row in open_set.coverage(scores)],
        "unknown": asdict(refusal) if refusal is not None else None,
        "heard": [asdict(row) for row in rows],
        "by_length": [asdict(row) for row in error_analysis.by_length(scores, index.group_name)],
    }


def _own_test(run: Path, recipe: Recipe, index: Index, progress: Progress) -> Said:
    split: Split = load_split(run / "split.json", index)
    folders = sorted((run / "folds").glob("*")) if len(split.folds) > 1 else [run]
    if len(folders) != len(split.folds):
        raise RunError(
            f"'{run}' has {len(folders)} of {len(split.folds)} folds. Finish it: auricle train DATA --resume."
        )
    parts = [
        _score(model_folder(folder), index, fold.test, recipe, progress, fold.name)
        for fold, folder in zip(split.folds, folders, strict=True)
    ]
    return Said(scoring.join([part.scores for part in parts]), scoring.join([part.cuts for part in parts]))


def _refusal(folder: Path, said: Said, draws: Draws) -> RejectionReport | None:
    """How the kept threshold does on clips of the classes that were held out, where the data has some."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if said.out_of_set is None or config.get("threshold") is None:
        return None
    return by_threshold(said.scores, said.out_of_set, config["threshold"], config["max_false_accept_rate"], draws)


def _score(folder: Path, index: Index, ids: tuple[str, ...], recipe: Recipe, progress: Progress, fold: str) -> Said:
    model = load_model(folder, recipe.train.precision)
    labels = tuple(model.config.id2label[number] for number in range(model.config.num_labels))
    strange = sorted(set(index.labels) - set(labels) - set(recipe.data.held_out_classes))
    if strange:
        listed = ", ".join(f"'{label}'" for label in strange[:5])
        raise DataError(f"The model never learnt {listed}. It knows: {', '.join(labels)}.")
    audio = recipe.audio
    num_features = getattr(model.config, "num_features", None)
    if num_features != index.num_features:
        raise DataError(
            f"'{index.origin}' holds {_input(index.num_features)}, and the model takes {_input(num_features)}."
        )
    settings = Settings(
        model.config.sample_rate, model.config.channels, audio.min_seconds, audio.max_seconds, num_features
    )
    store = prepare_store(index.clips, settings, progress=progress)
    places = {clip.id: place for place, clip in enumerate(index)}
    clips = {clip.id: clip for clip in index}
    usable = [id for id in ids if store.clip_info[places[id]].usable]
    known, unknown = (tuple(id for id in usable if (clips[id].label in labels) is wanted) for wanted in (True, False))
    if not known:
        raise DataError(f"None of the {len(ids)} clips is usable. `auricle inspect` says why.")
    number = {label: place for place, label in enumerate(labels)}

    def said(sounds: AudioSource) -> np.ndarray:
        return scoring.score(model, sounds, batch_seconds=recipe.evaluate.batch_seconds)

    def sounds_of(ids: tuple[str, ...]) -> AudioSource:
        return from_store(store, [places[id] for id in ids])

    sounds = sounds_of(known)
    scores = Scores(
        labels=labels,
        ids=known,
        truth=np.array([number[clips[id].label] for id in known], dtype=np.int64),
        logits=said(sounds),
        seconds=np.array([store.clip_info[places[id]].seconds for id in known]),
        groups=tuple(clips[id].group for id in known),
        folds=(fold,) * len(known),
    )
    out_of_set = None
    if unknown:
        names, groups = tuple(clips[id].label for id in unknown), tuple(clips[id].group for id in unknown)
        out_of_set = OutOfSetScores(unknown, names, groups, (fold,) * len(unknown), said(sounds_of(unknown)))
    return Said(scores, duration.cuts(scores, sounds, settings.sample_rate, said), out_of_set)


def _input(num_features: int | None) -> str:
    return "sound" if num_features is None else f"precomputed features of {num_features} bands"
