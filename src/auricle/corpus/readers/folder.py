"""Recordings whose folders or file names hold the class, optionally with train, valid and test folders.

In: any tree. Out: clips with one field of their paths as label: the folder level or the part of the file name that
`structure.find_classes` recognises, or the one that the option `label` names. Every folder is a class, whatever it is
called. Groups are not read from names: they are decided by evidence, when the recordings have been decoded.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auricle.corpus import structure
from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import audio_files, official_fold, split_folder
from auricle.corpus.readings import Corpus
from auricle.corpus.structure import Field
from auricle.corpus.tree import Tree, is_audio
from auricle.errors import DataError
from auricle.recipe import exclude_option

TITLE = "Class folders"
DESCRIBES = "a folder for each class, or classes in the file names, optionally inside train/, valid/ and test/"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

# Names that may be meant as no class: they are read as classes, and that is said.
_DOUBTFUL = ("unlabelled", "unlabeled", "unknown", "background", "background_noise", "noise", "other")


@dataclass(frozen=True)
class _Layout:
    """Paths below the wrapper folders, the folds and labels that they name, why this label, and folders without
    recordings where others are classes.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    folds: tuple[str | None, ...]
    label: Field
    reason: str
    empty: tuple[str, ...]


def detects(tree: Tree) -> bool:
    """Whether there are recordings: an unclear layout is an error of reading, with the readings that are possible."""
    return bool(audio_files(tree)[0])


def read(tree: Tree, *, label: str | None = None) -> Iterator[Clip | Excluded]:
    """Yield the clips; `label` names a field of the paths, such as folder:2 or name:1.

    Raises UsageError for a field that no file has, DataError where it is not clear what the classes are.
    """
    layout, excluded = _layout(tree, label)
    yield from excluded
    for name, path, fold, value in zip(layout.names, layout.paths, layout.folds, layout.label.values, strict=True):
        if value:
            yield Clip(name, tree.source(name), value, None, fold)
        else:
            inside = f" in the part '{path.split('/')[0]}'" if fold else ""
            move = "; move it into the folder of its class" if layout.label.is_folder and not fold else ""
            yield Excluded(name, f"no class: it has no {layout.label.key}{inside}{move}")


def note(tree: Tree, *, label: str | None = None) -> str:
    """What holds the class and why, and classes whose names may mean that they are none."""
    layout, _ = _layout(tree, label)
    notes = [f"classes are {layout.reason}"] if layout.reason else []
    notes += [*(_merged(layout) if label is None else []), *_other_names(layout)]
    if layout.empty:
        verbs = ("holds", "is") if len(layout.empty) == 1 else ("hold", "are")
        notes.append(f"{_quoted(layout.empty)} {verbs[0]} no recordings and {verbs[1]} left out")
    doubtful = [
        value for value in sorted(layout.label.counts) if value.startswith(("_", "-")) or value.lower() in _DOUBTFUL
    ]
    if doubtful:
        quoted = ", ".join(f"'{value}'" for value in doubtful)
        notes.append(f"{quoted} counted as classes; {exclude_option(doubtful)} leaves them out")
    return "; ".join(notes)


def _merged(layout: _Layout) -> list[str]:
    """Classes that hold folders where others hold recordings: these may be classes too."""
    if not layout.label.is_folder:
        return []
    own = structure.field(layout.paths, "folder:-1")
    pairs = set(zip(layout.label.values, own.values, strict=True))
    inside: dict[str, list[str]] = {}
    for value, folder in sorted(pairs):
        if value and folder != value:
            inside.setdefault(value, []).append(folder)
    if not inside or len(inside) == len(layout.label.counts):
        return []
    value, folders = next(iter(inside.items()))
    listed = ", ".join(f"'{folder}'" for folder in folders[:3]) + (" …" if len(folders) > 3 else "")
    return [f"'{value}' is one class with all its folders ({listed}); `--label folder:-1` makes each folder a class"]


def _other_names(layout: _Layout) -> list[str]:
    """Recordings in a class folder whose name holds another class and not their own."""
    if not layout.label.is_folder:
        return []
    words = {value.casefold() for value in layout.label.counts if len(value) > 2 and value.isalpha()}
    parts = [set(re.split(r"[\W\d_]+", posixpath.basename(path).casefold())) for path in layout.paths]
    other = [
        name
        for name, value, own in zip(layout.names, layout.label.values, parts, strict=True)
        if value and own & words and value.casefold() not in own
    ]
    if not other or 2 * len(other) > len(layout.paths):
        return []
    is_one = len(other) == 1
    return [
        f"{len(other)} recording{' is' if is_one else 's are'} named like another class than "
        f"{'its' if is_one else 'their'} folder, such as '{other[0]}'; `auricle listen` plays and corrects them"
    ]


def _layout(tree: Tree, label: str | None) -> tuple[_Layout, list[Excluded]]:
    names, excluded = audio_files(tree)
    if not names:
        why = "".join(f" '{item.name}' is {item.reason}." for item in excluded[-1:])
        raise DataError(f"'{tree.location}' has no recordings among {len(tree.names)} files.{why}")
    wrappers, strays = structure.wrapper_folders(names)
    excluded += [Excluded(name, "outside the class folders; move it into one of them") for name in strays]
    names = [name for name in names if name not in strays]
    paths = ["/".join(name.split("/")[wrappers:]) for name in names]
    inside = (tree.prefix + "/".join(names[0].split("/")[:wrappers])).strip("/")
    split = _split_level(paths)
    folds = [split_folder(value) or value or None for value in split.values] if split else [None] * len(paths)
    reason = ""
    if label is None:
        # A test part without labels must not hide what holds the class in the others.
        labelled = [path for path, fold in zip(paths, folds, strict=True) if fold == "train"] or paths
        beside = _empty_folders(tree, posixpath.dirname(inside), "folder:1", set())
        about = Corpus(tree.location, posixpath.basename(inside), _quoted(beside))
        chosen = structure.find_classes(labelled, about, split.key if split else None)
        label, reason = chosen.field.key, chosen.reason
    field = structure.field(paths, label)
    empty = _empty_folders(tree, inside, field.key, set(field.counts)) if field.is_folder else ()
    parts = _empty_folders(tree, posixpath.dirname(inside), "folder:1", set()) if inside else ()
    empty = (*(name for name in parts if split_folder(name)), *empty)
    return _Layout(tuple(names), tuple(paths), tuple(folds), field, reason, empty), excluded


def _empty_folders(tree: Tree, inside: str, key: str, classes: set[str]) -> tuple[str, ...]:
    """The folders of a level below `inside`, a folder of the tree's location, that hold no recordings."""
    others = [tree.prefix + name for name in tree.names if not is_audio(name)]
    files = [*others, *(name for name, _ in tree.missing), *(f"{name}/." for name in tree.empty_folders)]
    below = f"{inside}/" if inside else ""
    paths = [name.removeprefix(below) for name in files if name.startswith(below) and "/" in name[len(below) :]]
    if not paths:
        return ()
    recordings = {(tree.prefix + name).removeprefix(below).split("/")[0] for name in tree.names if is_audio(name)}
    found = set(structure.level(paths, int(key.removeprefix("folder:"))).counts) - classes
    return tuple(sorted(found - (recordings if key == "folder:1" else set())))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (" …" if len(names) > 5 else "")


def _split_level(paths: list[str]) -> Field | None:
    """The folder level whose folders are train, valid and test, in whatever spelling; None if there is none."""
    for level in (1, 2, 3):
        field = structure.level(paths, level)
        if len(field.counts) > 1 and field.coverage >= structure.FOLDER_COVERAGE:
            folds = {split_folder(value) for value in field.counts}
            if None not in folds and ("train" in folds or len(folds) > 1):
                return field
            if {"train", "test"} <= {official_fold(value) for value in field.counts} and _has_classes(paths, field):
                return field  # another folder beside them is a part of its own
    return None


def _has_classes(paths: list[str], split: Field) -> bool:
    """Whether the training part has several folders, as classes would not."""
    below = structure.level(paths, int(split.key.removeprefix("folder:")) + 1)
    pairs = zip(split.values, below.values, strict=True)
    return len({inner for part, inner in pairs if inner and official_fold(part) == "train"}) > 1
