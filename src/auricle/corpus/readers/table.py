"""A table or annotation files: whatever names recordings and labels them, whole or in segments.

In: the table itself, or a folder or archive with tables next to the audio: CSV, TSV, JSON, Parquet, or the files of an
annotation tool (see `corpus.annotations`). Out: a clip per row. The column of paths is the one whose values name
recordings; labels and the rest are found by usual names or named by options, and what is left becomes metadata. A table
that names recordings is never passed over: where it cannot be used, reading stops with the reason.
"""

import ast
import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.columns import span
from auricle.corpus.layout import audio_files, official_fold
from auricle.corpus.metadata import Options, TableCorpus, TableSource, find, has_folders, or_folders, state
from auricle.corpus.tables import TABLE_SUFFIXES, Row, canonical_numbers, one_line
from auricle.corpus.tree import Tree, is_audio
from auricle.errors import DataError

TITLE = "Table"
DESCRIBES = "a CSV, TSV, JSON or Parquet table of paths and labels, alone or next to the audio, or annotation files"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

# What a note counts, by the start of the reason.
_COUNTED = {
    "listed, but missing": "rows name files that are missing",
    "names several files": "rows name several files each",
    "no label": "rows have no label",
    "no path": "rows have no path",
    "rows contradict": "rows contradict another row of the same clip",
    "repeats": "rows repeat another",
    "in no row": "recordings are in no row",
}


def detects(tree: Tree) -> bool:
    """Whether a table names recordings, or should: one that cannot be used is for `read` to report.

    Raises DataError where a table names fewer than half of the recordings in several folders.
    """
    if len(tree.names) == 1 and tree.is_folder:
        return tree.names[0].lower().endswith((*TABLE_SUFFIXES, ".txt", ".eaf"))
    try:
        corpus = find(tree, Options())
    except DataError:
        return True
    if not corpus.sources:
        return False
    listed = {name for source in corpus.sources for name, _ in source.matches.files.values()}
    recordings = audio_files(tree)[0]
    if has_folders(tree) and 2 * len(listed.intersection(recordings)) < len(recordings):
        raise DataError(
            f"'{corpus.sources[0].name}' in '{tree.location}' names {len(listed)} of {len(recordings)} recordings, "
            "which are in several folders. Use the table: `--reader table`. Or use the folders as classes: `--reader "
            "folder`."
        )
    return True


def has_labels(tree: Tree, **options: str | int | None) -> bool:
    """Whether a column of labels is named or has a usual name."""
    return all(source.columns.label for source in find(tree, Options(**options)).sources)  # type: ignore[arg-type]


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
    duration: str | None = None,
    tier: str | None = None,
    sample_rate: int | None = None,
) -> Iterator[Clip | Excluded]:
    """Yield a clip for each row. `path` to `duration` name columns ("none": there is none).

    Paths are relative to `root`, else to the table; `tier` names the tier of ELAN files; `sample_rate` is for times in
    samples. Raises UsageError for an unknown column, DataError for a table that is unreadable or without paths or
    labels, and for several labels per clip.
    """
    options = Options(table, root, path, label, group, fold, start, end, duration, tier, sample_rate)
    yield from _read(tree, options)[0]


def used_columns(tree: Tree, **options: str | int | None) -> Mapping[str, str]:
    """The field of a clip that each used column has become."""
    columns = find(tree, Options(**options)).sources[0].columns  # type: ignore[arg-type]
    return {column: field for field, column in columns.used.items() if field in ("path", "label", "group", "fold")}


def note(tree: Tree, **options: str | int | None) -> str:
    """Which columns were used for what, and how rows and recordings are out of step."""
    return _read(tree, Options(**options))[1]  # type: ignore[arg-type]


def group_name(tree: Tree, **options: str | int | None) -> str:
    """What a group is: the recording where several segments of one are clips."""
    return _read(tree, Options(**options))[2]  # type: ignore[arg-type]


def _read(tree: Tree, options: Options) -> tuple[list[Clip | Excluded], str, str]:
    """The clips and what is excluded, the note, and the name of a group."""
    return _read_cached(tree, options, state(tree))


@lru_cache(maxsize=1)
def _read_cached(tree: Tree, options: Options, state: tuple[str, ...]) -> tuple[list[Clip | Excluded], str, str]:
    corpus = find(tree, options)
    if not corpus.sources:
        raise DataError(_no_table(tree))
    for source in corpus.sources:
        _check(corpus.tree, source)
    spelling = {field: _spelling(corpus.sources, field) for field in ("label", "group", "fold")}
    _refuse_lists(corpus, spelling["label"])
    rows: list[tuple[str, Clip]] = []
    excluded: list[Excluded] = []
    for source in corpus.sources:
        for number, row in enumerate(source.table.rows, start=1):
            where = f"row {number}" if len(corpus.sources) == 1 else f"row {number} of '{source.name}'"
            item = _clip(source, row, where, spelling, options.sample_rate)
            if isinstance(item, Clip):
                rows.append((where, item))
            else:
                excluded.append(item)
    listed = {clip.source for _, clip in rows}
    clips, repeated = _one_per_segment(rows)
    clips, groups_note, name = _grouped(clips, corpus.sources, options.group)
    if len(tree.names) > 1:
        used = {source.name for source in corpus.sources}
        names, others = audio_files(replace(tree, names=tuple(name for name in tree.names if name not in used)))
        repeated += [Excluded(name, "in no row") for name in names if tree.source(name) not in listed] + others
    notes = [_columns_note(corpus.sources), groups_note, _other_folders(clips), *_counts([*excluded, *repeated])]
    notes += [note for source in corpus.sources for note in (*source.table.notes, source.matches.note)]
    notes += [*_label_notes(corpus.sources), *corpus.notes]
    return [*clips, *excluded, *repeated], "; ".join(dict.fromkeys(note for note in notes if note)), name


def _check(tree: Tree, source: TableSource) -> None:
    """Raise DataError for a table without labels, or with more cells than columns."""
    if source.table.overlong:
        raise DataError(source.table.overlong + or_folders(tree))
    if source.columns.label is not None:
        return
    columns, rows = source.table.columns, source.table.rows
    rest = [column for column in columns if column not in source.columns.used.values()]
    listed = f"(columns: {', '.join(columns)})"
    flags = [column for column in rest if {row[column].strip() for row in rows} <= {"0", "1", "0.0", "1.0"}]
    if len(flags) > 1:
        raise DataError(
            f"'{source.name}' has a column of 0 and 1 for each class {listed}. auricle takes one label per clip, in "
            f"one column: write the class of each clip to a column 'label'.{or_folders(tree)}"
        )
    # What is the same throughout, or different in each row, is no class.
    likely = [column for column in rest if 1 < len({row[column] for row in rows} - {""}) <= max(2, len(rows) / 2)]
    named = [f"`--label {column}`" for column in reversed(likely)] or ["`--label COLUMN`"]
    raise DataError(
        f"'{source.name}' has no label column {listed}. Name it: {' or '.join(named[:3])}.{or_folders(tree)}"
    )


def _cells(sources: Iterable[TableSource], field: str) -> list[str]:
    """The values of a field in all tables, without line breaks."""
    columns = ((source, source.columns.used.get(field)) for source in sources)
    return [one_line(row[column]) for source, column in columns if column for row in source.table.rows]


def _spelling(sources: Iterable[TableSource], field: str) -> Callable[[str], str]:
    """The text of a value of a field: without line breaks, a number in one spelling where all values are numbers."""
    numbers = canonical_numbers(_cells(sources, field))
    return lambda text: numbers.get(one_line(text), one_line(text))


def _refuse_lists(corpus: TableCorpus, spelling: Callable[[str], str]) -> None:
    """Raise DataError for labels that are lists: in brackets, or of labels that other rows have alone."""
    labels = {spelling(label) for label in _cells(corpus.sources, "label")}
    for label in sorted(labels):
        parts = re.split(r"\s*[;,|]\s*", label)
        if _is_list(label) or (len(parts) > 1 and labels.issuperset(parts)):
            source = corpus.sources[0]
            raise DataError(
                f"The column '{source.columns.label}' of '{source.name}' has lists of labels, such as '{label}', and "
                f"auricle takes one label per clip, for now. Keep one label in each row.{or_folders(corpus.tree)}"
            )


def _is_list(text: str) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return False
    for parse in (json.loads, ast.literal_eval):
        try:
            return isinstance(parse(text), list)
        except (ValueError, SyntaxError):
            continue
    return False


def _clip(
    source: TableSource, row: Row, where: str, spelling: Mapping[str, Callable[[str], str]], sample_rate: int | None
) -> Clip | Excluded:
    columns = source.columns
    path = row[columns.path].strip()
    label = spelling["label"](row[columns.label or ""])
    name = f"{path} ({where})" if path else where
    if not path:
        return Excluded(name, "no path")
    if not label:
        return Excluded(name, "no label")
    if path not in source.matches.files:
        return Excluded(name, "names several files" if path in source.matches.ambiguous else "listed, but missing")
    file, location = source.matches.files[path]
    if not is_audio(file):
        return Excluded(name, "not a recording, by its name")
    try:
        start, end = span(row, columns, sample_rate)
    except ValueError as error:
        return Excluded(name, str(error))
    segment = f"#{start or 0.0:.9g}-{'' if end is None else f'{end:.9g}'}" if (start, end) != (None, None) else ""
    group = spelling["group"](row[columns.group]) or None if columns.group else None
    fold = spelling["fold"](row[columns.fold]) if columns.fold else ""
    meta = {column: row[column] for column in row if row[column] and column not in columns.used.values()}
    return Clip(file + segment, location, label, group, official_fold(fold) or fold or source.fold, start, end, meta)


def _one_per_segment(rows: Iterable[tuple[str, Clip]]) -> tuple[list[Clip], list[Excluded]]:
    """A clip for each segment: equal rows are one, and rows that contradict each other are all excluded."""
    by_segment: dict[tuple[str, float | None, float | None], list[tuple[str, Clip]]] = defaultdict(list)
    for where, clip in rows:
        by_segment[clip.source, clip.start, clip.end].append((where, clip))
    clips, excluded = [], []
    for same in by_segment.values():
        first_where, first = same[0]
        differing = next(
            (field for field in ("label", "group", "fold") if len({getattr(clip, field) for _, clip in same}) > 1), None
        )
        if differing is None:
            clips.append(first)
            excluded += [Excluded(f"{clip.id} ({where})", f"repeats {first_where}") for where, clip in same[1:]]
        else:
            values = ", ".join(f"'{getattr(clip, differing) or ''}' in {where}" for where, clip in same)
            reason = f"rows contradict each other: the {differing} is {values}"
            excluded += [Excluded(f"{clip.id} ({where})", reason) for where, clip in same]
    return clips, excluded


def _grouped(clips: list[Clip], sources: Sequence[TableSource], requested: str | None) -> tuple[list[Clip], str, str]:
    """Clips with groups: of their column, else the recording where several are segments of one; a note; the name."""
    column = sources[0].columns.group
    if column is not None and (requested is not None or len({clip.group for clip in clips}) > 1):
        return clips, "", "group"
    clips = [
        replace(clip, group=None, meta={**clip.meta, column: clip.group}) if column and clip.group else clip
        for clip in clips
    ]
    constant = f"the column '{column}' has one value only, so it is no group" if column is not None and clips else ""
    recording = {
        clip.id: clip.id.rpartition("#")[0] if (clip.start, clip.end) != (None, None) else clip.id for clip in clips
    }
    segments = Counter(recording.values())
    if not segments or max(segments.values()) < 2:
        return clips, constant, "group"
    if len(segments) > 1:
        clips = [replace(clip, group=recording[clip.id]) for clip in clips]
        note = "the group is the recording, so segments of one recording are on one side of the split"
        return clips, f"{constant}; {note}" if constant else note, "recording"
    note = (
        f"all clips are segments of one recording, '{clips[0].id.rpartition('#')[0]}': neighbouring segments are on "
        "both sides of the split, so the figures are for this recording and too high for any other"
    )
    return clips, f"{constant}; {note}" if constant else note, "group"


def _columns_note(sources: Sequence[TableSource]) -> str:
    """Which tables are used, and which of their columns."""
    first = sources[0]
    kind = f"{len(sources)} tables such as '{first.name}'" if len(sources) > 1 else f"'{first.name}'"
    title = f"{first.title}: " if first.title else ""
    return f"{title}columns of {kind}: " + ", ".join(
        f"{field} '{column}'" for field, column in first.columns.used.items()
    )


def _other_folders(clips: Iterable[Clip]) -> str:
    """How many labels are not the folder that the recording is in, where the folders are called like the classes."""
    folders = [(clip, posixpath.basename(posixpath.dirname(clip.id))) for clip in clips]
    if not {clip.label for clip, _ in folders} <= {folder for _, folder in folders}:
        return ""
    other = [f"'{clip.id}' ({clip.label})" for clip, folder in folders if clip.label != folder]
    return f"{len(other)} labels of the table are not the recording's folder, such as {other[0]}" if other else ""


def _counts(excluded: Iterable[Excluded]) -> list[str]:
    """How many rows and recordings are not used, by reason, with an example."""
    names: dict[str, list[str]] = defaultdict(list)
    for item in excluded:
        reason = next((start for start in _COUNTED if item.reason.startswith(start)), None)
        if reason is not None or "row " in item.name:
            names[reason or item.reason].append(item.name)
    return [
        f"{len(listed)} {_COUNTED.get(reason, 'rows are not used')}, such as '{listed[0]}'"
        + ("" if reason in _COUNTED else f": {reason}")
        for reason, listed in names.items()
    ]


def _label_notes(sources: Sequence[TableSource]) -> list[str]:
    """What was changed in labels."""
    raw = [row[source.columns.label].strip() for source in sources if source.columns.label for row in source.table.rows]
    broken = sum(one_line(text) != text for text in raw)
    numbers = canonical_numbers(map(one_line, raw))
    changed = [f"{value} as {number}" for value, number in numbers.items() if value != number]
    notes = [f"line breaks or tabs in {broken} labels became blanks"] if broken else []
    return notes + ([f"labels are numbers, written in one way ({', '.join(changed[:3])})"] if changed else [])


def _no_table(tree: Tree) -> str:
    tables = [name for name in tree.names if name.lower().endswith(TABLE_SUFFIXES)]
    count = f"{len(tables)} tables ({', '.join(tables[:5])}), none of which names a recording" if tables else "no table"
    return (
        f"'{tree.location}' has {count}. Give a table ({', '.join(TABLE_SUFFIXES)}), a folder with a metadata.csv, or "
        "name the table: `--set data.reader_options.table=NAME`."
    )
