"""From a path to all that training needs: read the corpus, decode it once, audit it, split it.

In: DATA and a recipe. Out: a PreparedCorpus. Decoding and dividing are two steps: between them the groups are decided
by how the clips sound (training.grouping). Only the decoded store in the cache is written. Nothing here imports torch:
recordings are decoded in forked processes, which are to be small.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from auricle.audio.inspect import inspect_clips, most_common_rate
from auricle.audio.settings import Settings, describe_content
from auricle.audio.store import Store
from auricle.audio.store import prepare as prepare_store
from auricle.corpus import corrections, splits
from auricle.corpus.clip import Index
from auricle.corpus.read import rare_labels, read_index
from auricle.corpus.splits import Split
from auricle.errors import DataError, UsageError, unknown
from auricle.parallel import Progress
from auricle.preparation.audit import Audit, audit, with_groups, with_leaks
from auricle.preparation.windows import AudioSource, from_store
from auricle.recipe import REFUSED, Recipe, exclude_option

UNDIVIDED = Split("none", "not divided", False, ())
FALLBACK_RATE = 16_000
# Precomputed features come every 10 ms almost everywhere.
FRAME_RATE = 100


@dataclass(frozen=True)
class LabelledClips:
    """Clips to train or validate on, and each one's class: labels (clips,) int64."""

    audio: AudioSource
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.audio)


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus ready for training. `index` holds all clips in the store's order, `usable` those to train and test on,
    `held_out` the usable ones of classes that are never trained on.
    """

    index: Index
    usable: Index
    held_out: Index
    audit: Audit
    split: Split
    store: Store
    recipe: Recipe

    @property
    def labels(self) -> tuple[str, ...]:
        return self.usable.labels

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each usable clip in the store, by id."""
        quarantined = self.audit.quarantined_ids
        return {clip.id: position for position, clip in enumerate(self.index) if clip.id not in quarantined}

    @cached_property
    def _class_of(self) -> dict[str, int]:
        number = {label: number for number, label in enumerate(self.labels)}
        return {clip.id: number[clip.label] for clip in self.usable}

    @cached_property
    def _group_of(self) -> dict[str, str | None]:
        return {clip.id: clip.group for clip in self.usable}

    def audio(self, ids: Sequence[str]) -> AudioSource:
        """The audio of some clips, in their order."""
        return from_store(self.store, [self.positions[id] for id in ids])

    def classes(self, ids: Sequence[str]) -> np.ndarray:
        """The class numbers of some usable clips: (clips,) int64."""
        return np.array([self._class_of[id] for id in ids], dtype=np.int64)

    def groups(self, ids: Sequence[str]) -> tuple[str | None, ...]:
        return tuple(self._group_of[id] for id in ids)

    def seconds(self, ids: Sequence[str]) -> np.ndarray:
        """The durations of some clips: (clips,) float64."""
        return np.array([self.store.clip_info[self.positions[id]].seconds for id in ids])

    def labelled(self, ids: Sequence[str]) -> LabelledClips:
        return LabelledClips(self.audio(ids), self.classes(ids))

    def with_train(self, **values: Any) -> "PreparedCorpus":
        """The same corpus with some keys of the recipe's train section changed."""
        return replace(self, recipe=self.recipe.replace("train", **values))


def read(data: str | Path, recipe: Recipe) -> Index:
    """Read the corpus as the recipe's data section names it, and apply its table of corrections."""
    source = recipe.data
    index = read_index(
        data,
        source.reader,
        source.reader_options,
        label=source.label,
        group=source.group,
        fold=source.fold,
        excluded_classes=source.excluded_classes,
    )
    if source.corrections is None:
        return index
    index, summary = corrections.apply(index, source.corrections)
    return replace(index, description=f"{index.description}; {summary.description}")


def inspect(index: Index, recipe: Recipe, progress: Progress) -> Audit:
    """Audit every clip without keeping the audio: flat memory at any size."""
    _, settings = _settings(recipe, index)
    return audit(index, inspect_clips(index.clips, settings, progress))


def decode(index: Index, recipe: Recipe, progress: Progress) -> PreparedCorpus:
    """Decode once and audit what `read` gave; the corpus is not divided yet.

    Raises DataError when too little is usable, or, with data.strict, when anything is not.
    """
    recipe, settings = _settings(for_corpus(recipe, index), index)
    store = prepare_store(index.clips, settings, progress=progress)
    corpus_audit = audit(index, store.clip_info)
    usable, held_out = usable_clips(index, corpus_audit, recipe)
    _check_usable(index, usable, held_out, corpus_audit, recipe)
    return PreparedCorpus(index, usable, held_out, corpus_audit, UNDIVIDED, store, recipe)


def divide(index: Index, corpus_audit: Audit, recipe: Recipe) -> tuple[Split, Audit]:
    """Split the usable clips by the groups of the index; the audit gets the leaks and the number of groups.

    A split file may name quarantined and held-out clips, which are in no part.
    """
    usable, held_out = usable_clips(index, corpus_audit, recipe)
    excluded = corpus_audit.quarantined_ids | {clip.id for clip in held_out}
    split = splits.make(usable, recipe.data, corpus_audit.duplicate_groups, excluded)
    return split, with_leaks(with_groups(corpus_audit, index), split)


def prepare(index: Index, recipe: Recipe, progress: Progress) -> PreparedCorpus:
    """Decode and split a corpus by the groups that its index has."""
    return with_split(decode(index, recipe, progress), index)


def with_split(corpus: PreparedCorpus, index: Index) -> PreparedCorpus:
    """A decoded corpus, divided by the groups of an index of the same clips."""
    split, corpus_audit = divide(index, corpus.audit, corpus.recipe)
    usable, held_out = usable_clips(index, corpus_audit, corpus.recipe)
    return replace(corpus, index=index, usable=usable, held_out=held_out, audit=corpus_audit, split=split)


def decode_for(corpus: PreparedCorpus, recipe: Recipe, progress: Progress) -> PreparedCorpus:
    """The same clips and split, decoded as another recipe needs them."""
    recipe, settings = _settings(recipe, corpus.index)
    return replace(corpus, store=prepare_store(corpus.index.clips, settings, progress=progress), recipe=recipe)


def for_corpus(recipe: Recipe, index: Index) -> Recipe:
    """Fill in what reading the corpus decides: the width and frame rate of precomputed features.

    Raises UsageError where the recipe asks for another kind of input than the corpus holds, or for held-out classes
    that the corpus does not allow.
    """
    _check_held_out(index, recipe)
    requested = recipe.audio.num_features
    if requested == index.num_features:
        return (
            recipe if requested is None or recipe.audio.sample_rate else recipe.replace("audio", sample_rate=FRAME_RATE)
        )
    if requested is None:
        return recipe.replace("audio", num_features=index.num_features, sample_rate=FRAME_RATE)
    content = describe_content(index.num_features)
    raise UsageError(f"audio.num_features is {requested}, and '{index.origin}' holds {content}. Set it to null.")


def _check_held_out(index: Index, recipe: Recipe) -> None:
    """Refuse to hold out what is no class or all but one, and a class named as the answer for rejected clips is."""
    held_out = set(recipe.data.held_out_classes)
    for name in recipe.data.held_out_classes:
        if name not in index.labels:
            raise UsageError(f"data.held_out_classes: {unknown('class', name, index.labels)}")
    known = [label for label in index.labels if label not in held_out]
    if held_out and len(known) < 2:
        raise UsageError(
            f"data.held_out_classes holds out {len(held_out)} of {len(index.labels)} classes, and a classifier needs "
            "two to train on. Hold out fewer."
        )
    if REFUSED in known and (held_out or recipe.evaluate.max_false_accept_rate is not None):
        raise UsageError(
            f"The corpus has a class '{REFUSED}', which is also the model's answer for clips that it rejects. Add it "
            "to data.held_out_classes, rename it by data.corrections, or leave data.held_out_classes and "
            "evaluate.max_false_accept_rate empty."
        )


def usable_clips(index: Index, corpus_audit: Audit, recipe: Recipe) -> tuple[Index, Index]:
    """The usable clips to train and test on, and those of held-out classes."""
    quarantined, held_out = corpus_audit.quarantined_ids, set(recipe.data.held_out_classes)
    usable = index.select([clip.id not in quarantined for clip in index])
    is_held_out = [clip.label in held_out for clip in usable]
    return usable.select([not held for held in is_held_out]), usable.select(is_held_out)


def _check_usable(index: Index, usable: Index, held_out: Index, corpus_audit: Audit, recipe: Recipe) -> None:
    """Raise DataError where the usable clips do not make a classifier, or the recipe is strict and some are not."""
    if recipe.data.strict and corpus_audit.quarantined:
        listed = "; ".join(f"'{fault.id}' is {fault.kind} ({fault.detail})" for fault in corpus_audit.quarantined[:5])
        raise DataError(
            f"{len(corpus_audit.quarantined)} of {len(index)} clips are unusable, and data.strict is true: {listed}"
            f"{' …' if len(corpus_audit.quarantined) > 5 else ''}. Repair or remove them, or train without --strict."
        )
    if len(usable.labels) < 2:
        raise DataError(
            f"{len(usable)} of {len(index)} clips are usable, in {len(usable.labels)} classes, and a classifier needs "
            f"two. {corpus_audit.faults_in_words} `auricle inspect` lists all that is wrong."
        )
    rare = rare_labels(usable)
    if rare:
        names = ", ".join(f"'{label}'" for label in rare[:5])
        raise DataError(
            "A class needs two usable clips or more, one to train on and one to test on; these have a single one: "
            f"{names}{' …' if len(rare) > 5 else ''}. Add recordings of them, or leave them out: "
            f"{exclude_option(rare)}."
        )
    if recipe.data.held_out_classes and not len(held_out):
        raise DataError(
            "No clip of the classes in data.held_out_classes is usable. `auricle inspect` lists the reasons."
        )


def _settings(recipe: Recipe, index: Index) -> tuple[Recipe, Settings]:
    """How clips are decoded, with the recipe's sample rate, else the one that most clips have, in the recipe too."""
    audio = recipe.audio
    bounds = (audio.channels, audio.min_seconds, audio.max_seconds, audio.num_features)
    rate = audio.sample_rate or most_common_rate(index.clips, FALLBACK_RATE)
    return recipe.replace("audio", sample_rate=rate), Settings(rate, *bounds)
