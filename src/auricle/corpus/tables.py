"""Tables as rows of text: delimited text, JSON lines and arrays, Parquet. Every table is read here.

In: a tree and the name of a table in it, or the text of a delimited table. Out: its columns, and its rows as mappings
from column to text, where a missing value is the empty text, with notes on what was worked out: the encoding, columns
without a name. Nothing here knows what the columns mean.
"""

import csv
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from auricle.corpus.encodings import decode
from auricle.corpus.tree import Tree, is_audio, read_bytes
from auricle.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
DELIMITERS = ",\t;|"
_NUMBER = re.compile(r"[+-]?\d+([.]\d*)?")
_SAMPLE_LINES = 20
Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table, each row with all columns. `overlong` says which line has too many cells."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    overlong: str = ""


def read_table(tree: Tree, name: str, required: Iterable[str] = ()) -> Table:
    """Read a table of a tree. Raises DataError if it is unreadable, has no rows or lacks a required column."""
    table = parse_table(tree, name)
    where = f"'{name}' in '{tree.location}'"
    if not table.rows:
        raise DataError(f"{where} has no rows. It needs a header and one row per clip.")
    if missing := sorted(set(required) - set(table.columns)):
        raise DataError(
            f"{where} lacks the columns {', '.join(missing)} (columns: {', '.join(table.columns)}). Download it again, "
            "or remove it."
        )
    return table


def parse_table(tree: Tree, name: str) -> Table:
    """Read a table, which may be empty. Raises DataError if it is unreadable."""
    where = f"'{name}' in '{tree.location}'"
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".parquet":
        return _parquet(tree, name, where)
    text, notes = table_text(tree, name)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return Table(*_as_text(_json_records(text, where)), notes)
    columns, numbered, more = parse_delimited(text, where, DELIMITERS + " " * (suffix == ".txt"))
    long = [(line, int(row[""])) for line, row in numbered if "" in row]
    overlong = overlong_row(where, *long[0], columns, len(long) - 1) if long else ""
    rows = tuple({column: row[column] for column in columns} for _, row in numbered)
    return Table(tuple(columns), rows, notes + more, overlong)


def table_text(tree: Tree, name: str) -> tuple[str, tuple[str, ...]]:
    """The text of a file, whatever its encoding, with a note where that was worked out."""
    text, encoding, rival = decode(read_bytes(tree.source(name)))
    if encoding == "utf-8":
        return text, ()
    note = f"'{posixpath.basename(name)}' is not UTF-8 and was read as {encoding}"
    if not encoding.startswith("utf"):
        word = next((word for word in re.findall(r"\w+", text) if not word.isascii()), "")
        note += f"{f', but could be {rival}' if rival else ''}: if '{word}' looks wrong, save the table as UTF-8"
    return text, (note,)


def parse_delimited(
    text: str, where: str, delimiters: str = DELIMITERS, *, exact: bool = False
) -> tuple[list[str], list[tuple[int, Row]], tuple[str, ...]]:
    """Parse a delimited table with a header: its columns, each row with the number of its last line, and notes.

    A line `sep=;`, blank lines and comments (#) may precede the header. A row with too many cells has
    their number under "". `exact` keeps blanks at the start of cells and refuses such rows. Raises DataError, which
    names the table by `where`.
    """
    lines = io.StringIO(text, newline="").readlines()
    skipped, delimiter = 0, ""
    while skipped < len(lines) and not exact:
        line = lines[skipped].strip()
        if declared := re.fullmatch(r'"?sep=(.)"?', line, re.IGNORECASE):
            delimiter = declared[1]
        elif line and not line.startswith("#"):
            break
        skipped += 1
    lines = lines[skipped:]
    delimiter = delimiter or _delimiter(lines, delimiters, exact)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=not exact)
    rows: list[tuple[int, Row]] = []
    try:
        columns, notes = _named(next(reader, []), exact)
        if not exact and any(is_audio(column) for column in columns):
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            columns, notes = _named([""] * len(columns), exact)
            notes = ("it has no header line, so its columns are called column 1, column 2 …",)
        for cells in reader:
            if exact and any(cell.strip() for cell in cells[len(columns) :]):
                raise DataError(overlong_row(where, reader.line_num, len(cells), columns))
            if any(cell.strip() for cell in cells) or (exact and cells):
                row = dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=False))
                if any(cell.strip() for cell in cells[len(columns) :]):
                    row[""] = str(len(cells))
                rows.append((reader.line_num + skipped, row))
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num + skipped}: {error}. Fix that line.") from error
    return columns, rows, notes


def overlong_row(where: str, line: int, cells: int, columns: Sequence[str], more: int = 0) -> str:
    """The message on a row with too many cells, and how many more there are, which only quotes can put into columns."""
    count = f"{cells} cells under {len(columns)} columns ({', '.join(columns[:8])})"
    others = f", as {more} other lines have too many" if more else ""
    return f'{where}, line {line}, has {count}{others}. Put a text with commas in double quotes: "dog, small".'


def one_line(text: str) -> str:
    """A cell without blanks around it, and with a blank for each line break or tab in it."""
    text = text.strip()
    return text if text.isprintable() else re.sub(r"\s*[\n\r\t\v\f\x85\u2028\u2029]\s*", " ", text)


def canonical_numbers(values: Iterable[str]) -> dict[str, str]:
    """One spelling for each of a column's values: where all are numbers, 0, 0.0 and 00 are one value.

    Identical numbers in one spelling stay as they are written, so that codes such as 007 keep their zeros.
    """
    distinct = sorted({value for value in values if value})
    if not all(_NUMBER.fullmatch(value) for value in distinct):
        return {}
    numbers = {value: float(value) for value in distinct}
    if len(set(numbers.values())) == len(distinct) and not any("." in value for value in distinct):
        return {}
    return {value: f"{number:.15g}" for value, number in numbers.items()}


def _delimiter(lines: Sequence[str], delimiters: str, exact: bool) -> str:
    """The delimiter that divides the header, and most rows after it into as many cells."""
    if exact:
        return max(delimiters, key=lines[0].count) if lines else delimiters[0]

    def fit(delimiter: str) -> tuple[int, int]:
        try:
            counts = [len(cells) for cells in csv.reader(lines[:_SAMPLE_LINES], delimiter=delimiter) if cells]
        except csv.Error:
            return 0, 0
        return (counts.count(counts[0]), counts[0]) if counts and counts[0] > 1 else (0, 0)

    return max(delimiters, key=fit)


def _named(header: Sequence[str], exact: bool) -> tuple[list[str], tuple[str, ...]]:
    """Column names that are unique and not empty, and a note on names that occur twice."""
    header = [column.strip() for column in header]
    if exact:
        return header, ()
    seen = Counter[str]()
    columns, notes = [], []
    for number, column in enumerate(header, start=1):
        column = column or f"column {number}"
        seen[column] += 1
        if seen[column] > 1:
            notes.append(f"there are two columns '{column}', and the second is called '{column}.{seen[column]}'")
            column = f"{column}.{seen[column]}"
        columns.append(column)
    return columns, tuple(notes)


def _json_records(text: str, where: str) -> Iterator[Mapping[str, object]]:
    """The objects of a JSON array, or of one JSON object per line."""
    if text.lstrip().startswith("["):
        try:
            records = list(enumerate(json.loads(text), start=1))
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON: {error}. Fix it.") from error
        kind = "entry"
    else:
        records, kind = [], "line"
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                records += [(number, json.loads(line))] if line.strip() else []
            except json.JSONDecodeError as error:
                raise DataError(f"{where}, line {number}, is not JSON: {error}. Fix that line.") from error
    for number, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{where}, {kind} {number}, is not a JSON object of columns and values. Fix that {kind}.")
        yield record


def _parquet(tree: Tree, name: str, where: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with tree.open(name) as file:
            # Sounds inside a table would fill the memory, and the reader `hub` reads them.
            light = [field.name for field in pq.read_schema(file) if "binary" not in str(field.type)]
            table = pq.read_table(file, columns=light)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{where} is not a readable Parquet table: {error}.") from error
    return Table(*_as_text(table.to_pylist()))


def _as_text(records: Iterable[Mapping[str, object]]) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    records = list(records)
    columns = tuple(dict.fromkeys(column for record in records for column in record))
    return columns, tuple({column: as_text(record.get(column)) for column in columns} for record in records)


def as_text(value: object) -> str:
    """A value as a cell: the empty text for none, JSON for what is neither text nor a number."""
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
