"""From a path to all that training needs: what is there, what is wrong with it, how it is divided, how it sounds.

In: DATA and a recipe. Out: a Prepared corpus. Inspecting is the same way without the store. Nothing is written but the
decoded store in the cache.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from auricle import errors
from auricle.audio.inspect import commonest_rate, inspect_clips
from auricle.audio.settings import Settings
from auricle.audio.store import Store
from auricle.audio.store import prepare as prepare_store
from auricle.corpus import corrections, splits
from auricle.corpus.clip import Index
from auricle.corpus.read import rare_labels, read_index
from auricle.corpus.splits import Split
from auricle.errors import DataError, UsageError
from auricle.parallel import Progress
from auricle.preparation import audit as auditing
from auricle.preparation.audit import Audit
from auricle.recipe import REFUSED, Recipe

FALLBACK_RATE = 16_000
# Precomputed features come every 10 ms, as good as everywhere.
FRAME_RATE = 100


@dataclass(frozen=True)
class Inspected:
    """What `auricle inspect` knows; `split` is how training would divide the corpus; `no_split` says why it cannot."""

    index: Index
    audit: Audit
    split: Split | None
    no_split: str


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to be learnt from. `index` holds all clips in the store's order, `kept` the usable ones to learn
    and be tested on, `unknown` the usable ones of classes that are never learnt.
    """

    index: Index
    kept: Index
    unknown: Index
    audit: Audit
    split: Split
    store: Store
    recipe: Recipe
    seconds: float

    @property
    def labels(self) -> tuple[str, ...]:
        return self.kept.labels

    @property
    def positions(self) -> dict[str, int]:
        """Each usable clip's place in the store, by id."""
        out = self.audit.quarantined_ids
        return {clip.id: place for place, clip in enumerate(self.index) if clip.id not in out}


def read(data: str | Path, recipe: Recipe) -> Index:
    """Read the corpus that a recipe names the reader and columns of, with its labels put right where it names fixes."""
    source = recipe.data
    index = read_index(data, source.reader, source.reader_options, label=source.label, group=source.group, fold=source.fold)
    if source.corrections is None:
        return index
    index, fixed = corrections.apply(index, source.corrections)
    return replace(index, description=f"{index.description}; {fixed.described}")


def inspect(data: str | Path, recipe: Recipe, progress: Progress) -> Inspected:
    """Look at every clip without keeping the sound: flat memory at any size."""
    index = read(data, recipe)
    recipe = _with_frames(recipe, index)
    _check_unknown(index, recipe)
    settings = _settings(recipe, recipe.audio.sample_rate or FALLBACK_RATE)
    facts = inspect_clips(index.clips, settings, progress)
    audit = auditing.judge(index, facts)
    kept, unknown = _usable(index, audit, recipe)
    try:
        split = splits.make(kept, recipe.data, audit.duplicate_groups, _passed_over(audit, unknown))
    except (DataError, UsageError) as error:
        return Inspected(index, audit, None, str(error))
    return Inspected(index, auditing.with_leaks(audit, split), split, "")


def prepare(data: str | Path, recipe: Recipe, progress: Progress) -> Prepared:
    """Read, decode once, audit and split. Raises DataError when too little is usable, or, if strict, not all is."""
    start = time.perf_counter()
    index = read(data, recipe)
    recipe = _with_frames(recipe, index)
    _check_unknown(index, recipe)
    rate = recipe.audio.sample_rate
    if rate is None:
        rate = commonest_rate(list(index), _settings(recipe, FALLBACK_RATE))
        recipe = recipe.replace("audio", sample_rate=rate)
    store = prepare_store(index.clips, _settings(recipe, rate), progress=progress)
    audit = auditing.judge(index, store.facts)
    if recipe.data.strict and audit.quarantined:
        listed = "; ".join(f"'{fault.id}' is {fault.kind} ({fault.detail})" for fault in audit.quarantined[:5])
        raise DataError(
            f"{len(audit.quarantined)} of {len(index)} clips are unusable and strict was asked for: {listed}"
            f"{' …' if len(audit.quarantined) > 5 else ''}. Mend or remove them, or train without --strict."
        )
    kept, unknown = _usable(index, audit, recipe)
    if len(kept.labels) < 2:
        raise DataError(
            f"{len(kept)} of {len(index)} clips are usable, in {len(kept.labels)} classes, and a classifier needs two. "
            "`auricle inspect` says what is wrong with the others."
        )
    lonely = rare_labels(kept)
    if lonely:
        named = ", ".join(f"'{label}'" for label in lonely[:5])
        raise DataError(
            f"A class needs two usable clips or more, one to learn from and one to be tested on; a single one have: "
            f"{named}{' …' if len(lonely) > 5 else ''}. Add recordings of them, or take them out of the corpus."
        )
    if recipe.data.held_out_classes and not len(unknown):
        raise DataError(
            "None of the clips of the classes in data.held_out_classes is usable. `auricle inspect` says why."
        )
    split = splits.make(kept, recipe.data, audit.duplicate_groups, _passed_over(audit, unknown))
    audit = auditing.with_leaks(audit, split)
    return Prepared(index, kept, unknown, audit, split, store, recipe, time.perf_counter() - start)


def _check_unknown(index: Index, recipe: Recipe) -> None:
    """Refuse to hold out what is no class or all but one, and a class that is called as refused clips are."""
    held_out = set(recipe.data.held_out_classes)
    for name in recipe.data.held_out_classes:
        if name not in index.labels:
            raise UsageError(f"data.held_out_classes: {errors.unknown('class', name, index.labels)}")
    known = [label for label in index.labels if label not in held_out]
    if held_out and len(known) < 2:
        raise UsageError(
            f"data.held_out_classes holds out {len(held_out)} of {len(index.labels)} classes, and a classifier needs two to "
            "know. Hold out fewer."
        )
    if REFUSED in known and (held_out or recipe.evaluate.max_false_accept_rate is not None):
        raise UsageError(
            f"The corpus has a class '{REFUSED}', and so is called what the model refuses to name. Put it in "
            "data.held_out_classes, rename it by data.corrections, or leave data.held_out_classes and evaluate.max_false_accept_rate empty."
        )


def _usable(index: Index, audit: Audit, recipe: Recipe) -> tuple[Index, Index]:
    """The usable clips of classes to be known, and those of classes that are never learnt."""
    out, held_out = audit.quarantined_ids, set(recipe.data.held_out_classes)
    kept = index.select([clip.id not in out and clip.label not in held_out for clip in index])
    return kept, index.select([clip.id not in out and clip.label in held_out for clip in index])


def _passed_over(audit: Audit, unknown: Index) -> frozenset[str]:
    """Clips that a split file may name and that are in no part."""
    return audit.quarantined_ids | {clip.id for clip in unknown}


def _with_frames(recipe: Recipe, index: Index) -> Recipe:
    """The recipe with the width and rate of precomputed features, where the corpus holds these: its own rate is of sound.

    Raises UsageError where the recipe asks for frames of another width, or the corpus holds sound.
    """
    asked = recipe.audio.num_features
    if asked == index.num_features:
        return recipe if asked is None or recipe.audio.sample_rate else recipe.replace("audio", sample_rate=FRAME_RATE)
    if asked is None:
        return recipe.replace("audio", num_features=index.num_features, sample_rate=FRAME_RATE)
    there = "sound" if index.num_features is None else f"precomputed features of {index.num_features} bands"
    raise UsageError(
        f"audio.num_features is {asked}, and '{index.origin}' holds {there}. Leave audio.num_features null."
    )


def _settings(recipe: Recipe, sample_rate: int) -> Settings:
    audio = recipe.audio
    return Settings(sample_rate, audio.channels, audio.min_seconds, audio.max_seconds, audio.num_features)
