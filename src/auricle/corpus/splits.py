"""Training, validation and test parts that no group crosses.

In: an Index, the recipe's data section, and sets of duplicate clips. Out: a Split of one or more folds, saved as JSON
by clip id and checked whenever it is loaded. Clips are assigned in units (a group, or a set of duplicates) so that each
part gets its share of every class.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from auricle.corpus.assignment import assign_stratified, units_of
from auricle.corpus.clip import Clip, Index
from auricle.corpus.split_kinds import (
    KINDS,
    check_kind,
    check_own_folds,
    many_trainings,
    unused_shares,
    without_own_parts,
)
from auricle.errors import DataError, UsageError
from auricle.recipe import Data, exclude_option
from auricle.run_folder import write_json

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Fold:
    """The clip ids of one training and its test. `valid` may be empty: then the last epoch is used."""

    name: str
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """How a corpus is divided, in words and in ids. With `grouped`, no group crosses from training to test."""

    kind: str
    description: str
    grouped: bool
    folds: tuple[Fold, ...]
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


def make(
    index: Index, data: Data, duplicate_groups: Iterable[Iterable[str]] = (), quarantined: Collection[str] = ()
) -> Split:
    """Divide a corpus as the recipe's data section names it.

    `index` holds the usable clips; a split file may also name `quarantined` ids, which are skipped. `duplicate_groups`
    holds sets of ids of near or exact duplicates: those without a group stay on one side; those of several groups are
    not trained on where one is tested. Raises UsageError for an unknown split, DataError for one that this corpus does
    not allow.
    """
    check_kind(data)
    kind = data.split
    if kind.endswith(".json"):
        return load(Path(kind), index, quarantined)
    together = [set(ids) for ids in duplicate_groups]
    named = {clip.fold for clip in index if clip.fold is not None}
    is_single = bool(named) and len({clip.fold or "train" for clip in index}) == 1
    divisible, reason = _divisible(index), ""
    if kind == "auto" and named and not is_single:
        kind = "predefined"
    elif kind == "auto":
        kind, reason = without_own_parts(divisible, data, len(units_of(list(divisible), together)), _units_name(index))
    if kind == "predefined":
        split = _predefined(index, data, together)
    elif kind == "leave-one-group-out":
        split = _leave_one_group_out(index, data, together)
    elif kind == "folds":
        split = _folds(divisible, data, together)
    elif kind == "random":
        split = _random(index, data)
    else:
        split = _holdout(divisible, data, together)
    if kind not in ("predefined", "random"):
        split = drop_test_duplicates(split, together)
    _check(split, index)
    notes = [*split.notes, *_group_notes(index, split), *_class_notes(index, split)]
    notes += many_trainings(kind, len(split.folds), _units_name(index))
    if is_single and split.kind != "predefined":
        notes.insert(0, f"The corpus has a '{min(named)}' part only, so the other parts are made from it.")
    if split.kind == "predefined":
        notes += unused_shares(data, own_validation="valid" in named)
    return replace(split, description=split.description + reason, notes=tuple(notes))


def _divisible(index: Index) -> Index:
    """The same corpus without groups that a split cannot keep apart: a single one, or one for each class."""
    if len({clip.group for clip in index}) > 1 and not _coincide(index):
        return index
    return replace(index, clips=tuple(replace(clip, group=None) for clip in index))


def _coincide(index: Index) -> bool:
    """Whether each class has one group of its own."""
    groups = {clip.group for clip in index}
    return len({(clip.group, clip.label) for clip in index}) == len(groups) == len(index.labels)


def _units_name(index: Index) -> str:
    """What a split divides: groups, or single clips where there are none."""
    return f"{index.group_name}s" if index.has_groups else "clips"


def _group_notes(index: Index, split: Split) -> list[str]:
    """What the groups leave open: clips without one, a single one, or one for each class."""
    groups = {clip.group for clip in index if clip.group is not None}
    if not groups:
        return []
    notes = []
    if missing := sum(clip.group is None for clip in index):
        left = split.kind == "leave-one-group-out"
        counts = "they are trained on and never tested" if left else "each counts as a group of its own"
        notes.append(f"{missing} clips without a {index.group_name}: {counts}.")
    if len(groups) == 1:
        notes.append(
            f"All clips are of one {index.group_name}, '{min(groups)}': the figures cannot tell how well the model "
            "does on others."
        )
    elif _coincide(index):
        notes.append(
            f"Each class has one {index.group_name} of its own, so the figures cannot tell the classes from the "
            f"{index.group_name}s."
        )
    return notes


def _class_notes(index: Index, split: Split) -> list[str]:
    """Classes that a fold tests without training on them, or that no fold tests."""
    label_of = {clip.id: clip.label for clip in index}
    untrained, tested = dict[str, int](), set[str]()
    for fold in split.folds:
        in_test = {label_of[id] for id in fold.test}
        tested |= in_test
        for label in in_test - {label_of[id] for id in fold.train}:
            untrained[label] = untrained.get(label, 0) + 1
    notes = []
    if untrained:
        names = ", ".join(f"'{label}'" for label in sorted(untrained)[:5]) + (" …" if len(untrained) > 5 else "")
        folds = f" in {max(untrained.values())} of {len(split.folds)} folds" if len(split.folds) > 1 else ""
        notes.append(
            f"Tested{folds} but not trained on: {names}. The model cannot recognise them, and they count as errors."
        )
    trained = {label_of[id] for fold in split.folds for id in fold.train}
    if never := sorted(set(index.labels) - tested - trained):
        names = ", ".join(f"'{label}'" for label in never[:5]) + (" …" if len(never) > 5 else "")
        notes.append(f"Neither trained nor tested on: {names}. {exclude_option(never)} leaves them out.")
    if missing := sorted((set(index.labels) - tested) & trained):
        names = ", ".join(f"'{label}'" for label in missing[:5]) + (" …" if len(missing) > 5 else "")
        notes.append(f"Not in the test part: {names}. The figures say nothing about them.")
    return notes


def drop_test_duplicates(split: Split, duplicate_groups: list[set[str]]) -> Split:
    """Drop training clips with the same audio as a test clip of another group, and note how many."""
    folds, most = [], 0
    for fold in split.folds:
        tested = {id for ids in duplicate_groups if ids & set(fold.test) for id in ids}
        chosen = {id for ids in duplicate_groups if ids & set(fold.valid) for id in ids}
        train = tuple(id for id in fold.train if id not in tested | chosen)
        valid = tuple(id for id in fold.valid if id not in tested)
        most = max(most, len(fold.train) - len(train) + len(fold.valid) - len(valid))
        folds.append(replace(fold, train=train, valid=valid))
    if not most:
        return split
    note = f"Up to {most} clips per fold are not trained on, because a clip of another group has the same audio."
    return replace(split, folds=tuple(folds), notes=(*split.notes, note))


def all_clips(index: Index, data: Data, duplicate_groups: Iterable[Iterable[str]]) -> Fold:
    """All clips for training and validation, and none for testing: the fold of the final model after several folds."""
    train, valid = split_validation(list(index), data, [set(ids) for ids in duplicate_groups])
    return Fold("all", _ids(train), _ids(valid), ())


def ungrouped(index: Index, data: Data, duplicate_groups: Iterable[Iterable[str]], folds: int = 5) -> list[Fold]:
    """Folds that ignore groups: every clip is tested once by a model trained on its group but not on the clip."""
    units = units_of([replace(clip, group=None) for clip in index], [set(ids) for ids in duplicate_groups])
    folds = min(folds, len(units))
    parts = assign_stratified(units, (1 / folds,) * folds, data.seed, needed=range(folds))
    return [
        Fold(str(number), _ids(clip for other in parts if other is not part for clip in other), (), _ids(part))
        for number, part in enumerate(parts, start=1)
    ]


def load(path: Path, index: Index, quarantined: Collection[str] = ()) -> Split:
    """Read a split that `Split.save` wrote, or one written by hand, and check it against the corpus for leaks."""
    if not path.is_file():
        raise UsageError(f"No split file at '{path}'. Give a JSON file, or one of: {', '.join(KINDS)}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        folds = tuple(
            Fold(str(fold.get("name", number)), *(_usable(fold.get(part, ()), quarantined) for part in PARTS))
            for number, fold in enumerate(content["folds"], start=1)
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'\'{path}\' is not a split file ({error}). It needs {{"folds": [{{"train": [ids], "valid": [ids], '
            '"test": [ids]}]}, with the clip ids that `auricle inspect --json` lists.'
        ) from error
    crossing = max((len(crossing_groups(index, fold)) for fold in folds), default=0)
    notes = [f"{crossing} {index.group_name}s are on both sides of this split."] if crossing else []
    description = str(content.get("description") or f"the split in {path.name}")
    grouped = index.has_groups and not crossing
    split = Split(str(content.get("kind", "file")), description, grouped, folds)
    _check(split, index)
    used = {id for fold in folds for part in (fold.train, fold.valid, fold.test) for id in part}
    if left := [clip.id for clip in index if clip.id not in used]:
        notes.append(f"{len(left)} clips are in no part of this split, such as '{left[0]}': they are used nowhere.")
    notes += _class_notes(index, split)
    return replace(split, notes=tuple(dict.fromkeys((*content.get("notes", ()), *notes))))


def crossing_groups(index: Index, fold: Fold) -> set[str]:
    """The groups with clips both in test and in what the model was trained or chosen on."""
    group_of = {clip.id: clip.group for clip in index}
    seen = {group_of.get(id) for id in (*fold.train, *fold.valid)}
    return {group for id in fold.test if (group := group_of.get(id)) is not None and group in seen}


def _predefined(index: Index, data: Data, duplicate_groups: list[set[str]]) -> Split:
    if not index.has_folds:
        raise DataError(
            f"'{index.origin}' has no folds or split of its own. Use `--split holdout`, or `--folds {data.folds}`."
        )
    by_fold: dict[str, list[Clip]] = defaultdict(list)
    for clip in index:
        by_fold[clip.fold or "train"].append(clip)
    if "test" in by_fold or set(by_fold) == {"train", "valid"}:
        return _predefined_holdout(index, data, duplicate_groups, by_fold)
    check_own_folds({clip.fold for clip in index if clip.fold}, len(index), data)
    folds = []
    for name in sorted({clip.fold for clip in index if clip.fold}, key=lambda name: (len(name), name)):
        rest = [clip for other, clips in by_fold.items() if other != name for clip in clips]
        train, valid = split_validation(rest, data, duplicate_groups)
        folds.append(Fold(name, _ids(train), _ids(valid), _ids(by_fold[name])))
    description = f"the corpus' own {len(folds)} folds, each tested once by a model trained on the others"
    crossing = sum(len(crossing_groups(index, fold)) for fold in folds)
    notes = [f"{crossing} {index.group_name}s cross the corpus' own folds."] if crossing else []
    if blank := sum(clip.fold is None for clip in index):
        notes.append(f"{blank} clips are in none of the corpus' own folds: they are trained on and never tested.")
    return Split("predefined", description, index.has_groups and not crossing, tuple(folds), tuple(notes))


def _predefined_holdout(
    index: Index, data: Data, duplicate_groups: list[set[str]], by_fold: dict[str, list[Clip]]
) -> Split:
    if not by_fold.get("train"):
        raise DataError(
            f"'{index.origin}' has the parts {', '.join(sorted(by_fold))} and none to train on. `--split holdout` "
            "divides all clips again."
        )
    test = by_fold.get("test") or by_fold["valid"]
    valid = by_fold.get("valid", []) if "test" in by_fold else []
    train = by_fold.get("train", [])
    description = "the corpus' own training and test parts"
    if "test" not in by_fold:
        description = "the corpus' own training and validation parts; it has no test part, so validation is the test"
    if valid:
        description = "the corpus' own training, validation and test parts"
    else:
        train, valid = split_validation(train, data, duplicate_groups)
    fold = Fold("test", _ids(train), _ids(valid), _ids(test))
    crossing = crossing_groups(index, fold)
    notes = [f"{len(crossing)} {index.group_name}s are on both sides of the corpus' own split."] if crossing else []
    if blank := sum(clip.fold is None for clip in index):
        notes.append(f"{blank} clips are in no part of the corpus' own split: they are trained on.")
    for name in sorted(set(by_fold) - set(PARTS)):
        notes.append(
            f"The part '{name}' ({len(by_fold[name])} clips) is neither trained nor tested on. `--split holdout` "
            "or `--split folds` divides all clips again."
        )
    return Split("predefined", description, index.has_groups and not crossing, (fold,), tuple(notes))


def _holdout(index: Index, data: Data, duplicate_groups: list[set[str]]) -> Split:
    fold, sizes = _three_parts(units_of(list(index), duplicate_groups), data)
    grouped = f"grouped by {index.group_name} and " if index.has_groups else ""
    description = f"{grouped}stratified by class: {sizes}"
    notes = () if fold.valid or not data.validation_size else (f"Too few {_units_name(index)} for a validation part.",)
    return Split("holdout", description, index.has_groups, (fold,), notes)


def _folds(index: Index, data: Data, duplicate_groups: list[set[str]]) -> Split:
    units = units_of(list(index), duplicate_groups)
    if len(units) < data.folds:
        raise DataError(
            f"{data.folds} folds need as many {_units_name(index)}, and there are {len(units)}. Use fewer: `--folds "
            f"{max(2, len(units))}`."
        )
    parts = assign_stratified(units, (1 / data.folds,) * data.folds, data.seed, needed=range(data.folds))
    folds = []
    for number, test in enumerate(parts):
        train, valid = split_validation(
            [clip for other in parts if other is not test for clip in other], data, duplicate_groups
        )
        folds.append(Fold(str(number + 1), _ids(train), _ids(valid), _ids(test)))
    by = f"grouped by {index.group_name} and stratified" if index.has_groups else "stratified"
    return Split("folds", f"{data.folds} folds, {by} by class", index.has_groups, tuple(folds))


def _leave_one_group_out(index: Index, data: Data, duplicate_groups: list[set[str]]) -> Split:
    groups = sorted({clip.group for clip in index if clip.group is not None})
    if len(groups) < 2:
        raise DataError(
            f"Leaving one group out needs two {index.group_name}s or more, and '{index.origin}' has {len(groups)}. "
            "Name the field that holds them: `--group FIELD`, such as a column, folder:1 or name:1."
        )
    folds = []
    for group in groups:
        test = [clip for clip in index if clip.group == group]
        train, valid = split_validation([clip for clip in index if clip.group != group], data, duplicate_groups)
        folds.append(Fold(group, _ids(train), _ids(valid), _ids(test)))
    description = f"leave one {index.group_name} out: {len(groups)} folds, each tested by a model not trained on it"
    return Split("leave-one-group-out", description, True, tuple(folds))


def _random(index: Index, data: Data) -> Split:
    fold, sizes = _three_parts([[clip] for clip in index], data)
    description = f"random, stratified by class, groups ignored: {sizes}"
    crossing = crossing_groups(index, fold)
    notes: tuple[str, ...] = ()
    if crossing:
        total = len({clip.group for clip in index})
        notes = (
            f"data.split=random ignores groups: {len(crossing)} of {total} {index.group_name}s are on both sides, so "
            f"the figures hold for these {index.group_name}s and are too high for new ones.",
        )
    return Split("random", description, False, (fold,), notes)


def _three_parts(units: Sequence[Sequence[Clip]], data: Data) -> tuple[Fold, str]:
    """One fold of training, validation and test clips, and its sizes in words."""
    shares = (1 - data.validation_size - data.test_size, data.validation_size, data.test_size)
    if shares[0] < 1e-9:
        raise UsageError(
            f"data.validation_size {data.validation_size:g} and data.test_size {data.test_size:g} leave nothing to "
            f"train on. Lower one of them: `--test {max(0.01, 0.8 - data.validation_size):g}`."
        )
    parts = assign_stratified(units, shares, data.seed, needed=(0, 2))
    sizes = " / ".join(str(len(part)) for part in parts)
    return Fold("test", *(_ids(part) for part in parts)), f"{sizes} clips to train / validate / test"


def split_validation(clips: list[Clip], data: Data, duplicate_groups: list[set[str]]) -> tuple[list[Clip], list[Clip]]:
    """Split a validation share off training clips, by whole units."""
    if not data.validation_size:
        return clips, []
    train, valid = assign_stratified(
        units_of(clips, duplicate_groups), (1 - data.validation_size, data.validation_size), data.seed, needed=(0,)
    )
    return train, valid


def _usable(ids: Iterable[object], quarantined: Collection[str]) -> tuple[str, ...]:
    return tuple(id for id in map(str, ids) if id not in quarantined)


def _ids(clips: Iterable[Clip]) -> tuple[str, ...]:
    return tuple(sorted(clip.id for clip in clips))


def _check(split: Split, index: Index) -> None:
    """Refuse a split with unknown or repeated clips, empty parts, or fewer than two classes to train on."""
    label_of = {clip.id: clip.label for clip in index}
    groups = f" in {len({clip.group for clip in index})} {index.group_name}s" if index.has_groups else ""
    if not split.folds:
        raise DataError("The split has no folds. It needs at least one with training and test clips.")
    for fold in split.folds:
        ids = [*fold.train, *fold.valid, *fold.test]
        repeated = [id for id, count in Counter(ids).items() if count > 1]
        if repeated:
            raise DataError(f"Fold '{fold.name}': clip '{repeated[0]}' is in more than one part. Put it in one.")
        unknown_ids = [id for id in ids if id not in label_of]
        if unknown_ids:
            raise DataError(
                f"Fold '{fold.name}' names clip '{unknown_ids[0]}', which the usable corpus does not hold "
                f"({len(unknown_ids)} such). Make the split again, or correct the file."
            )
        for part in ("train", "test"):
            if not getattr(fold, part):
                raise DataError(
                    f"Fold '{fold.name}' has no {part} clips: {len(label_of)} usable clips{groups} cannot be divided "
                    "like this. Add recordings, or divide them otherwise: `--split holdout --test 0.2`."
                )
        if len({label_of[id] for id in fold.train}) < 2:
            raise DataError(f"Fold '{fold.name}' trains on fewer than two classes. Divide again: `--split holdout`.")
