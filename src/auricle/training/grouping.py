"""Which clips belong together: decided by how they sound, before the corpus is divided.

In: a decoded corpus. Out: its index with groups, what a split is worth with and without them, and one sentence of both.
The vectors are the instant baseline's, which a run needs anyway; of a large corpus a stratified sample is measured.
Torch is imported when vectors are needed: without it `inspect` reports everything else.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from auricle.audio.continuity import measure_continuity
from auricle.corpus import structure
from auricle.corpus.clip import Index
from auricle.corpus.pieces import find_pieces
from auricle.corpus.read import UNGROUPED, paths
from auricle.corpus.split_kinds import check_kind
from auricle.corpus.structure import Field
from auricle.errors import DataError, UsageError
from auricle.evaluation.leakage import HeldOutFit, Leakage, choose_group, measure
from auricle.parallel import Progress
from auricle.preparation.formatting import percent
from auricle.preparation.inspection import Inspection
from auricle.preparation.prepare import PreparedCorpus, decode, divide, for_corpus, read, usable_clips
from auricle.preparation.prepare import inspect as audit_clips
from auricle.recipe import Model, Recipe

SAMPLE_CLIPS = 2000
# With fewer clips no field could be told from chance.
MIN_CLIPS = 24


@dataclass(frozen=True)
class Grouping:
    """An index with its groups, the evidence for them (None where nothing could be measured), and a sentence."""

    index: Index
    evidence: Leakage | None
    message: str


def inspect(data: str | Path, recipe: Recipe, progress: Progress, *, evidence: bool = True) -> Inspection:
    """Report what `train` would read, audit and split. Without `evidence`, groups are those that the corpus names."""
    check_kind(recipe.data)
    index = read(data, recipe)
    recipe = for_corpus(recipe, index)
    audit = audit_clips(index, recipe, progress)
    usable, _ = usable_clips(index, audit, recipe)
    grouping = Grouping(index, None, "")
    if evidence and len(usable.labels) > 1:
        try:
            sample = _sample(usable, recipe.data.seed)
            decoded = decode(sample, recipe.replace("data", strict=False, held_out_classes=[]), progress)
            grouping = decide_groups(decoded, index)
        except DataError as error:
            grouping = Grouping(index, None, f"Groups could not be examined: {error}")
        except ModuleNotFoundError:
            grouping = Grouping(index, None, _NO_TORCH)
    try:
        split, audit = divide(grouping.index, audit, recipe)
    except (DataError, UsageError) as error:
        return Inspection(grouping.index, audit, None, str(error), grouping.message)
    return Inspection(grouping.index, audit, split, "", grouping.message)


def decide_groups(corpus: PreparedCorpus, index: Index | None = None) -> Grouping:
    """Measure the fields of a decoded corpus and take the one that gives the class away as the group; else the
    recordings that files are pieces of, where one goes on where another ends.

    Groups that the corpus, its layout or the user named are kept and measured. `index` holds all clips where the corpus
    is a sample of them.
    """
    index = index or corpus.index
    sample = _sample(corpus.usable, corpus.recipe.data.seed)
    by_field = _by_field(corpus, sample, index)
    pieces = None if index.has_groups else _by_pieces(corpus, sample, index)
    if pieces is None:
        return by_field
    if corpus.recipe.data.group == UNGROUPED:
        return replace(by_field, message=f"{by_field.message} {pieces.message}".lstrip())
    pairs = {(piece.group, clip.group) for piece, clip in zip(pieces.index, by_field.index, strict=True) if piece.group}
    together = len(pairs) == len({group for group, _ in pairs})
    return by_field if by_field.index.has_groups and together else pieces


def _by_pieces(corpus: PreparedCorpus, sample: Index, index: Index) -> Grouping | None:
    """Groups of files that are pieces of one recording, by their running numbers and their sound; None for none."""
    clips = list(sample)
    if index.num_features is not None or any((clip.start, clip.end) != (None, None) for clip in index):
        return None
    found = find_pieces([clip.id for clip in clips])
    audio = corpus.audio([clip.id for clip in clips])
    continuity = measure_continuity(audio.get, found.neighbours, found.others, corpus.recipe.data.seed)
    if not continuity.is_certain:
        return None
    stems = find_pieces([clip.id for clip in index]).stems
    grouped = tuple(replace(clip, group=stem) for clip, stem in zip(index, stems, strict=True))
    fit = (
        f"a file continues the one with the number before it, better than {percent(continuity.rank)} of other files "
        "would (50 % if they were unrelated), so they are pieces of one recording"
    )
    if corpus.recipe.data.group == UNGROUPED:
        message = f"By their sound, {fit}, and pieces are on both sides: `--group FIELD` keeps them together."
        return Grouping(index, None, message)
    message = (
        f"Groups: the recording, which is the file name without its last number ({len(set(stems))} values such as "
        f"'{stems[0]}'): {fit}. `--group none` or `--group FIELD` overrides."
    )
    return Grouping(replace(index, clips=grouped, group_name="recording"), None, message)


def _by_field(corpus: PreparedCorpus, sample: Index, index: Index) -> Grouping:
    known = index.has_groups
    if len(sample) < MIN_CLIPS:
        return Grouping(index, None, "" if known else _too_few(len(sample)))
    fields = _known_field(sample) if known else _candidates(sample)
    if not fields:
        return Grouping(index, None, "" if known else _NO_FIELDS)
    vectors = _vectors(corpus, sample)
    fit = HeldOutFit(vectors, corpus.classes([clip.id for clip in sample]))
    measured = [measure(fit, field, corpus.recipe.data.seed) for field in fields]
    if known:
        return Grouping(index, measured[0], _known_message(measured[0], index.group_name))
    chosen = choose_group(measured, fields)
    if corpus.recipe.data.group == UNGROUPED:
        return Grouping(index, chosen, _ignored_message(chosen))
    if chosen is None:
        conditions = [leakage for leakage in measured if leakage.leaks]
        return Grouping(index, None, _no_group_message(fields, conditions))
    grouped = _with_groups(index, chosen.key)
    return Grouping(grouped, chosen, _chosen_message(chosen, measured, grouped))


def _sample(usable: Index, seed: int) -> Index:
    if len(usable) <= SAMPLE_CLIPS:
        return usable
    from auricle.models.features.ridge import subsample

    numbers = np.unique([clip.label for clip in usable], return_inverse=True)[1]
    rows = set(subsample(numbers, SAMPLE_CLIPS, seed).tolist())
    return usable.select([row in rows for row in range(len(usable))])


def _candidates(index: Index) -> list[Field]:
    clips = list(index)
    columns = {
        name: [clip.meta.get(name, "") for clip in clips]
        for name in sorted({key for clip in clips for key in clip.meta})
    }
    return structure.group_fields(paths(clips), columns, [clip.label for clip in clips])


def _known_field(index: Index) -> list[Field]:
    """The corpus's own groups as a field, where there are several, of several clips, and not one for each class."""
    field = Field("group", index.group_name, tuple(clip.group or "" for clip in index))
    label = Field("label", "class", tuple(clip.label for clip in index))
    coincide = field.determines(label) and label.determines(field)
    return [field] if 1 < len(field.counts) < 0.9 * len(index) and not coincide else []


def _vectors(corpus: PreparedCorpus, sample: Index) -> np.ndarray:
    from auricle.models.load import build_model
    from auricle.training.embeddings import embed_clips

    recipe = corpus.recipe.model_copy(update={"model": Model(family="baseline")})
    # A run of the baseline reads the same vectors again.
    centers = corpus.recipe.model.family == recipe.model.family
    embeddings = embed_clips(corpus, build_model(recipe, corpus.labels), centers=centers)
    return embeddings.of([clip.id for clip in sample]).everything()


def _with_groups(index: Index, key: str) -> Index:
    clips = list(index)
    if key.startswith("column:"):
        values = [clip.meta.get(key.removeprefix("column:"), "") for clip in clips]
    else:
        values = list(structure.field(paths(clips), key).values)
    grouped = tuple(replace(clip, group=value or None) for clip, value in zip(clips, values, strict=True))
    name = key.removeprefix("column:") if key.startswith("column:") else index.group_name
    return replace(index, clips=grouped, group_name=name)


def _chosen_message(chosen: Leakage, measured: list[Leakage], grouped: Index) -> str:
    example = next(clip.group for clip in grouped if clip.group)
    others = [item for item in measured if item.leaks and item.key != chosen.key]
    override = f" or `--group {others[0].key}`" if others else " or `--group FIELD`"
    return (
        f"Groups: {chosen.description}, {chosen.key} ({chosen.values} values such as '{example}'). With "
        f"them on both sides a split reports {percent(chosen.random_accuracy)}, kept apart "
        f"{percent(chosen.grouped_accuracy)} (instant baseline). `--group none`{override} overrides."
    )


def _known_message(measured: Leakage, name: str) -> str:
    low, high = measured.difference.low, measured.difference.high
    return (
        f"With the same {name}s on both sides a split reports {percent(measured.random_accuracy)}, kept apart "
        f"{percent(measured.grouped_accuracy)} (instant baseline; {100 * low:.1f} to {100 * high:.1f} points)."
    )


def _ignored_message(chosen: Leakage | None) -> str:
    if chosen is None:
        return "Groups are ignored, as data.group is none; no field of names and tables gives the class away."
    return (
        f"Groups are ignored, as data.group is none, although {chosen.description} gives the class away: the "
        f"figures are too high for new ones (instant baseline: {percent(chosen.random_accuracy)} with its values on "
        f"both sides, {percent(chosen.grouped_accuracy)} with them kept apart: `--group {chosen.key}`)."
    )


_NO_TORCH = "Groups were not examined, which needs PyTorch: pip install 'auricle[train]'."
_NO_FIELDS = (
    "No groups: names and tables hold no field that could tell which clips belong together. If speakers, devices or "
    "recordings have several clips, name them: `--group FIELD`, or a column of metadata.csv."
)


def _no_group_message(fields: list[Field], conditions: list[Leakage]) -> str:
    listed = ", ".join(field.key for field in fields[:6]) + (" …" if len(fields) > 6 else "")
    also = "".join(
        f" {item.description} ({item.values} values) is a condition that changes the sound, too few to keep apart."
        for item in conditions
    )
    return (
        f"No groups: keeping the values of a field together costs no accuracy (examined: {listed}).{also} If speakers, "
        "devices or recordings have several clips, name them: `--group FIELD`."
    )


def _too_few(clips: int) -> str:
    return (
        f"No groups: {clips} clips are too few to see whether a field gives the class away. If speakers, devices or "
        "recordings have several clips, name them: `--group FIELD`."
    )
