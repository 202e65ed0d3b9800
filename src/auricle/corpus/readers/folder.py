"""A folder for each class, with train, valid and test folders above or below the classes or with none.

In: any such tree. Out: clips with the folder's name as label. The class is the folder directly below the root (or below
the split); deeper folders do not count, unless `level` says so. Where file names betray who or what was recorded
(speaker, device, source recording), that becomes the group, and `remark` says it.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree, official_fold, recordings
from auricle.errors import DataError, UsageError, unknown

TITLE = "Class folders"
DESCRIBES = "a folder for each class, optionally inside train/, valid/ and test/ (or these inside each class)"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

GROUP_MODES = ("auto", "none")
_NO_CLASS = frozenset(("unlabelled", "unlabeled", "unknown_unlabelled", "unknown_unlabeled", "background_noise"))
# Ways in which corpora write the recorded person or source into a name. `loose` ones are also common for mere counters,
# so that they have to show more.
_RULES = (
    ("the part of the file name before '_nohash_'", re.compile(r"^(.+)_nohash_\d+$"), False),
    (
        "the speaker in the file name",
        re.compile(r"(?:^|[_\-. ])((?:speaker|spkr?|actor|subject|patient|singer|s|p)[_-]?\d+)(?=[_\-. ]|$)", re.I),
        False,
    ),
    ("the number before the first '-' of the file name", re.compile(r"^(\d{4,})-"), False),
    ("the file name's first part", re.compile(r"^([^_\-. ]*[A-Za-z][^_\-. ]*)[_\-. ]"), True),
)


@dataclass(frozen=True)
class _Place:
    """Where a recording lies: the names that its folders give to class and fold."""

    name: str
    label: str
    fold: str | None


def detects(tree: Tree) -> bool:
    """Whether the recordings lie in at least two class folders."""
    places, _ = _places(tree, level=1)
    return len({place.label for place in places}) > 1


def read(tree: Tree, *, level: int = 1, groups: str = "auto") -> Iterator[Clip | Excluded]:
    """Yield the clips of class folders.

    `level` counts folders from the root or split: 1 is the first; -1 is the file's own folder. `groups` "none" infers
    none from file names. Raises UsageError for another mode, DataError when there are no class folders.
    """
    if groups not in GROUP_MODES:
        raise UsageError(unknown("mode of 'groups'", groups, GROUP_MODES))
    places, excluded = _places(tree, level)
    yield from excluded
    if not places:
        raise DataError(_no_classes(tree, level))
    _, found = _grouped(places) if groups == "auto" else ("", {})
    for place in places:
        yield Clip(place.name, tree.source(place.name), place.label, found.get(place.name), place.fold)


def note(tree: Tree, *, level: int = 1, groups: str = "auto") -> str:
    """What was inferred, for people: where groups come from, and that deeper folders did not count."""
    places, _ = _places(tree, level)
    rule, found = _grouped(places) if groups == "auto" else ("", {})
    said = [f"groups are {rule}; set option groups=none if that is wrong"] if found else []
    if level == 1 and any(name.count("/") > 1 + (place.fold is not None) for place in places for name in [place.name]):
        said.append("folders below the class folders do not count; option level=-1 takes the innermost folder as class")
    return "; ".join(said)


def _places(tree: Tree, level: int) -> tuple[list[_Place], list[Excluded]]:
    names, excluded = recordings(tree)
    kept, noise = [], Counter[str]()
    for name in names:
        folder = next(
            (part for part in name.split("/")[:-1] if part.startswith("_") or part.lower() in _NO_CLASS), None
        )
        if folder is None:
            kept.append(name)
        else:
            noise[folder] += 1
    for folder, count in sorted(noise.items()):
        excluded.append(Excluded(f"{folder}/", f"{count} recordings in a folder that is no class, by its name"))
    above = _shared_folders(kept)
    parts = {name: name.split("/")[above:-1] for name in kept}
    fold_at = _fold_level(list(parts.values()))
    places = []
    for name, folders in parts.items():
        fold = official_fold(folders[fold_at]) if fold_at is not None and len(folders) > fold_at else None
        inner = [folder for number, folder in enumerate(folders) if number != fold_at]
        if not inner:
            excluded.append(Excluded(name, "lies beside the class folders"))
        elif len(inner) < level:
            excluded.append(Excluded(name, f"lies above the class folders of level {level}"))
        else:
            places.append(_Place(name, inner[level - 1 if level > 0 else level], fold))
    return places, excluded


def _shared_folders(names: Sequence[str]) -> int:
    """How many outer folders all recordings have in common: files such as a licence may lie outside them."""
    folders = [posixpath.dirname(name).split("/") if "/" in name else [] for name in names]
    # A recording beside the class folders has not to hide what the many share.
    nested = [parts for parts in folders if parts]
    if not nested or len(nested) < 0.9 * len(folders):
        return 0
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == nested[0][shared] for parts in nested):
        shared += 1
    return shared


def _fold_level(folders: Sequence[Sequence[str]]) -> int | None:
    """0 if the outermost folders are train, valid, test; 1 if those below the classes are; None if neither."""
    for level in (0, 1):
        words = [parts[level] if len(parts) > level else "" for parts in folders if parts]
        found = {official_fold(word) for word in words}
        if None not in found and len(found) > 1:
            return level
    return None


def _grouped(places: Sequence[_Place]) -> tuple[str, dict[str, str]]:
    """The first rule that fits every file name and gives plausible groups, and each file's group; else nothing."""
    for said, rule, loose in _RULES:
        found = {}
        for place in places:
            match = rule.search(posixpath.splitext(posixpath.basename(place.name))[0])
            if match is None:
                break
            found[place.name] = match[1]
        if len(found) == len(places) and _is_plausible(places, found, loose):
            return said, found
    return "", {}


def _is_plausible(places: Sequence[_Place], found: dict[str, str], loose: bool) -> bool:
    """Whether groups look like who or what was recorded: a few, of several clips each, and not the classes again.

    A loose rule must also give groups that come back in other classes, with several clips in each: a counter, as in
    dog/001_a.wav and cat/001_a.wav, has but one.
    """
    sizes = Counter(found.values())
    pairs = Counter((place.label, found[place.name]) for place in places)
    several = sum(size > 1 for size in sizes.values())
    classes = {place.label for place in places}
    if not 2 <= len(sizes) <= len(places) / 2 or several < len(sizes) / 2 or len(pairs) == len(sizes) == len(classes):
        return False
    if not loose:
        return True
    classes_of = Counter(group for _, group in pairs)
    return all(count > 1 for count in classes_of.values()) and len(places) >= 2 * len(pairs)


def _no_classes(tree: Tree, level: int) -> str:
    names, _ = recordings(tree)
    example = f", such as '{names[0]}'" if names else ""
    return (
        f"'{tree.location}' has {len(names)} recordings{example}, but no class folders at level {level}. Put each "
        "class in its own folder, or use --reader table (a list of files and labels) or --reader pattern (file names)."
    )
