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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from auricle.corpus import readers, structure
from auricle.corpus.clip import Clip, Excluded, Index
from auricle.corpus.layout import NOT_UTF8, audio_files, official_fold, unopened, unused_folds
from auricle.corpus.metadata import ignored_tables
from auricle.corpus.remote import is_remote
from auricle.corpus.tables import one_line
from auricle.corpus.tree import Tree, check_exists, is_audio, open_tree
from auricle.errors import DataError, UsageError, unknown

# Readers of general layouts, tried in this order after those of single corpora. `pattern` never detects anything.
GENERAL = ("hub", "table", "folder", "pattern")
# The value of data.group that ignores groups.
UNGROUPED = "none"
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
    options: Mapping[str, str] | None = None,
    label: str | None = None,
    group: str | None = None,
    fold: str | None = None,
    excluded_classes: Collection[str] = (),
) -> Index:
    """Read the names and labels of a corpus; no audio is opened.

    `options` are the reader's own. `label`, `group` and `fold` name the field to use: a column of the metadata
    (column:site, or site), a part of the paths (folder:1, name:2), or "label", "group", "fold" themselves; the group
    "none" ignores groups. Folds called train, dev, testing and the like become "train", "valid", "test".
    Raises UsageError for an unknown reader, option or field; DataError for data that is missing, of an unknown layout,
    without clips or with one class only.
    """
    given = dict(options or {})
    if reader == "auto" and "pattern" in given:
        reader = "pattern"
    label, group, fold = (text and text.removeprefix("column:") for text in (label, group, fold))
    tree = _open(data, reader)
    module = load_reader(reader if reader != "auto" else _detect(tree))
    name = module.__name__.rpartition(".")[2]
    if name == "folder" and label and structure.is_key(label):
        given["label"], label = label, None
    _check_options(name, module, given)
    label_name = getattr(module, "LABEL_NAME", "class")
    if label and hasattr(module, "has_labels") and not module.has_labels(tree, **given):
        given["label"], label_name, label = _label_column(label, data), label, None
    items = _items(tree, module, given)
    group_name = _group_name(tree, module, given)
    clips = [_normalized(item) for item in items if isinstance(item, Clip)]
    excluded = [item for item in items if isinstance(item, Excluded)]
    if not clips:
        raise DataError(_no_clips(tree, module.TITLE, excluded))
    new_group = None if group == UNGROUPED else group
    if label or new_group or fold:
        columns = _Columns(clips, label_name, group_name, _used_columns(tree, module, given))
        clips, unlabelled = columns.assign(clips, label, new_group, fold)
        excluded += unlabelled
        label_name = _field_name(label, label_name)
        group_name = _field_name(new_group, group_name)
    if group == UNGROUPED:
        clips = [replace(clip, group=None) for clip in clips]
    clips, left_out = _without_classes(clips, excluded_classes)
    _check(clips, str(data), label_name)
    notes = [_note(tree, module, given, excluded), *([] if fold else _unused_folds(clips))]
    return Index(
        clips=tuple(clips),
        reader=name,
        origin=str(data),
        description=_describe(module.TITLE, clips, label_name, group_name, "; ".join(filter(None, notes))),
        license=module.LICENSE,
        citation=module.CITATION,
        group_name=group_name,
        excluded=(*excluded, *left_out),
        num_features=module.num_features(tree, **given) if hasattr(module, "num_features") else None,
        **_file_counts(tree, clips),
    )


def _items(tree: Tree, module: ModuleType, given: Mapping[str, str]) -> list[Clip | Excluded]:
    """All that a reader yields; an error of the class folders names what was not opened, which may hold the classes."""
    try:
        return list(module.read(tree, **given))
    except DataError as error:
        more = unopened(tree) if module.TITLE == load_reader("folder").TITLE else []
        if not more:
            raise
        raise DataError(f"{error} Besides, {'; '.join(more)}.") from error


def _label_column(label: str, data: str | Path) -> str:
    """A label that a table without labels could have as a column, which no key of the paths is."""
    if structure.is_key(label):
        raise UsageError(
            f"--label is '{label}', a part of the paths, but '{data}' is read by its table, which has no label column. "
            f"Name a column: `--label COLUMN`. Or read the paths alone: `--reader folder --label {label}`."
        )
    return label


def paths(clips: Iterable[Clip]) -> list[str]:
    """The path of each clip's recording, below what all share: what `structure` takes the fields from."""
    names = [clip.id if clip.start is None and clip.end is None else clip.id.rpartition("#")[0] for clip in clips]
    wrappers, _ = structure.wrapper_folders(names)
    return ["/".join(name.split("/")[min(wrappers, name.count("/")) :]) for name in names]


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
    if reader != "auto":
        load_reader(reader)
    if _is_hub_name(data, reader):
        return Tree(str(data), (), (), scheme="hub")
    tree = open_tree(data)
    _check_utf8(tree)
    return tree


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
    if not hits and (closed := unopened(tree)):
        raise DataError(f"'{tree.location}' has no recordings ({len(tree.names)} files): {'; '.join(closed)}.")
    if not hits:
        suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in tree.names).most_common(5)
        counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes)
        raise DataError(
            f"The layout of '{tree.location}' is not recognised ({len(tree.names)} files: {counts}; the first is "
            f"'{tree.names[0]}'). Put each class in its own folder, add a metadata.csv with columns path and label, or "
            f"name the layout with `--reader NAME` (known: {', '.join(reader_names())})."
        )
    return hits[0]


def _check_options(name: str, module: ModuleType, given: Mapping[str, str]) -> None:
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
    """The columns that can be label, group or fold: metadata and the clips' own fields, also by the reader's names.

    `used` says which field each column of the corpus's own table has become.
    """

    def __init__(
        self, clips: Iterable[Clip], label_name: str, group_name: str, used: Mapping[str, str] | None = None
    ) -> None:
        self.fields = {"label": "label", "group": "group", "fold": "fold", label_name: "label", group_name: "group"}
        self.fields |= used or {}
        self.names = (label_name, group_name)
        self.meta = {name for clip in clips for name in clip.meta}

    def values(self, clips: Sequence[Clip], column: str) -> Sequence[str]:
        """The text of a column for each clip, "" where there is none. Raises UsageError for an unknown column."""
        if structure.is_key(column):
            return structure.field(paths(clips), column).values
        if column in self.meta:
            return [clip.meta.get(column, "") for clip in clips]
        field = self.fields[column]
        return paths(clips) if field == "path" else [getattr(clip, field) or "" for clip in clips]

    def assign(
        self, clips: Sequence[Clip], label: str | None, group: str | None, fold: str | None
    ) -> tuple[list[Clip], list[Excluded]]:
        """Clips with another label, group or fold; the previous label and group become metadata.

        Raises UsageError for an unknown column.
        """
        for option, column in (("--label", label), ("--group", group), ("data.fold", fold)):
            if column is None or column in self.meta or column in self.fields or structure.is_key(column):
                continue
            raise UsageError(f"{option} is '{column}'. {unknown('column', column, {*self.meta, *self.fields})}")
        labels = self.values(clips, label) if label else [clip.label for clip in clips]
        groups = self.values(clips, group) if group else [clip.group or "" for clip in clips]
        folds = self.values(clips, fold) if fold else [""] * len(clips)
        labelled, excluded = [], []
        for clip, new_label, new_group, new_fold in zip(clips, labels, groups, folds, strict=True):
            if not new_label:
                excluded.append(Excluded(clip.id, f"no value in '{label}'"))
                continue
            old = {self.names[0]: clip.label} | ({self.names[1]: clip.group} if clip.group else {})
            fold_name = official_fold(new_fold) or new_fold or None if fold else clip.fold
            meta = {**old, **clip.meta}
            labelled.append(replace(clip, label=new_label, group=new_group or None, fold=fold_name, meta=meta))
        # A reader's own groups that have become the classes are no groups any more.
        if not group and all(clip.group == clip.label for clip in labelled):
            labelled = [replace(clip, group=None) for clip in labelled]
        return labelled, excluded


def _file_counts(tree: Tree, clips: Iterable[Clip]) -> dict[str, int]:
    """All files of the tree and those that clips name elsewhere, and how many are no recordings or hidden."""
    sources = {clip.source for clip in clips}
    listed = {tree.source(name) for name in tree.names}
    other = sum(not is_audio(name) and tree.source(name) not in sources for name in tree.names)
    files = len(listed | sources) + len(tree.missing) + len(tree.hidden)
    return {"num_files": files, "num_other_files": other, "num_hidden_files": len(tree.hidden)}


def _without_classes(clips: Sequence[Clip], classes: Collection[str]) -> tuple[list[Clip], list[Excluded]]:
    """The clips of all classes but some, and those. Raises UsageError for a class that does not exist."""
    labels = sorted({clip.label for clip in clips})
    for label in classes:
        if label not in labels:
            raise UsageError(f"data.excluded_classes: {unknown('class', label, labels)}")
    reason = "of a class in data.excluded_classes"
    excluded = [Excluded(clip.id, reason) for clip in clips if clip.label in classes]
    return [clip for clip in clips if clip.label not in classes], excluded


def _field_name(field: str | None, default: str) -> str:
    """What a field's values are called in sentences."""
    return default if field is None or structure.is_key(field) else field


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


def _group_name(tree: Tree, module: ModuleType, given: Mapping[str, str]) -> str:
    """What a group is called, which may depend on the corpus."""
    if hasattr(module, "group_name"):
        return str(module.group_name(tree, **given))
    return str(getattr(module, "GROUP_NAME", "group"))


def _used_columns(tree: Tree, module: ModuleType, given: Mapping[str, str]) -> Mapping[str, str]:
    """The field that each used column of the corpus's own table has become."""
    return module.used_columns(tree, **given) if hasattr(module, "used_columns") else {}


def _note(tree: Tree, module: ModuleType, given: Mapping[str, str], excluded: Iterable[Excluded]) -> str:
    """What was inferred by the reader and about names, the recordings that are excluded, and tables passed over."""
    note = module.note(tree, **given) if hasattr(module, "note") else ""
    ignored = ignored_tables(tree) if module.TITLE == load_reader("folder").TITLE else ""
    closed = unopened(tree) if module.TITLE not in (load_reader("webdataset").TITLE, load_reader("hub").TITLE) else []
    return "; ".join(filter(None, (note, tree.note, *_excluded_recordings(tree, excluded), ignored, *closed)))


def _unused_folds(clips: Sequence[Clip]) -> list[str]:
    names = sorted({name for clip in clips for name in clip.meta})
    columns = {name: [clip.meta.get(name, "").strip() for clip in clips] for name in names}
    return unused_folds(paths(clips), columns, [clip.label for clip in clips])


def _excluded_recordings(tree: Tree, excluded: Iterable[Excluded]) -> list[str]:
    """How many recordings are excluded for each reason, with an example; those in no row are the table's to count."""
    by_reason: dict[str, list[Excluded]] = {}
    for item in excluded:
        if (is_audio(item.name) or item.name.endswith("/")) and item.reason != "in no row":
            by_reason.setdefault(re.sub(r"'.*?'", "", item.reason), []).append(item)
    hidden = [name for name in tree.hidden if is_audio(name) and not name.rpartition("/")[2].startswith("._")]
    if hidden:
        by_reason["hidden"] = [Excluded(name, "a hidden file or in a hidden folder; rename it") for name in hidden]
    return [
        f"{len(items)} recording{'s are' if len(items) > 1 else ' is'} excluded, such as '{items[0].name}': "
        + items[0].reason.rstrip(".")
        for items in by_reason.values()
    ]


def _check_utf8(tree: Tree) -> None:
    """Raise DataError if the names of all recordings cannot be written."""
    names, excluded = audio_files(tree)
    renamed = [item for item in excluded if item.reason == NOT_UTF8]
    if renamed and not names:
        raise DataError(f"'{tree.location}' has {len(renamed)} recordings, such as '{renamed[0].name}': {NOT_UTF8}.")


def _count(number: int, word: str) -> str:
    if number == 1 or word.endswith("ies"):
        return f"{number} {word}"
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{number} {word}es"
    return f"{number} {word[:-1]}ies" if word.endswith("y") else f"{number} {word}s"
