"""From a path to an Index: detect the layout or use the named reader, read, relabel if requested, and check.

In: DATA, a reader's name or "auto", its options, and optionally columns to use as label, group or fold. Out: an Index
with a one-sentence description. The registry of readers is the folder `readers/`; they are imported on demand.
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
from auricle.corpus.layout import NOT_UTF8, audio_files, official_fold
from auricle.corpus.metadata import ignored_tables
from auricle.corpus.tables import one_line
from auricle.corpus.tree import Tree, check_exists, is_audio, open_tree
from auricle.errors import DataError, UsageError, unknown

# Readers of general layouts, tried in this order after those of single corpora. `pattern` never detects anything.
GENERAL = ("hub", "table", "folder", "pattern")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def reader_names() -> list[str]:
    """The available readers: the files of the folder `readers/`."""
    return sorted(module.name for module in pkgutil.iter_modules(readers.__path__))


def load_reader(name: str) -> ModuleType:
    """Import a reader. Raises UsageError for an unknown one, with the nearest known name."""
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
    """Read the names and labels of a corpus; no audio is opened.

    `options` are the reader's own. `label`, `group` and `fold` name the column to use: of the metadata, or "label",
    "group", "fold" themselves. Folds called train, dev, testing and the like become "train", "valid", "test".
    Raises UsageError for an unknown reader, option or column; DataError for data that is missing, of an unknown layout,
    without clips or with one class only.
    """
    if reader != "auto":
        load_reader(reader)
    tree = _open(data, reader)
    not_utf8 = _not_utf8(tree)
    module = load_reader(reader if reader != "auto" else _detect(tree))
    name = module.__name__.rpartition(".")[2]
    given = dict(options or {})
    _check_options(name, module, given)
    label_name, group_name = getattr(module, "LABEL_NAME", "class"), getattr(module, "GROUP_NAME", "group")
    if label and hasattr(module, "has_labels") and not module.has_labels(tree, **given):
        given["label"], label_name, label = label, label, None
    items = list(module.read(tree, **given))
    if hasattr(module, "group_name"):
        group_name = module.group_name(tree, **given)
    clips = [_normalized(item) for item in items if isinstance(item, Clip)]
    excluded = [item for item in items if isinstance(item, Excluded)]
    if not clips:
        raise DataError(_no_clips(tree, module.TITLE, excluded))
    if label or group or fold:
        clips, unlabelled = _Columns(clips, label_name, group_name).assign(clips, label, group, fold)
        excluded += unlabelled
        label_name, group_name = label or label_name, group or group_name
    _check(clips, str(data), label_name)
    note = module.note(tree, **given) if hasattr(module, "note") else ""
    ignored = ignored_tables(tree) if name == "folder" else ""
    note = "; ".join(filter(None, (note, tree.note, not_utf8, ignored)))
    return Index(
        clips=tuple(clips),
        reader=name,
        origin=str(data),
        description=_describe(module.TITLE, clips, label_name, group_name, note),
        license=module.LICENSE,
        citation=module.CITATION,
        group_name=group_name,
        excluded=tuple(excluded),
        num_features=module.num_features(tree, **given) if hasattr(module, "num_features") else None,
    )


def similar_labels(index: Index) -> list[tuple[str, ...]]:
    """Labels that differ only in case, blanks, dashes or underscores, so probably one class in two spellings."""
    alike: dict[str, list[str]] = {}
    for label in index.labels:
        alike.setdefault(re.sub(r"[\s_-]+", "", label).casefold(), []).append(label)
    return [tuple(labels) for labels in alike.values() if len(labels) > 1]


def rare_labels(index: Index, fewer_than: int = 2) -> list[str]:
    """Labels with too few clips to train and test on: by default those with a single one."""
    counts = Counter(clip.label for clip in index)
    return [label for label in index.labels if counts[label] < fewer_than]


def check_location(data: str | Path, reader: str = "auto") -> None:
    """Raise at once what reading would raise for an unknown reader or a path that does not exist; nothing is listed."""
    if reader != "auto":
        load_reader(reader)
    if not _is_hub_name(data, reader):
        check_exists(data)


def _open(data: str | Path, reader: str) -> Tree:
    """The tree. A text that is no local path but may be a name on the Hub is left for the reader `hub` to look up."""
    return Tree(str(data), (), (), scheme="hub") if _is_hub_name(data, reader) else open_tree(data)


def _is_hub_name(data: str | Path, reader: str) -> bool:
    text = str(data)
    if reader not in ("auto", "hub") or is_remote(text) or Path(text).exists():
        return False
    # 'data/esc10' next to a folder 'data' is a misspelt path, not a request for a download.
    return reader == "hub" or (_HUB_NAME.fullmatch(text) is not None and not Path(text).parent.exists())


def _detect(tree: Tree) -> str:
    if tree.scheme == "hub":
        return "hub"
    names = [name for name in reader_names() if name not in GENERAL]
    hits = [name for name in names if load_reader(name).detects(tree)]
    if len(hits) > 1:
        raise DataError(f"'{tree.location}' could be any of {', '.join(hits)}. Name the layout: `--reader {hits[0]}`.")
    hits += [name for name in GENERAL if not hits and load_reader(name).detects(tree)]
    if not hits:
        suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in tree.names).most_common(5)
        counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
        if tree.prefix and any(is_audio(name) for name in tree.names):
            only = Path(tree.prefix).name
            raise DataError(
                f"'{tree.location}' has a single class folder, '{only}' ({counts}), and a classifier needs two classes "
                "or more. Put each class in its own folder, or name the layout with `--reader NAME`."
            )
        raise DataError(
            f"The layout of '{tree.location}' is not recognised ({len(tree.names)} files: {counts}; the first is "
            f"'{tree.names[0]}'). Put each class in its own folder, add a metadata.csv with columns path and label, or "
            f"name the layout with `--reader NAME` (known: {', '.join(reader_names())})."
        )
    return hits[0]


def _check_options(name: str, module: ModuleType, given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(module.read).parameters.values()
    known = {item.name: item for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}
    types = typing.get_type_hints(module.read)
    for option, value in given.items():
        if not known:
            raise UsageError(f"Reader '{name}' has no options, but received '{option}'. Remove it.")
        if option not in known:
            raise UsageError(unknown(f"option of reader '{name}'", option, known))
        if not isinstance(value, types[option]):
            expected = getattr(types[option], "__name__", str(types[option]))
            raise UsageError(f"Option '{option}' of reader '{name}' is {value!r}; it takes {expected}.")
    for option, item in known.items():
        if item.default is inspect.Parameter.empty and option not in given:
            raise UsageError(f"Reader '{name}' needs its option '{option}': {module.DESCRIBES}.")


def _normalized(clip: Clip) -> Clip:
    """The clip with one spelling for accented letters, which macOS and Windows compose differently, on one line."""
    label = one_line(unicodedata.normalize("NFC", clip.label))
    group = clip.group and unicodedata.normalize("NFC", clip.group.strip())
    return clip if (label, group) == (clip.label, clip.group) else replace(clip, label=label, group=group or None)


class _Columns:
    """The columns that can be label, group or fold: metadata and the clips' own fields, also by the reader's names."""

    def __init__(self, clips: Iterable[Clip], label_name: str, group_name: str) -> None:
        self.fields = {"label": "label", "group": "group", "fold": "fold", label_name: "label", group_name: "group"}
        self.names = (label_name, group_name)
        self.meta = {name for clip in clips for name in clip.meta}

    def value(self, clip: Clip, column: str) -> str:
        if column in self.meta:
            return clip.meta.get(column, "")
        return getattr(clip, self.fields[column]) or ""

    def assign(
        self, clips: Iterable[Clip], label: str | None, group: str | None, fold: str | None
    ) -> tuple[list[Clip], list[Excluded]]:
        """Clips with another label, group or fold; the previous label and group become metadata.

        Raises UsageError for an unknown column.
        """
        for field, column in (("label", label), ("group", group), ("fold", fold)):
            if column is not None and column not in self.meta and column not in self.fields:
                names = {*self.meta, *self.fields}
                raise UsageError(f"data.{field} is '{column}'. {unknown('column', column, names)}")
        labelled, excluded = [], []
        for clip in clips:
            new_label = self.value(clip, label) if label else clip.label
            new_group = self.value(clip, group) if group else clip.group or ""
            new_fold = self.value(clip, fold) if fold else ""
            if not new_label:
                excluded.append(Excluded(clip.id, f"no value in '{label}'"))
                continue
            old = {self.names[0]: clip.label} | ({self.names[1]: clip.group} if clip.group else {})
            fold_name = official_fold(new_fold) or new_fold or None if fold else clip.fold
            meta = {**old, **clip.meta}
            labelled.append(replace(clip, label=new_label, group=new_group or None, fold=fold_name, meta=meta))
        # A split cannot separate groups that are the classes themselves: no class would be left to train on.
        if all(clip.group == clip.label for clip in labelled):
            labelled = [replace(clip, group=None) for clip in labelled]
        return labelled, excluded


def _check(clips: Iterable[Clip], data: str, label_name: str) -> None:
    labels = {clip.label for clip in clips}
    if len(labels) < 2:
        raise DataError(f"'{data}' has one {label_name} only: '{min(labels)}'. A classifier needs at least two.")
    repeated = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if repeated:
        raise DataError(f"'{data}' has two clips named '{repeated[0]}'. Rename one of the files.")


def _no_clips(tree: Tree, title: str, excluded: Iterable[Excluded]) -> str:
    reasons = Counter(item.reason for item in excluded).most_common(3)
    why = "; ".join(f"{reason} ({count} times)" for reason, count in reasons) or "no recordings"
    return (
        f"'{tree.location}', read as {title}, has no clips among {len(tree.names)} files: {why}. Try "
        "another reader: `--reader NAME`."
    )


def _describe(title: str, clips: Iterable[Clip], label_name: str, group_name: str, note: str) -> str:
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


def _not_utf8(tree: Tree) -> str:
    """How many recordings are excluded because their names cannot be written. Raises DataError if all are."""
    names, excluded = audio_files(tree)
    renamed = [item for item in excluded if item.reason == NOT_UTF8]
    if not renamed:
        return ""
    if not names:
        raise DataError(f"'{tree.location}' has {len(renamed)} recordings, such as '{renamed[0].name}': {NOT_UTF8}.")
    return f"{len(renamed)} recordings with names that are not UTF-8 are excluded, such as '{renamed[0].name}'"


def _count(number: int, word: str) -> str:
    if number == 1:
        return f"1 {word}"
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{number} {word}es"
    return f"{number} {word[:-1]}ies" if word.endswith("y") else f"{number} {word}s"
