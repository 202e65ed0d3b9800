"""Fine-tune a pretrained model fold by fold: what is frozen is computed once for all folds, the rest is trained.

In: a Prepared corpus whose recipe names a checkpoint. Out: what trains one fold, as other families have it. A fold's
test clips are scored by the model folder that was saved, as prediction will open it.
"""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auricle.corpus.splits import Fold
from auricle.evaluation import scoring
from auricle.models import precision
from auricle.models.load import build_model, check_family, load_model
from auricle.preparation.prepare import Prepared
from auricle.training import freezing, frozen_features
from auricle.training import task as courses
from auricle.training import train as training
from auricle.training.cross_validation import (
    ProgressReporter,
    TrainedFold,
    TrainFold,
    labels_of,
    material,
    score_waveforms,
    sounds_of,
    tempered,
)
from auricle.training.freezing import Plan
from auricle.training.frozen_features import FrozenFeatures, Hearing

Timed = Callable[[str, float], None]


def by_finetuning(prepared: Prepared, listener: ProgressReporter, timed: Timed) -> TrainFold:
    """Say what is trained, compute what is frozen, and give what trains one fold.

    `timed` hears how many seconds the frozen part took.
    """
    recipe = prepared.recipe
    options = check_family(recipe)
    model = build_model(recipe, prepared.labels)
    plan = freezing.plan(model, options, recipe.train.learning_rate)
    for note in model.notes:
        listener.say(note)
    heard = [id for fold in prepared.split.folds for id in (*fold.train, *fold.valid)]
    everything = set(heard) if len(prepared.split.folds) == 1 else {clip.id for clip in prepared.kept}
    ids = [clip.id for clip in prepared.kept if clip.id in everything]
    start = time.perf_counter()
    computed = _computed(prepared, ids, model, plan, listener)
    timed("frozen_seconds", time.perf_counter() - start)
    places = {id: number for number, id in enumerate(ids)}
    del model

    def train_fold(fold: Fold, folder: Path, listener: ProgressReporter) -> TrainedFold:
        model = build_model(recipe, prepared.labels)
        adapters = freezing.adapt(model, options, plan) if options.lora is not None else None
        if computed is None:
            course = courses.whole(model, recipe, material(prepared, fold.train), material(prepared, fold.valid), plan)
        else:
            learn, choose = (
                ([places[id] for id in part], labels_of(prepared, part)) for part in (fold.train, fold.valid)
            )
            course = courses.from_prefix(model, recipe, plan, computed, learn, choose)
        if not (folder / "checkpoints").exists():
            say_table(course.learner, listener)
        trained = training.train(model, recipe, course, folder, lambda epoch: listener.epoch(fold.name, epoch))
        if adapters is not None:
            freezing.merge(adapters)
        valid, trained = tempered(prepared, fold, model, trained, course.score)
        opened = functools.cache(lambda: load_model(folder / "model", recipe.train.precision))
        return TrainedFold(model, trained, score_waveforms(prepared, opened), valid)

    return train_fold


def say_table(learner: Any, listener: ProgressReporter) -> None:
    """Tell what is trained: parts, weights, from which epoch on, and the share of all."""
    rows = _joined(freezing.table(learner))
    total = sum(row.weights for row in rows)
    learnt = sum(row.weights for row in rows if row.first_epoch is not None)
    width = max(len(row.part) for row in rows)
    listener.say(f"Trained: {learnt:,} of {total:,} weights ({learnt / total:.1%}).")
    for row in rows:
        when = "frozen" if row.first_epoch is None else f"trained from epoch {row.first_epoch}"
        listener.say(f"  {row.part:{width}}  {row.weights:>12,}  {when}")


def _joined(rows: list[freezing.Row]) -> list[freezing.Row]:
    """Neighbouring layers of one kind as one row."""
    joined: list[freezing.Row] = []
    for row in rows:
        kind, _, number = row.part.rpartition(" ")
        last = joined[-1] if joined else None
        if kind and last is not None and last.part.startswith(kind) and last.first_epoch == row.first_epoch:
            first = last.part.removeprefix(kind).strip(" s").partition("-")[0]
            joined[-1] = freezing.Row(f"{kind} {first}-{number}", last.weights + row.weights, row.first_epoch)
        else:
            joined.append(row)
    return joined


def _computed(
    prepared: Prepared, ids: list[str], model: Any, plan: Plan, listener: ProgressReporter
) -> FrozenFeatures | None:
    """The frozen part's output for these clips; None, and the reason said, where it cannot be computed once."""
    recipe = prepared.recipe
    options = check_family(recipe)
    depth = freezing.prefix_depth(model, plan)
    if not options.cache_frozen:
        listener.say("What is frozen runs in every step, because model.cache_frozen is false.")
        return None
    if depth is None:
        listener.say("Everything is trained: nothing can be computed once.")
        return None
    sounds = sounds_of(prepared, ids)
    trained_ids = {id for fold in prepared.split.folds for id in fold.train}
    trained = [number for number, id in enumerate(ids) if id in trained_ids]
    rate = model.config.sample_rate
    hearing = Hearing(courses.crop(recipe, rate), recipe.augment, options.cached_crops, recipe.train.seed)
    computed = frozen_features.layout(
        model,
        depth,
        sounds,
        scoring.windows_of(model.config, sounds.lengths),
        trained,
        hearing,
        bf16=precision.is_bf16(recipe.train.precision),
        folder=prepared.store.folder,
        identity=" ".join([prepared.store.folder.name, *ids]),
    )
    size = f"{math.ceil(computed.rows.bytes / 1e6):,} MB"
    if not frozen_features.room_for(computed):
        listener.say(f"What is frozen runs in every step: to keep its output takes {size}, and the disk has less free.")
        return None
    listener.say(f"{_frozen(model, depth)} computed once for {len(ids)} clips: {size} in {computed.rows.folder}.")
    if any(len(hearing.views(clip, int(sounds.lengths[clip]))) > 1 for clip in trained):
        listener.say(f"Training hears each clip in {options.cached_crops} kept variants (model.cached_crops).")
    frozen_features.compute(computed, model, depth, sounds, listener.progress)
    return computed


def _frozen(model: Any, depth: int) -> str:
    layers = len(model.encoder.layers)
    if depth == 0:
        return "What comes before the embedding is"
    if depth == 1:
        return "What comes before layer 1 is frozen and is"
    return f"All up to layer {depth - 1} of {layers} is frozen and is"
