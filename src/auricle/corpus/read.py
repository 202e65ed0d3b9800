"""From a path to an Index: the layout is recognised or named, read, relabelled if asked, and checked.

In: DATA, a reader's name or "auto", its options, and perhaps a metadata column to be label or group. Out: an Index
with one sentence on what was recognised. The registry of readers is the folder `readers/`; they are imported on demand.
"""

import importlib
import inspect
import pkgutil
import re
import typing
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from auricle.corpus import readers
from auricle.corpus.archive import is_remote
from auricle.corpus.clip import Clip, Excluded, Index
from auricle.corpus.tree import Tree, is_audio, official_fold, open_tree
from auricle.errors import DataError, UsageError, unknown

# Readers of general layouts, tried in this order after those of single corpora. `pattern` never recognises anything.
GENERAL = ("hub", "table", "folder", "pattern")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def reader_names() -> list[str]:
    """The readers that there are: the files of the folder `readers/`."""
    return sorted(module.name for module in pkgutil.iter_modules(readers.__path__))


def load_reader(name: str) -> ModuleType:
    """Import one reader. Raises UsageError with the nearest known name for an unknown one."""
    if name not in reader_names():
        raise UsageError(unknown("reader", name, ["auto", *reader_names()]))
    return importlib.import_module(f"{readers.__name__}.{name}")


def read_index(
    data: str | Path,
    reader: str = "auto",
    options: Mapping[str, Any] | None = None,
    label: str | None = None,
    group: str | None = None,
    fold: str | None = None,
) -> Index:
    """Read a corpus of names and labels; no audio is opened.

    `options` are the reader's own. `label`, `group` and `fold` take a metadata column instead, or "label", "group",
    "fold"; parts called train, dev, testing and the like become "train", "valid", "test".
    Raises UsageError for an unknown reader, option or column; DataError for data that is missing, not recognised, or
    has no clips or one class only.
    """
    if reader != "auto":
        load_reader(reader)
    tree = _open(data, reader)
    module = load_reader(reader if reader != "auto" else _recognise(tree))
    name = module.__name__.rpartition(".")[2]
    given = dict(options or {})
    _check_options(name, module, given)
    items = list(module.read(tree, **given))
    clips = [_cleaned(item) for item in items if isinstance(item, Clip)]
    excluded = [item for item in items if isinstance(item, Excluded)]
    if not clips:
        raise DataError(_nothing(tree, module.TITLE, excluded))
    label_name, group_name = getattr(module, "LABEL_NAME", "class"), getattr(module, "GROUP_NAME", "group")
    columns = _Columns(clips, label_name, group_name)
    if label or group or fold:
        clips, unlabelled = columns.repointed(clips, label, group, fold)
        excluded += unlabelled
        label_name, group_name = label or label_name, group or group_name
    _check(clips, str(data), label_name)
    note = module.note(tree, **given) if hasattr(module, "remark") else ""
    return Index(
        clips=tuple(clips),
        reader=name,
        origin=str(data),
        description=_sentence(module.TITLE, clips, label_name, group_name, note),
        license=module.LICENSE,
        citation=module.CITATION,
        group_name=group_name,
        excluded=tuple(excluded),
        num_features=module.num_features(tree, **given) if hasattr(module, "num_features") else None,
    )


def similar_labels(index: Index) -> list[tuple[str, ...]]:
    """Labels that differ only in case, blanks, dashes or underscores, and so are probably one class written twice."""
    alike: dict[str, list[str]] = {}
    for label in index.labels:
        alike.setdefault(re.sub(r"[\s_-]+", "", label).casefold(), []).append(label)
    return [tuple(labels) for labels in alike.values() if len(labels) > 1]


def rare_labels(index: Index, fewer_than: int = 2) -> list[str]:
    """Labels with too few clips to be learnt and tested: by default those with a single one."""
    counts = Counter(clip.label for clip in index)
    return [label for label in index.labels if counts[label] < fewer_than]


def _open(data: str | Path, reader: str) -> Tree:
    """The tree; a name that is no path here but could be one on the Hub is left for the reader `hub` to look up."""
    text = str(data)
    is_name = _HUB_NAME.fullmatch(text) is not None and not Path(text).exists()
    # 'data/esc10' beside a folder 'data' is a misspelt path, not the asking for a download.
    if reader == "hub" and not Path(text).exists() and not is_remote(text):
        return Tree(text, (), (), scheme="hub")
    if reader == "auto" and is_name and not Path(text).parent.exists():
        return Tree(text, (), (), scheme="hub")
    return open_tree(data)


def _recognise(tree: Tree) -> str:
    if tree.scheme == "hub":
        return "hub"
    names = [name for name in reader_names() if name not in GENERAL]
    hits = [name for name in names if load_reader(name).detects(tree)]
    if len(hits) > 1:
        raise DataError(f"'{tree.location}' could be any of {', '.join(hits)}. Say which with --reader {hits[0]}.")
    hits += [name for name in GENERAL if not hits and load_reader(name).detects(tree)]
    if not hits:
        suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in tree.names).most_common(5)
        there = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
        if tree.prefix and any(is_audio(name) for name in tree.names):
            only = Path(tree.prefix).name
            raise DataError(
                f"'{tree.location}' holds a single class folder, '{only}' ({there}), and a classifier needs two "
                "classes or more. Put each class in its own folder, or name the layout with --reader."
            )
        raise DataError(
            f"The layout of '{tree.location}' is not recognised ({len(tree.names)} files: {there}; the first is "
            f"'{tree.names[0]}'). Put each class in its own folder, add a metadata.csv with columns path and label, or "
            f"name the layout with --reader: {', '.join(reader_names())}."
        )
    return hits[0]


def _check_options(name: str, module: ModuleType, given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(module.read).parameters.values()
    known = {item.name: item for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}
    kinds = typing.get_type_hints(module.read)
    for option, value in given.items():
        if not known:
            raise UsageError(f"Reader '{name}' has no options, but received '{option}'. Leave it away.")
        if option not in known:
            raise UsageError(unknown(f"option of reader '{name}'", option, known))
        if not isinstance(value, kinds[option]):
            kind = getattr(kinds[option], "__name__", str(kinds[option]))
            raise UsageError(f"Option '{option}' of reader '{name}' is {value!r}; it takes {kind}.")
    for option, item in known.items():
        if item.default is inspect.Parameter.empty and option not in given:
            raise UsageError(f"Reader '{name}' needs its option '{option}': {module.DESCRIBES}.")


def _cleaned(clip: Clip) -> Clip:
    """The clip with one spelling for accented letters: Mac and Windows compose them differently."""
    label = unicodedata.normalize("NFC", clip.label.strip())
    group = clip.group and unicodedata.normalize("NFC", clip.group.strip())
    return clip if (label, group) == (clip.label, clip.group) else replace(clip, label=label, group=group or None)


class _Columns:
    """What can be taken for label or group: metadata, and the clips' own fields, by the reader's words for them too."""

    def __init__(self, clips: Iterable[Clip], label_name: str, group_name: str) -> None:
        self.words = {"label": "label", "group": "group", "fold": "fold", label_name: "label", group_name: "group"}
        self.names = (label_name, group_name)
        self.meta = {name for clip in clips for name in clip.meta}

    def value(self, clip: Clip, column: str) -> str:
        if column in self.meta:
            return clip.meta.get(column, "")
        return getattr(clip, self.words[column]) or ""

    def repointed(
        self, clips: Iterable[Clip], label: str | None, group: str | None, fold: str | None
    ) -> tuple[list[Clip], list[Excluded]]:
        """Clips with another label, group or fold; the first two, as they were, become metadata.

        Raises UsageError for an unknown column.
        """
        for asked, column in (("label", label), ("group", group), ("fold", fold)):
            if column is not None and column not in self.meta and column not in self.words:
                raise UsageError(f"{asked}: {column} — " + unknown("column", column, {*self.meta, *self.words}))
        kept, excluded = [], []
        for clip in clips:
            new_label = self.value(clip, label) if label else clip.label
            new_group = self.value(clip, group) if group else clip.group or ""
            new_fold = self.value(clip, fold) if fold else ""
            if not new_label:
                excluded.append(Excluded(clip.id, f"no value in '{label}'"))
                continue
            old = {self.names[0]: clip.label} | ({self.names[1]: clip.group} if clip.group else {})
            own_fold = official_fold(new_fold) or new_fold or None if fold else clip.fold
            meta = {**old, **clip.meta}
            kept.append(replace(clip, label=new_label, group=new_group or None, fold=own_fold, meta=meta))
        # Groups that are the classes themselves cannot be kept apart by a split: there would be nothing to learn.
        if all(clip.group == clip.label for clip in kept):
            kept = [replace(clip, group=None) for clip in kept]
        return kept, excluded


def _check(clips: Iterable[Clip], data: str, label_name: str) -> None:
    labels = {clip.label for clip in clips}
    if len(labels) < 2:
        raise DataError(f"'{data}' has one {label_name} only: '{min(labels)}'. A classifier needs at least two.")
    repeated = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if repeated:
        raise DataError(f"'{data}' gives two clips the name '{repeated[0]}'. Rename one of the files.")


def _nothing(tree: Tree, title: str, excluded: Iterable[Excluded]) -> str:
    reasons = Counter(item.reason for item in excluded).most_common(3)
    why = "; ".join(f"{reason} ({count} times)" for reason, count in reasons) or "no recordings at all"
    return (
        f"'{tree.location}', read as {title}, has no clips among {len(tree.names)} files: {why}. Try another --reader."
    )


def _sentence(title: str, clips: Iterable[Clip], label_name: str, group_name: str, note: str) -> str:
    clips = list(clips)
    groups = {clip.group for clip in clips if clip.group is not None}
    folds = {clip.fold for clip in clips if clip.fold is not None}
    parts = [_count(len(clips), "clip"), _count(len({clip.label for clip in clips}), label_name)]
    if groups:
        parts.append(_count(len(groups), group_name))
    if folds and folds <= {"train", "valid", "test"}:
        parts.append(f"split into {', '.join(fold for fold in ('train', 'valid', 'test') if fold in folds)}")
    elif folds:
        parts.append(_count(len(folds), "fold"))
    return f"{title}: {', '.join(parts)}{f' ({note})' if note else ''}"


def _count(number: int, word: str) -> str:
    if number == 1:
        return f"1 {word}"
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{number} {word}es"
    return f"{number} {word[:-1]}ies" if word.endswith("y") else f"{number} {word}s"
