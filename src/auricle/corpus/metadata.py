"""Which tables and annotation files of a corpus name its recordings, and by which column.

In: a tree, and the tables and columns that the user named. Out: the tables that are used, each with its columns and the
file of each path. A table that names recordings and cannot be used raises its reason; one that has nothing to do with
them is mentioned in a note.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from auricle.corpus import columns as column_roles
from auricle.corpus.annotations import Annotations, collect
from auricle.corpus.columns import Columns
from auricle.corpus.layout import official_fold
from auricle.corpus.matching import Matcher, Matches
from auricle.corpus.tables import TABLE_SUFFIXES, Table, parse_table
from auricle.corpus.tree import Tree, is_audio, open_tree, state_of
from auricle.errors import DataError, UsageError, unknown

# More text or JSON files than this beside the recordings are one per recording, not tables.
_MOST_TEXT_FILES = 20
# The value of the option `table` that chooses all annotation files.
ANNOTATIONS = "annotations"


@dataclass(frozen=True)
class Options:
    table: str | None = None
    root: str | None = None
    path: str | None = None
    label: str | None = None
    group: str | None = None
    fold: str | None = None
    start: str | None = None
    end: str | None = None
    duration: str | None = None
    tier: str | None = None
    sample_rate: int | None = None

    @property
    def columns(self) -> dict[str, str | None]:
        return {field: getattr(self, field) for field in column_roles.USUAL}


@dataclass(frozen=True)
class TableSource:
    """One table, its columns, and the files that its rows name."""

    name: str
    title: str
    table: Table
    columns: Columns
    matches: Matches
    fold: str | None = None

    @property
    def paths(self) -> list[str]:
        return [row[self.columns.path].strip() for row in self.table.rows]


@dataclass(frozen=True)
class TableCorpus:
    """The tables that are used, the tree that holds their files, and what to know about the choice."""

    tree: Tree
    sources: tuple[TableSource, ...]
    notes: tuple[str, ...] = ()


def find(tree: Tree, options: Options) -> TableCorpus:
    """The tables that name recordings; none where no table does.

    Raises DataError where one does or should and cannot be used, UsageError for an unknown table or column.
    """
    return _find_cached(tree, options, state(tree))


def state(tree: Tree) -> tuple[str, ...]:
    """What changes when a table does: a corpus is detected, read and described with one reading of its tables."""
    if tree.is_archive:
        return (state_of(tree.location),)
    return tuple(state_of(tree.source(name)) for name in tree.names if tree.is_folder and not is_audio(name))


@lru_cache(maxsize=2)
def _find_cached(tree: Tree, options: Options, states: tuple[str, ...]) -> TableCorpus:
    if len(tree.names) > 1 or not tree.is_folder:
        return _chosen(tree, tree, options)
    # A table alone: its paths are tried as they are, then against the files next to it.
    try:
        if (corpus := _chosen(tree, tree, options)).sources:
            return corpus
    except DataError:
        pass
    beside = open_tree(os.path.join(tree.location, options.root or ""))
    return _chosen(beside, tree, replace(options, root=None, table=tree.names[0]))


def ignored_tables(tree: Tree) -> str:
    """What to say of tables where another reader is used; empty for none."""
    try:
        corpus = find(tree, Options())
    except (DataError, UsageError):
        return "the tables were ignored"
    named = [f"'{source.name}' names recordings and was ignored" for source in corpus.sources[:1]]
    return "; ".join([*named, *corpus.notes])


def has_folders(tree: Tree) -> bool:
    """Whether the recordings are in two folders or more, which may be classes."""
    return len({posixpath.dirname(name) for name in tree.names if is_audio(name)}) > 1


def or_folders(tree: Tree) -> str:
    """The end of a message that a table cannot be used."""
    return " Or ignore the table: `--reader folder`." if has_folders(tree) else ""


def _chosen(tree: Tree, tables: Tree, options: Options) -> TableCorpus:
    """Choose the tables that name recordings. Raises DataError where there are some, and none can be used."""
    names: Sequence[str] = tables.names
    if options.table not in (None, ANNOTATIONS):
        names = [name for name in names if name == options.table or name.endswith(f"/{options.table}")]
        if len(names) != 1:
            listed = [name for name in tree.names if name.lower().endswith(TABLE_SUFFIXES)]
            raise UsageError(unknown("table", options.table or "", listed or ["(none)"]))
    annotated, orphans = collect(tables, names, options.tier, tree)
    sources = [_annotation_source(tree, item, options) for item in annotated]
    sources = [source for source in sources if source.matches.files] or sources
    others, problems, notes = _other_tables(
        tree, tables, names, {item.name for item in annotated} | set(orphans), options
    )
    notes = [f"'{name}' belongs to no recording by its name" for name in orphans] + notes
    matched = [source for source in others if source.matches.files]
    if sources:
        labelled = [source.name for source in matched if source.columns.label]
        if labelled and options.table is None:
            option = "`--set data.reader_options.table="
            raise DataError(
                f"'{labelled[0]}' and '{sources[0].name}' ({sources[0].title}) in '{tree.location}' both label "
                f"recordings. Choose: {option}{labelled[0]}`, or {option}{ANNOTATIONS}`."
            )
        notes += [f"'{source.name}' also names recordings and was not used" for source in matched]
        return TableCorpus(tree, tuple(sources), tuple(notes))
    if not matched and others:
        raise DataError(_out_of_step(tree, others[0]))
    if not matched and problems:
        raise DataError(f"{problems[0]}{or_folders(tree)}")
    if not matched and options.table is not None:
        raise DataError(f"'{options.table}' in '{tree.location}' names no recording. {notes[-1] if notes else ''}.")
    used, more = _together(tree, matched)
    for source in used:
        column_roles.check(source.table.columns, options.columns)
    return TableCorpus(tree, tuple(used), (*notes, *more, *problems))


def _other_tables(
    tree: Tree, tables: Tree, names: Iterable[str], annotated: set[str], options: Options
) -> tuple[list[TableSource], list[str], list[str]]:
    """The tables that name recordings or should, what is wrong with unreadable ones, and notes on unrelated ones."""
    sources, problems, notes = [], [], []
    columns: dict[str, None] = {}
    for name in _table_names(tree, names, annotated, options.table):
        try:
            table = parse_table(tables, name)
        except DataError as error:
            # Much JSON is no table, so one that cannot be read as a table is no reason to stop.
            if not name.lower().endswith(".json") or options.table:
                problems.append(str(error))
            continue
        columns |= dict.fromkeys(table.columns)
        source = _source(tree, name, table, options)
        if source is not None:
            sources.append(source)
        elif not name.lower().endswith((".json", ".txt")):
            shown = ", ".join(table.columns[:8]) or "none"
            notes.append(f"'{name}' names no recording and was ignored (columns: {shown})")
    if not sources and not annotated:
        column_roles.check(list(columns), {"path": options.path})
    return sources, problems, notes


def _table_names(tree: Tree, names: Iterable[str], used: set[str], requested: str | None) -> list[str]:
    """The files that may be tables; JSON and text only where there are few, for many are one per recording."""
    stems = {posixpath.splitext(name)[0] for name in tree.names if is_audio(name)}
    few = {
        suffix: sum(name.lower().endswith(suffix) for name in tree.names) <= _MOST_TEXT_FILES
        for suffix in (".json", ".txt")
    }
    chosen = []
    for name in names:
        stem, suffix = posixpath.splitext(name)
        suffix = suffix.lower()
        alone = suffix not in few or (few[suffix] and stem not in stems)
        if name not in used and suffix in (*TABLE_SUFFIXES, ".txt") and (requested is not None or alone):
            chosen.append(name)
    return chosen


def _annotation_source(tree: Tree, item: Annotations, options: Options) -> TableSource:
    own = {"label": item.label, "start": item.start, "end": item.end, "group": item.group}
    requested = own | {field: column for field, column in options.columns.items() if column is not None}
    column_roles.check(item.table.columns, requested | {"path": options.path})
    columns = column_roles.choose(item.table.columns, options.path or item.path, requested)
    matches = Matcher(tree, _base(tree, item.name, options)).match(row[columns.path].strip() for row in item.table.rows)
    fold = official_fold(posixpath.basename(posixpath.dirname(item.name))) if item.name.endswith("wav.scp") else None
    return TableSource(item.name, item.title, item.table, columns, matches, fold)


def _source(tree: Tree, name: str, table: Table, options: Options) -> TableSource | None:
    """A table whose values name recordings, or that should: None for one that has nothing to do with them."""
    if options.path is not None and options.path not in table.columns:
        return None
    matcher = Matcher(tree, _base(tree, name, options))
    requested = options.path
    named = [requested] if requested else column_roles.usual("path", table.columns)
    if not table.rows:
        return None
    best = _best(matcher, table, named)
    if best is None and requested is None:
        best = _best(matcher, table, [column for column in table.columns if column not in named], least=0.5)
    if best is None:
        is_text = name.lower().endswith((".txt", ".json"))
        claimed = [column for column in named or table.columns if _looks_like_paths(table, column)]
        claimed = claimed or (named if posixpath.basename(name).lower().startswith("metadata.") or requested else [])
        if not claimed or (is_text and options.table is None):
            return None
        best = claimed[0], matcher.match(row[claimed[0]].strip() for row in table.rows)
    path, matches = best
    if matches.ambiguous:
        table, path, matches = _with_folders(matcher, table, path, matches)
    columns = column_roles.choose(table.columns, path, options.columns)
    if columns.label is None and "audio_filepath" in table.columns and "text" in table.columns:
        columns = replace(columns, label="text" if _repeats(table, "text") else None)
    rest = [column for column in table.columns if column != path]
    if columns.label is None and len(rest) == 1 and rest[0].startswith("column ") and _repeats(table, rest[0]):
        columns = replace(columns, label=rest[0])
    return TableSource(name, "", table, columns, matches, _fold_of(name))


def _base(tree: Tree, table: str, options: Options) -> str:
    """The folder that the paths of a table are relative to."""
    if options.root is None:
        return posixpath.dirname(table)
    return options.root if tree.is_folder else options.root.strip("/")


def _best(matcher: Matcher, table: Table, columns: Iterable[str], least: float = 0.0) -> tuple[str, Matches] | None:
    """The column of which most values name a recording, if any do, and a share of `least` of the distinct ones."""
    best = None
    for column in columns:
        values = {row[column].strip(): None for row in table.rows}
        matches = matcher.match(values)
        count = len(matches.files)
        enough = count >= least * len(values) or _looks_like_paths(table, column)
        if count and enough and (best is None or count > len(best[1].files)):
            best = column, matches
    return best


def _with_folders(matcher: Matcher, table: Table, path: str, matches: Matches) -> tuple[Table, str, Matches]:
    """The same table with paths of two columns, where only these together name each file: folder and file name."""
    best = table, path, matches
    for column in table.columns:
        paths = [f"{row[column].strip()}/{row[path].strip()}" for row in table.rows]
        joined = matcher.match(paths)
        if column != path and not joined.ambiguous and len(joined.files) > len(best[2].files):
            name = f"{column}/{path}"
            rows = tuple({**row, name: text} for row, text in zip(table.rows, paths, strict=True))
            note = f"paths are made of the columns '{column}' and '{path}', as the latter name several files each"
            best = replace(table, columns=(*table.columns, name), rows=rows, notes=(*table.notes, note)), name, joined
    return best


def _looks_like_paths(table: Table, column: str) -> bool:
    return 2 * sum(is_audio(row[column].strip()) for row in table.rows) >= len(table.rows)


def _repeats(table: Table, column: str) -> bool:
    return 2 * len({row[column] for row in table.rows}) <= len(table.rows)


def _fold_of(name: str) -> str | None:
    """The split that a table is for, by its folder or its own name: train/metadata.csv, metadata_train.csv."""
    folder, base = posixpath.split(name)
    words = re.split(r"[^a-zA-Z]+", posixpath.splitext(base)[0])
    folds = {fold for word in words if (fold := official_fold(word))}
    return official_fold(posixpath.basename(folder)) or (folds.pop() if len(folds) == 1 else None)


def _together(tree: Tree, sources: Sequence[TableSource]) -> tuple[Sequence[TableSource], list[str]]:
    """Several tables are one corpus if each is one split of it; else the only one with labels is used."""
    if len(sources) < 2:
        return [replace(source, fold=None) for source in sources], []
    alike = len({source.table.columns for source in sources}) == 1
    files = [name for source in sources for name, _ in source.matches.files.values()]
    same_name = len({posixpath.basename(source.name) for source in sources}) == 1
    if alike and (all(source.fold for source in sources) or (same_name and len(set(files)) == len(files))):
        return sources, []
    labelled = [source for source in sources if source.columns.label in source.table.columns]
    if len(labelled) == 1:
        others = [source.name for source in sources if source is not labelled[0]]
        return [replace(labelled[0], fold=None)], [f"'{name}' names recordings and has no labels" for name in others]
    listed = ", ".join(f"'{source.name}' ({', '.join(source.table.columns[:8])})" for source in sources[:5])
    raise DataError(
        f"{len(sources)} tables in '{tree.location}' name recordings: {listed}. Choose one: `--set "
        f"data.reader_options.table={sources[0].name}`.{or_folders(tree)}"
    )


def _out_of_step(tree: Tree, source: TableSource) -> str:
    """Why a table that should name recordings names none."""
    paths = [path for path in dict.fromkeys(source.paths) if path]
    recordings = [name for name in tree.names if is_audio(name)]
    several = sum(path in source.matches.ambiguous for path in paths)
    how = f"{several} of its paths name several files each" if several else "none of its paths names a file"
    files = f"{len(recordings)} recordings, such as '{recordings[0]}'" if recordings else "no recordings"
    return (
        f"'{source.name}' is out of step with '{tree.location}': {how}. Its column '{source.columns.path}' has "
        f"{len(paths)} paths, such as '{paths[0] if paths else ''}', and there are {files}. Correct the paths, or name "
        f"another column (columns: {', '.join(source.table.columns)}): `--set data.reader_options.path=COLUMN`."
        f"{or_folders(tree)}"
    )
