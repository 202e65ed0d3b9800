"""A folder per class, optionally with train, valid and test folders above or below the classes.

In: any such tree. Out: clips with the folder's name as label. The class is the folder directly below the root (or below
the split); deeper folders do not count, unless `level` selects them. Where file names show who or what was recorded
(speaker, device, source recording), that becomes the group, and `note` reports it.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import audio_files, official_fold
from auricle.corpus.tree import Tree
from auricle.errors import DataError, UsageError, unknown

TITLE = "Class folders"
DESCRIBES = "a folder for each class, optionally inside train/, valid/ and test/ (or these inside each class)"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

GROUP_MODES = ("auto", "none")
_NO_CLASS = frozenset(("unlabelled", "unlabeled", "unknown_unlabelled", "unknown_unlabeled", "background_noise"))
# How corpora write the recorded person or source into a file name. `loose` rules also match counters, so they need more
# evidence.
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
class _Located:
    """A recording with the class and the fold that its folders name."""

    name: str
    label: str
    fold: str | None


def detects(tree: Tree) -> bool:
    """Whether the recordings are in at least two class folders."""
    located, _ = _locate(tree, level=1)
    return len({item.label for item in located}) > 1


def read(tree: Tree, *, level: int = 1, groups: str = "auto") -> Iterator[Clip | Excluded]:
    """Yield the clips of class folders.

    `level` counts folders from the root or split: 1 is the first; -1 is the file's own folder. `groups` "none" disables
    groups from file names. Raises UsageError for another mode, DataError without class folders.
    """
    if groups not in GROUP_MODES:
        raise UsageError(unknown("mode of 'groups'", groups, GROUP_MODES))
    located, excluded = _locate(tree, level)
    yield from excluded
    if not located:
        raise DataError(_no_classes(tree, level))
    _, group_of = _infer_groups(located) if groups == "auto" else ("", {})
    for item in located:
        yield Clip(item.name, tree.source(item.name), item.label, group_of.get(item.name), item.fold)


def note(tree: Tree, *, level: int = 1, groups: str = "auto") -> str:
    """What was inferred: where groups come from, and that deeper folders do not count."""
    located, _ = _locate(tree, level)
    rule, group_of = _infer_groups(located) if groups == "auto" else ("", {})
    notes = [f"groups are {rule}; if that is wrong, `--set data.reader_options.groups=none`"] if group_of else []
    if level == 1 and any(item.name.count("/") > 1 + (item.fold is not None) for item in located):
        notes.append(
            "folders below the class folders do not count; `--set data.reader_options.level=-1` uses the innermost "
            "folder as class"
        )
    return "; ".join(notes)


def _locate(tree: Tree, level: int) -> tuple[list[_Located], list[Excluded]]:
    names, excluded = audio_files(tree)
    candidates, noise = [], Counter[str]()
    for name in names:
        folder = next(
            (part for part in name.split("/")[:-1] if part.startswith("_") or part.lower() in _NO_CLASS), None
        )
        if folder is None:
            candidates.append(name)
        else:
            noise[folder] += 1
    for folder, count in sorted(noise.items()):
        excluded.append(Excluded(f"{folder}/", f"{count} recordings in a folder that is not a class, by its name"))
    above = _shared_folders(candidates)
    parts = {name: name.split("/")[above:-1] for name in candidates}
    fold_at = _fold_level(list(parts.values()))
    located = []
    for name, folders in parts.items():
        fold = official_fold(folders[fold_at]) if fold_at is not None and len(folders) > fold_at else None
        inner = [folder for number, folder in enumerate(folders) if number != fold_at]
        if not inner:
            excluded.append(Excluded(name, "outside the class folders"))
        elif len(inner) < level:
            excluded.append(Excluded(name, f"above the class folders of level {level}"))
        else:
            located.append(_Located(name, inner[level - 1 if level > 0 else level], fold))
    return located, excluded


def _shared_folders(names: Sequence[str]) -> int:
    """How many outer folders all recordings share; other files, such as a licence, may be outside them."""
    folders = [posixpath.dirname(name).split("/") if "/" in name else [] for name in names]
    # A stray recording outside the class folders must not hide what the others share.
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
        folds = {official_fold(word) for word in words}
        if None not in folds and len(folds) > 1:
            return level
    return None


def _infer_groups(located: Sequence[_Located]) -> tuple[str, dict[str, str]]:
    """The first rule that matches every file name with plausible groups, and each file's group; else nothing."""
    for description, rule, loose in _RULES:
        groups = {}
        for item in located:
            match = rule.search(posixpath.splitext(posixpath.basename(item.name))[0])
            if match is None:
                break
            groups[item.name] = match[1]
        if len(groups) == len(located) and _is_plausible(located, groups, loose):
            return description, groups
    return "", {}


def _is_plausible(located: Sequence[_Located], groups: dict[str, str], loose: bool) -> bool:
    """Whether groups look like who or what was recorded: a few, of several clips each, and not the classes again.

    Groups of a loose rule must also occur in other classes, with several clips in each: a counter, as in dog/001_a.wav
    and cat/001_a.wav, has only one.
    """
    sizes = Counter(groups.values())
    pairs = Counter((item.label, groups[item.name]) for item in located)
    several = sum(size > 1 for size in sizes.values())
    classes = {item.label for item in located}
    if not 2 <= len(sizes) <= len(located) / 2 or several < len(sizes) / 2 or len(pairs) == len(sizes) == len(classes):
        return False
    if not loose:
        return True
    classes_of = Counter(group for _, group in pairs)
    return all(count > 1 for count in classes_of.values()) and len(located) >= 2 * len(pairs)


def _no_classes(tree: Tree, level: int) -> str:
    names, _ = audio_files(tree)
    example = f", such as '{names[0]}'" if names else ""
    return (
        f"'{tree.location}' has {len(names)} recordings{example}, but no class folders at level {level}. Put "
        "each class in its own folder, or use `--reader table` (files and labels) or `--reader pattern` (file names)."
    )
