"""A table of recordings: CSV, TSV, JSON lines or Parquet, with a column of paths and one of labels.

In: the table itself, or a folder or archive with one metadata table beside the audio. Out: a clip for each row; columns
are known by their usual names or mapped by options, and the rest becomes metadata. Paths are relative to the table.
"""

import ntpath
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tables import TABLE_SUFFIXES, columns_of, rows_of
from auricle.corpus.tree import Tree, is_audio, official_fold, recordings
from auricle.errors import DataError, UsageError, unknown

TITLE = "Table"
DESCRIBES = "a CSV, TSV, JSONL or Parquet table of paths and labels, alone or beside the audio (metadata.csv)"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

# The usual names, best first; letters' case, blanks and dashes do not count.
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
    """Which column of a table means what; None where there is none."""

    path: str
    label: str
    group: str | None
    fold: str | None
    start: str | None
    end: str | None

    def rest(self, columns: Sequence[str]) -> list[str]:
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
        columns = columns_of(tree, tables[0])
    except DataError:  # some other text that lies beside the recordings is no reason to refuse them
        return False
    return bool(_usual("path", columns) and _usual("label", columns) and recordings(tree)[0])


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
    """Yield a clip for each row. `path` to `end` name columns ("none": there is none); `root` is where paths begin.

    Raises UsageError for a column that is not there, DataError for an unreadable table, for one without paths or
    labels, and for a path that leads out of an archive.
    """
    mapped = {"path": path, "label": label, "group": group, "fold": fold, "start": start, "end": end}
    tables = _tables(tree, table)
    if not tables:
        raise DataError(_no_table(tree))
    seen: dict[tuple[str, float | None, float | None], tuple[str, int]] = {}
    listed: set[str] = set()
    for name in tables:
        found = columns_of(tree, name)
        columns = _chosen(name, found, mapped)
        rows = rows_of(tree, name)
        split = official_fold(posixpath.basename(posixpath.dirname(name))) if len(tables) > 1 else None
        places = _Places.of(tree, name, root, [row[columns.path] for row in rows])
        for number, row in enumerate(rows, start=1):
            item = _clip(row, number, columns, found, places)
            if isinstance(item, Clip):
                item = replace(item, fold=item.fold or split)
                listed.add(item.source)
                key = (item.source, item.start, item.end)
                label_before, row_before = seen.setdefault(key, (item.label, number))
                if row_before != number and label_before == item.label:
                    item = Excluded(item.id, f"row {number} repeats row {row_before}")
                elif row_before != number:
                    reason = f"row {number} says '{item.label}', but row {row_before} said '{label_before}'"
                    item = Excluded(item.id, reason)
            yield item
    if len(tree.names) > 1:
        names, excluded = recordings(tree)
        yield from excluded
        yield from (Excluded(name, "in no row of the table") for name in names if tree.source(name) not in listed)


def note(tree: Tree, *, table: str | None = None, **mapped: str | None) -> str:
    """Which columns were taken for what, for people."""
    name = _tables(tree, table)[0]
    columns = _chosen(name, columns_of(tree, name), {meaning: mapped.get(meaning) for meaning in USUAL})
    taken = [f"{meaning} '{column}'" for meaning, column in vars(columns).items() if column]
    return f"columns of '{name}': {', '.join(taken)}"


def _tables(tree: Tree, wanted: str | None) -> list[str]:
    """The tables to read: the wanted one, or all called metadata.* (one in each split's folder), or the only one."""
    tables = [name for name in tree.names if name.lower().endswith(TABLE_SUFFIXES)]
    if wanted is not None:
        hits = [name for name in tables if name == wanted or name.endswith(f"/{wanted}")]
        if len(hits) != 1:
            raise UsageError(unknown("table", wanted, tables or ["(none)"]))
        return hits
    metadata = [name for name in tables if posixpath.basename(name).lower().startswith("metadata.")]
    kinds = {posixpath.basename(name) for name in metadata}
    if len(kinds) == 1:
        return metadata
    return tables if len(tables) == 1 else []


def _no_table(tree: Tree) -> str:
    tables = [name for name in tree.names if name.lower().endswith(TABLE_SUFFIXES)]
    there = f"{len(tables)} tables ({', '.join(tables[:5])})" if tables else "no table"
    return (
        f"'{tree.location}' has {there}. Give a table ({', '.join(TABLE_SUFFIXES)}), a folder with a metadata.csv, or "
        "name the table with option table=NAME."
    )


def _usual(meaning: str, columns: Sequence[str], taken: Sequence[str | None] = ()) -> str | None:
    plain = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in reversed(columns)}
    return next((plain[name] for name in USUAL[meaning].split() if name in plain and plain[name] not in taken), None)


def _chosen(table: str, columns: Sequence[str], mapped: Mapping[str, str | None]) -> _Columns:
    chosen: dict[str, str | None] = {}
    for meaning, column in mapped.items():
        if column is not None and column != OFF and column not in columns:
            raise UsageError(f"Option {meaning}={column}: " + unknown("column", column, columns))
    for meaning in USUAL:
        column = mapped[meaning]
        if column is None:
            column = _usual(meaning, columns, [*mapped.values(), *chosen.values()])
        chosen[meaning] = None if column == OFF else column
    if chosen["start"] is None and mapped["end"] is None:
        chosen["end"] = None  # an 'end' or 'offset' alone is rarely a place in the file
    for meaning in ("path", "label"):
        if chosen[meaning] is None:
            raise DataError(
                f"'{table}' has no column that looks like a {meaning}. Its columns: {', '.join(columns)}. Say which "
                f"it is with option {meaning}=COLUMN."
            )
    return _Columns(**chosen)  # type: ignore[arg-type]  # path and label were just seen to be there


@dataclass(frozen=True)
class _Places:
    """Where the paths of one table lead: into the tree, or for a table alone to the disk."""

    tree: Tree
    base: str
    on_disk: bool
    names: Mapping[str, str]
    endings: Mapping[str, str | None]
    shared: str

    @classmethod
    def of(cls, tree: Tree, table: str, root: str | None, paths: Sequence[str]) -> "_Places":
        whole = [os.path.dirname(path.strip()) for path in paths if os.path.isabs(path.strip())]
        shared = os.path.commonpath(whole) if whole else ""
        if len(tree.names) == 1 and tree.is_folder:
            return cls(tree, os.path.join(tree.location, root or ""), True, {}, {}, shared)
        names = {_plain(name): name for name in tree.names}
        endings: dict[str, str | None] = {}
        for name in recordings(tree)[0]:
            for ending in (_plain(posixpath.basename(name)), _plain(posixpath.splitext(posixpath.basename(name))[0])):
                endings[ending] = None if ending in endings else name
        base = posixpath.dirname(table) if root is None else root.strip("/")
        return cls(tree, base, False, names, endings, shared)

    def find(self, path: str, number: int) -> tuple[str, str] | None:
        """The id and source of a listed file, or None if it is not there."""
        path = path.replace("\\", "/")
        if self.on_disk:
            full = os.path.normpath(os.path.join(self.base, path))
            return (self._id(path), full) if os.path.isfile(full) else None
        leaves = posixpath.isabs(path) or ntpath.isabs(path)
        joined = posixpath.normpath(posixpath.join(self.base, path))
        if self.tree.is_archive and (leaves or joined.startswith("../")):
            raise DataError(
                f"Row {number} of the table in '{self.tree.location}' leads out of the archive: '{path}'. Paths in an "
                "archive must be relative and stay inside."
            )
        if leaves or joined.startswith("../"):
            full = os.path.normpath(os.path.join(self.tree.root, joined))
            return (self._id(path), full) if self.tree.is_folder and os.path.isfile(full) else None
        for candidate in (joined, posixpath.normpath(path)):
            name = self.names.get(_plain(candidate))
            if name is not None:
                return name, self.tree.source(name)
        # Many tables name files without their folder, or without their suffix; taken only if that says which.
        name = self.endings.get(_plain(path)) if "/" not in path else None
        return (name, self.tree.source(name)) if name is not None else None

    def _id(self, path: str) -> str:
        """An absolute path without what all of them share, so that an id does not tell where the corpus lies."""
        return os.path.relpath(path, self.shared) if os.path.isabs(path) else posixpath.normpath(path)


def _plain(name: str) -> str:
    """One spelling for accented names: file systems and tables differ in how they compose them."""
    return unicodedata.normalize("NFC", name)


def _clip(
    row: Mapping[str, str], number: int, columns: _Columns, found: Sequence[str], places: _Places
) -> Clip | Excluded:
    path, label = row[columns.path].strip(), row[columns.label].strip()
    if not path:
        return Excluded(f"row {number}", f"row {number} has no path")
    if not label:
        return Excluded(path, f"row {number} has no label")
    place = places.find(path, number)
    if place is None:
        return Excluded(path, f"row {number} lists it, but it is not there")
    name, source = place
    if not is_audio(name):
        return Excluded(path, f"row {number} lists it, but it is no recording, by its name")
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
    meta = {column: row[column] for column in columns.rest(found) if row[column]}
    if fold is not None:
        fold = official_fold(fold) or fold
    return Clip(name + segment, source, label, group, fold, start, end, meta)


def _seconds(row: Mapping[str, str], column: str | None) -> float | None:
    text = row[column].strip() if column else ""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"'{text}' in column '{column}' is no number of seconds")
    return seconds
