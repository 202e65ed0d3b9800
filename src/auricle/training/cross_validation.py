"""Train and judge the models of a split, one fold after the other.

In: a Prepared corpus. Out: for each fold a model folder, its history, what it says of clips, and trained.json, which is
written last and vouches for the rest: a fold that has it is never trained again. Families that are fitted in closed
form and those that are trained by gradient go the same way.
"""

import ctypes
import gc
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from auricle import __version__
from auricle.corpus import splits
from auricle.corpus.splits import Fold
from auricle.evaluation import calibration, duration, open_set, scoring
from auricle.evaluation.open_set import OutOfSetScores
from auricle.evaluation.scoring import Scores
from auricle.models import torch_runtime
from auricle.models.load import build_model, save_model
from auricle.parallel import Progress
from auricle.preparation.batches import from_store
from auricle.preparation.prepare import Prepared
from auricle.preparation.windows import AudioSource
from auricle.recipe import Recipe
from auricle.training import train as training
from auricle.training.loop import Epoch
from auricle.training.task import LabelledClips, whole
from auricle.training.train import Trained


def _ignore(*_: object) -> None:
    return None


@dataclass(frozen=True)
class ProgressReporter:
    """Who hears of a run's progress: sentences, shares of long work, epochs."""

    say: Callable[[str], None] = _ignore
    progress: Progress = _ignore
    epoch: Callable[[str, Epoch], None] = _ignore


@dataclass(frozen=True)
class Result:
    """One trained fold: its folder, what training did, its curve, and what its model says of clips.

    `scores` are of its test clips (None for the final model), `valid` of its validation clips, `cuts` of the middles of
    test clips, whose seconds are the cuts'; `strangers` of classes that it never learnt. None is what was not asked.
    """

    name: str
    folder: Path
    trained: dict[str, Any]
    curve: list[dict[str, Any]]
    scores: Scores | None
    valid: Scores | None = None
    cuts: Scores | None = None
    out_of_set: OutOfSetScores | None = None


@dataclass(frozen=True)
class Judge:
    """How a finished model is asked for logits (clips, classes): for usable clips by id, and for any other sounds."""

    clips: Callable[[Sequence[str]], np.ndarray]
    sounds: Callable[[AudioSource], np.ndarray]


@dataclass(frozen=True)
class TrainedFold:
    """What training a fold gives. `valid` is the finished model's logits of the validation clips, where they say what
    it would say of clips that it never heard.
    """

    model: PreTrainedModel
    trained: Trained
    judge: Judge
    valid: np.ndarray | None


TrainFold = Callable[[Fold, Path, ProgressReporter], TrainedFold]


def train_all(prepared: Prepared, out: Path, train_fold: TrainFold, listener: ProgressReporter) -> list[Result]:
    """Train every fold, and after several folds one model on all clips; the last result is the run's own model."""
    folds = prepared.split.folds
    if len(folds) == 1:
        return [train_one(prepared, folds[0], out, train_fold, listener)]
    results = []
    for number, fold in enumerate(folds, start=1):
        listener.say(f"Fold {number} of {len(folds)}: tests on '{fold.name}', {len(fold.test)} clips.")
        slug = re.sub(r"[^\w.-]+", "_", fold.name)
        results.append(train_one(prepared, fold, out / "folds" / f"{number:02d}-{slug}", train_fold, listener))
    listener.say("Last, the model to keep: trained on all clips; the folds above say how good it is.")
    everything = splits.whole(prepared.kept, prepared.recipe.data, prepared.audit.duplicate_groups)
    results.append(train_one(prepared, everything, out, train_fold, listener))
    return results


def train_one(
    prepared: Prepared, fold: Fold, folder: Path, train_fold: TrainFold, listener: ProgressReporter
) -> Result:
    """Train one fold unless it is finished. trained.json is written last and vouches for the rest."""
    done = folder / "trained.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fitted = train_fold(fold, folder, listener)
        fitted.model.config.clip_seconds = _typical_seconds(prepared, fold)
        save_model(fitted.model, folder / "model")
        score_fold(prepared, fold, fitted, folder)
        weights = sum(weight.numel() for weight in fitted.model.parameters())
        write_json(done, {**asdict(fitted.trained), "parameters": weights})
        del fitted
        release_memory()
    history = folder / "history.jsonl"
    lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
    said = {name: folder / f"fold-{name}.parquet" for name in ("scores", "valid", "heard", "unknown")}
    return Result(
        fold.name,
        folder,
        json.loads(done.read_text()),
        [_steady(json.loads(line)) for line in lines],
        Scores.load(said["scores"]) if fold.test else None,
        Scores.load(said["valid"]) if said["valid"].is_file() else None,
        Scores.load(said["heard"]) if said["heard"].is_file() else None,
        OutOfSetScores.load(said["unknown"]) if said["unknown"].is_file() else None,
    )


def _typical_seconds(prepared: Prepared, fold: Fold) -> float:
    """The median length of the training clips: a model's natural window in long recordings."""
    lengths = sounds_of(prepared, fold.train).lengths
    return round(float(np.median(lengths)) / prepared.store.settings.sample_rate, 3)


def release_memory() -> None:
    """Give the memory of what is no longer used back to the system: a trainer and its model know each other."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def score_fold(prepared: Prepared, fold: Fold, fitted: TrainedFold, folder: Path) -> None:
    """Save what the finished model says: of test clips, whole and cut, of validation clips, of unknown classes."""
    judge = fitted.judge
    if fold.test:
        scores = scores_of(prepared, fold.test, judge.clips(fold.test), fold.name)
        scores.save(folder / "fold-scores.parquet")
        sounds, rate = sounds_of(prepared, fold.test), prepared.store.settings.sample_rate
        most = duration.MOST_CLIPS // len(prepared.split.folds) + 1
        duration.cuts(scores, sounds, rate, judge.sounds, most).save(folder / "fold-heard.parquet")
    if fitted.valid is not None:
        scores_of(prepared, fold.valid, fitted.valid, fold.name).save(folder / "fold-valid.parquet")
    unknown = prepared.unknown.clips
    if unknown:
        ids = tuple(clip.id for clip in unknown)
        labels, groups = tuple(clip.label for clip in unknown), tuple(clip.group for clip in unknown)
        said = OutOfSetScores(ids, labels, groups, (fold.name,) * len(ids), judge.clips(ids))
        said.save(folder / "fold-unknown.parquet")


def from_scratch(prepared: Prepared) -> TrainFold:
    """Training all weights through `transformers.Trainer`; what a model keeps beside its network is fitted last."""
    recipe = prepared.recipe
    ensemble_member = build_model(recipe, prepared.labels).ensemble_member
    vectors = embed_clips(prepared, ensemble_member) if ensemble_member is not None else None

    def train_fold(fold: Fold, folder: Path, listener: ProgressReporter) -> TrainedFold:
        model = build_model(recipe, prepared.labels)
        learn, choose = material(prepared, fold.train), material(prepared, fold.valid)
        training.fit_normalization(model, learn, recipe.evaluate.batch_seconds)
        course = whole(model, recipe, learn, choose)
        trained = training.train(model, recipe, course, folder, lambda epoch: listener.epoch(fold.name, epoch))
        if vectors is not None and fold.valid:
            # For the temperature the machine must not have learnt the validation clips; for good it learns them too.
            vectors.solve(model.fit_ensemble_member, fold.train, recipe)
        valid, trained = tempered(prepared, fold, model, trained, course.score)
        if vectors is not None:
            vectors.solve(model.fit_ensemble_member, (*fold.train, *fold.valid), recipe)
        return TrainedFold(model, trained, score_waveforms(prepared, lambda: model), valid)

    return train_fold


def tempered(
    prepared: Prepared, fold: Fold, model: PreTrainedModel, trained: Trained, score: Callable[[], np.ndarray] | None
) -> tuple[np.ndarray | None, Trained]:
    """Fit the temperature to the fold's validation clips, whose logits `score` gives, and give it to the model.

    Returns their logits after it, and word of it; without validation clips nothing changes.
    """
    if score is None:
        return None, trained
    logits = score()
    group_of = {clip.id: clip.group for clip in prepared.kept}
    found = calibration.fit(logits, labels_of(prepared, fold.valid), [group_of[id] for id in fold.valid])
    model.apply_temperature(found)
    return (logits / found).astype(np.float32), replace(trained, temperature=found)


def score_waveforms(prepared: Prepared, opened: Callable[[], PreTrainedModel]) -> Judge:
    """Judge by a model that hears each clip; `opened` gives it when it is first asked."""

    def said(sounds: AudioSource) -> np.ndarray:
        return scoring.score(opened(), sounds, batch_seconds=prepared.recipe.evaluate.batch_seconds)

    return Judge(lambda ids: said(sounds_of(prepared, ids)), said)


def closed_form_trainer(prepared: Prepared) -> TrainFold:
    """Fitting in closed form, from vectors that are computed once for all folds. Its own scale is honest already."""
    recipe = prepared.recipe
    start = time.perf_counter()
    vectors = embed_clips(prepared, build_model(recipe, prepared.labels))
    rate = len(vectors.rows) / (time.perf_counter() - start)

    def train_fold(fold: Fold, folder: Path, listener: ProgressReporter) -> TrainedFold:
        start = time.perf_counter()
        fitted = build_model(recipe, prepared.labels)
        valid = None
        if fold.valid and open_set.wanted(recipe) is not None:
            # A threshold is set by mistakes on clips that were not learnt; for good they are learnt too.
            vectors.solve(fitted.solve, fold.train, recipe)
            valid = torch_runtime.score_embeddings(fitted, vectors.of(fold.valid))
        vectors.solve(fitted.solve, (*fold.train, *fold.valid), recipe)
        trained = Trained(1, 1, 1, len(fold.train), 1, time.perf_counter() - start, rate)
        judge = replace(
            score_waveforms(prepared, lambda: fitted),
            clips=lambda ids: torch_runtime.score_embeddings(fitted, vectors.of(ids)),
        )
        return TrainedFold(fitted, trained, judge, valid)

    return train_fold


@dataclass(frozen=True)
class Vectors:
    """What no training changes, of every usable clip: values (clips, width) and each one's row.

    `truth` and `groups` are of the clips that may be learnt, which come first.
    """

    values: np.ndarray
    rows: dict[str, int]
    truth: np.ndarray
    groups: np.ndarray | None

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """The vectors of some clips, in their order."""
        return np.asarray(self.values[[self.rows[id] for id in ids]])

    def solve(self, solve: Callable[..., None], ids: Sequence[str], recipe: Recipe) -> None:
        """Hand the vectors, classes and groups of some clips to a machine that is fitted in closed form."""
        rows = [self.rows[id] for id in ids]
        solve(
            self.values[rows],
            self.truth[rows],
            groups=None if self.groups is None else self.groups[rows],
            class_weighted=recipe.train.class_balance != "none",
            seed=recipe.train.seed,
        )


def embed_clips(prepared: Prepared, model: PreTrainedModel) -> Vectors:
    """Embed every usable clip, or read what an earlier run of the same corpus and settings kept beside the store."""
    kept = [clip.id for clip in prepared.kept]
    ids = [*kept, *(clip.id for clip in prepared.unknown)]
    settings = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    key = hashlib.blake2b(json.dumps([__version__, settings, ids], sort_keys=True).encode(), digest_size=12).hexdigest()
    path = prepared.store.folder / f"vectors-{key}.npy"
    if not path.is_file():
        values = scoring.embed(model, sounds_of(prepared, ids), batch_seconds=prepared.recipe.evaluate.batch_seconds)
        partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.npy")
        np.save(partial, values)
        os.replace(partial, path)
    rows = {id: row for row, id in enumerate(ids)}
    return Vectors(np.load(path), rows, labels_of(prepared, kept), _groups(prepared))


def scores_of(prepared: Prepared, ids: Sequence[str], logits: np.ndarray, fold: str) -> Scores:
    clips = {clip.id: clip for clip in prepared.kept}
    places = prepared.positions
    return Scores(
        labels=prepared.labels,
        ids=tuple(ids),
        truth=labels_of(prepared, ids),
        logits=logits,
        seconds=np.array([prepared.store.facts[places[id]].seconds for id in ids]),
        groups=tuple(clips[id].group for id in ids),
        folds=(fold,) * len(ids),
    )


def material(prepared: Prepared, ids: Sequence[str]) -> LabelledClips:
    return LabelledClips(sounds_of(prepared, ids), labels_of(prepared, ids))


def sounds_of(prepared: Prepared, ids: Sequence[str]) -> AudioSource:
    places = prepared.positions
    return from_store(prepared.store, [places[id] for id in ids])


def labels_of(prepared: Prepared, ids: Sequence[str]) -> np.ndarray:
    number = {label: place for place, label in enumerate(prepared.labels)}
    label_of = {clip.id: clip.label for clip in prepared.kept}
    return np.array([number[label_of[id]] for id in ids], dtype=np.int64)


def _groups(prepared: Prepared) -> np.ndarray | None:
    if not all(clip.group is not None for clip in prepared.kept):
        return None
    return np.array([clip.group for clip in prepared.kept])


def _steady(line: dict[str, Any]) -> dict[str, Any]:
    """A line of history without what the clock measured."""
    return {name: line[name] for name in ("epoch", "loss", "learning_rate", "valid")}


def write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
