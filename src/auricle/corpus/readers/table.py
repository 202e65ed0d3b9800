"""A table of recordings: CSV, TSV, JSON lines or Parquet, with a column of paths and one of labels.

In: the table itself, or a folder or archive with one metadata table next to the audio. Out: a clip per row; columns are
found by their usual names or named by options, and the rest becomes metadata. Paths are relative to the table.
"""

import ntpath
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import audio_files, official_fold
from auricle.corpus.tables import TABLE_SUFFIXES, Row, read_table
from auricle.corpus.tree import Tree, is_audio
from auricle.errors import DataError, UsageError, unknown

TITLE = "Table"
DESCRIBES = "a CSV, TSV, JSONL or Parquet table of paths and labels, alone or next to the audio (metadata.csv)"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

# The usual names, best first; case, blanks and dashes are ignored.
USUAL = {
    "path": "path file_name filename file filepath file_path slice_file_name wav wav_file wav_path audio audio_path "
    "audio_file clip fname recording",
    "label": "label labels class class_name classname category target_name emotion genre sound word species tag target",
    "group": "group speaker speaker_id spk_id spk actor actor_id fsid client_id artist artist_id singer subject "
    "subject_id patient patient_id user user_id source_id src_file source",
    "fold": "fold split set subset partition",
    "start": "start start_time start_seconds start_s onset begin begin_time offset",
    "end": "end end_time end_seconds end_s offset stop finish",
}
OFF = "none"


@dataclass(frozen=True)
class _Columns:
    """Which column of a table has which field; None where there is none."""

    path: str
    label: str
    group: str | None
    fold: str | None
    start: str | None
    end: str | None

    def others(self, columns: Sequence[str]) -> list[str]:
        used = (self.path, self.label, self.group, self.fold, self.start, self.end)
        return [column for column in columns if column not in used]


def detects(tree: Tree) -> bool:
    """Whether the tree is one table, or has one (metadata.*, or the only one) with columns of paths and labels."""
    tables = _tables(tree, None)
    if not tables:
        return False
    if len(tree.names) == 1:
        return True
    try:
        columns = read_table(tree, tables[0]).columns
    except DataError:  # some other text file next to the recordings is no reason to refuse them
        return False
    return bool(_usual("path", columns) and _usual("label", columns) and audio_files(tree)[0])


def has_labels(tree: Tree, *, table: str | None = None, label: str | None = None, **others: str | None) -> bool:
    """Whether a column of labels is named or has a usual name."""
    tables = _tables(tree, table)
    if label is not None or not tables:
        return True
    return _usual("label", read_table(tree, tables[0]).columns, list(others.values())) is not None


def read(
    tree: Tree,
    *,
    table: str | None = None,
    root: str | None = None,
    path: str | None = None,
    label: str | None = None,
    group: str | None = None,
    fold: str | None = None,
    start: str | None = None,
    end: str | None = None,
) -> Iterator[Clip | Excluded]:
    """Yield a clip for each row. `path` to `end` name columns ("none": there is none); paths are relative to `root`.

    Raises UsageError for an unknown column, DataError for an unreadable table, for one without paths or labels, and for
    a path that leads out of an archive.
    """
    requested = {"path": path, "label": label, "group": group, "fold": fold, "start": start, "end": end}
    tables = _tables(tree, table)
    if not tables:
        raise DataError(_no_table(tree))
    seen: dict[tuple[str, float | None, float | None], tuple[str, int]] = {}
    listed: set[str] = set()
    for name in tables:
        content = read_table(tree, name)
        columns = _choose_columns(name, content.columns, requested)
        others = columns.others(content.columns)
        split = official_fold(posixpath.basename(posixpath.dirname(name))) if len(tables) > 1 else None
        files = _Files.of_table(tree, name, root, [row[columns.path] for row in content.rows])
        for number, row in enumerate(content.rows, start=1):
            item = _clip(row, number, columns, others, files)
            if isinstance(item, Clip):
                item = replace(item, fold=item.fold or split)
                listed.add(item.source)
                key = (item.source, item.start, item.end)
                first_label, first_row = seen.setdefault(key, (item.label, number))
                if first_row != number and first_label == item.label:
                    item = Excluded(item.id, f"row {number} repeats row {first_row}")
                elif first_row != number:
                    reason = f"row {number} has the label '{item.label}', but row {first_row} has '{first_label}'"
                    item = Excluded(item.id, reason)
            yield item
    if len(tree.names) > 1:
        names, excluded = audio_files(tree)
        yield from excluded
        yield from (Excluded(name, "in no row of the table") for name in names if tree.source(name) not in listed)


def note(tree: Tree, *, table: str | None = None, **requested: str | None) -> str:
    """Which columns were used for what."""
    name = _tables(tree, table)[0]
    columns = _choose_columns(name, read_table(tree, name).columns, {field: requested.get(field) for field in USUAL})
    used = [f"{field} '{column}'" for field, column in vars(columns).items() if column]
    return f"columns of '{name}': {', '.join(used)}"


def _tables(tree: Tree, requested: str | None) -> list[str]:
    """The tables to read: the requested one, or all named metadata.* (one per split folder), or the only one."""
    tables = [name for name in tree.names if name.lower().endswith(TABLE_SUFFIXES)]
    if requested is not None:
        hits = [name for name in tables if name == requested or name.endswith(f"/{requested}")]
        if len(hits) != 1:
            raise UsageError(unknown("table", requested, tables or ["(none)"]))
        return hits
    metadata = [name for name in tables if posixpath.basename(name).lower().startswith("metadata.")]
    if len({posixpath.basename(name) for name in metadata}) == 1:
        return metadata
    return tables if len(tables) == 1 else []


def _no_table(tree: Tree) -> str:
    tables = [name for name in tree.names if name.lower().endswith(TABLE_SUFFIXES)]
    count = f"{len(tables)} tables ({', '.join(tables[:5])})" if tables else "no table"
    return (
        f"'{tree.location}' has {count}. Give a table ({', '.join(TABLE_SUFFIXES)}), a folder with a metadata.csv, or "
        "name the table: `--set data.reader_options.table=NAME`."
    )


def _usual(field: str, columns: Sequence[str], used: Sequence[str | None] = ()) -> str | None:
    normal = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in reversed(columns)}
    return next((normal[name] for name in USUAL[field].split() if name in normal and normal[name] not in used), None)


def _choose_columns(table: str, columns: Sequence[str], requested: Mapping[str, str | None]) -> _Columns:
    chosen: dict[str, str | None] = {}
    for field, column in requested.items():
        if column is not None and column != OFF and column not in columns:
            raise UsageError(f"Reader option {field} is '{column}'. " + unknown("column", column, columns))
    for field in USUAL:
        column = requested[field]
        if column is None:
            column = _usual(field, columns, [*requested.values(), *chosen.values()])
        chosen[field] = None if column == OFF else column
    if chosen["start"] is None and requested["end"] is None:
        chosen["end"] = None  # an 'end' or 'offset' alone is rarely a position in the file
    for field, option in (("path", "--set data.reader_options.path=COLUMN"), ("label", "--label COLUMN")):
        if chosen[field] is None:
            raise DataError(f"'{table}' has no {field} column (columns: {', '.join(columns)}). Name it: `{option}`.")
    return _Columns(**chosen)  # type: ignore[arg-type]  # path and label were just checked


@dataclass(frozen=True)
class _Files:
    """Finds the files that the paths of one table name: in the tree, or, for a table alone, on disk."""

    tree: Tree
    base: str
    on_disk: bool
    names: Mapping[str, str]
    endings: Mapping[str, str | None]
    shared: str

    @classmethod
    def of_table(cls, tree: Tree, table: str, root: str | None, paths: Sequence[str]) -> "_Files":
        folders = [os.path.dirname(path.strip()) for path in paths if os.path.isabs(path.strip())]
        shared = os.path.commonpath(folders) if folders else ""
        if len(tree.names) == 1 and tree.is_folder:
            return cls(tree, os.path.join(tree.location, root or ""), True, {}, {}, shared)
        names = {_composed(name): name for name in tree.names}
        endings: dict[str, str | None] = {}
        for name in audio_files(tree)[0]:
            file_name = _composed(posixpath.basename(name))
            for ending in (file_name, posixpath.splitext(file_name)[0]):
                endings[ending] = None if ending in endings else name
        base = posixpath.dirname(table) if root is None else root.strip("/")
        return cls(tree, base, False, names, endings, shared)

    def find(self, path: str, number: int) -> tuple[str, str] | None:
        """The id and source of a listed file, or None if it is missing."""
        path = path.replace("\\", "/")
        if self.on_disk:
            full = os.path.normpath(os.path.join(self.base, path))
            return (self._id(path), full) if os.path.isfile(full) else None
        joined = posixpath.normpath(posixpath.join(self.base, path))
        leads_out = posixpath.isabs(path) or ntpath.isabs(path) or joined.startswith("../")
        if leads_out and self.tree.is_archive:
            raise DataError(
                f"Row {number} of the table in '{self.tree.location}' leads out of the archive: '{path}'. Paths in an "
                "archive must be relative and stay inside."
            )
        if leads_out:
            full = os.path.normpath(os.path.join(self.tree.root, joined))
            return (self._id(path), full) if self.tree.is_folder and os.path.isfile(full) else None
        for candidate in (joined, posixpath.normpath(path)):
            name = self.names.get(_composed(candidate))
            if name is not None:
                return name, self.tree.source(name)
        # Many tables list files without folder or extension; accepted where that is unambiguous.
        name = self.endings.get(_composed(path)) if "/" not in path else None
        return (name, self.tree.source(name)) if name is not None else None

    def _id(self, path: str) -> str:
        """An absolute path without what all of them share, so that an id does not reveal the corpus's location."""
        return os.path.relpath(path, self.shared) if os.path.isabs(path) else posixpath.normpath(path)


def _composed(name: str) -> str:
    """One spelling for accented names: file systems and tables differ in how they compose them."""
    return unicodedata.normalize("NFC", name)


def _clip(row: Row, number: int, columns: _Columns, others: Sequence[str], files: _Files) -> Clip | Excluded:
    path, label = row[columns.path].strip(), row[columns.label].strip()
    if not path:
        return Excluded(f"row {number}", f"row {number} has no path")
    if not label:
        return Excluded(path, f"row {number} has no label")
    file = files.find(path, number)
    if file is None:
        return Excluded(path, f"listed in row {number}, but missing")
    name, source = file
    if not is_audio(name):
        return Excluded(path, f"listed in row {number}, but not a recording, by its name")
    try:
        start = _seconds(row, columns.start)
        end = _seconds(row, columns.end)
    except ValueError as error:
        return Excluded(path, f"row {number}: {error}")
    if start is not None and end is not None and end <= start:
        return Excluded(path, f"row {number} ends at {end} s, not after its start at {start} s")
    segment = f"#{start or 0.0:g}-{'' if end is None else f'{end:g}'}" if (start, end) != (None, None) else ""
    group = row[columns.group].strip() or None if columns.group else None
    fold = row[columns.fold].strip() or None if columns.fold else None
    meta = {column: row[column] for column in others if row[column]}
    if fold is not None:
        fold = official_fold(fold) or fold
    return Clip(name + segment, source, label, group, fold, start, end, meta)


def _seconds(row: Row, column: str | None) -> float | None:
    text = row[column].strip() if column else ""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"'{text}' in column '{column}' is not a number of seconds")
    return seconds
