"""Tables as rows of text: CSV and TSV (the delimiter is found out), JSON lines, Parquet.

In: a tree and the name of a table in it. Out: its columns, and its rows as mappings from column to text; what is
missing is the empty text. Nothing here knows what the columns mean.
"""

import csv
import io
import json
import posixpath
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from auricle.corpus.tree import Tree
from auricle.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
Row = Mapping[str, str]


def columns_of(tree: Tree, name: str) -> tuple[str, ...]:
    """The columns of a table. Raises DataError if it cannot be read or has no rows."""
    return _table(tree, name)[0]


def rows_of(tree: Tree, name: str) -> Sequence[Row]:
    """The rows of a table, every one with all columns. Raises DataError if it cannot be read or has none."""
    return _table(tree, name)[1]


def _table(tree: Tree, name: str) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".parquet":
        columns, rows = _parquet(tree, name)
    elif suffix in (".jsonl", ".ndjson"):
        columns, rows = _json_lines(tree, name)
    else:
        columns, rows = _delimited(tree, name)
    if not rows:
        raise DataError(
            f"'{name}' in '{tree.location}' has no rows. Give a table with a header and one row for each clip."
        )
    return tuple(columns), tuple(rows)


def _delimited(tree: Tree, name: str) -> tuple[Sequence[str], Sequence[Row]]:
    text = tree.read_text(name)
    header = text.partition("\n")[0]
    delimiter = max(",\t;|", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", skipinitialspace=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [{column: row[column] for column in columns} for row in reader]
    except csv.Error as error:
        raise DataError(f"'{name}' in '{tree.location}', line {reader.line_num}: {error}. Mend that line.") from error
    return columns, rows


def _json_lines(tree: Tree, name: str) -> tuple[Sequence[str], Sequence[Row]]:
    records = []
    for number, line in enumerate(tree.read_text(name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"'{name}' in '{tree.location}', line {number}, is no JSON: {error}.") from error
        if not isinstance(record, dict):
            raise DataError(f"'{name}' in '{tree.location}', line {number}, is no JSON object of columns and values.")
        records.append(record)
    return _as_text(records)


def _parquet(tree: Tree, name: str) -> tuple[Sequence[str], Sequence[Row]]:
    try:
        with tree.open(name) as file:
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"'{name}' in '{tree.location}' is no readable Parquet table: {error}.") from error
    return _as_text(table.to_pylist())


def _as_text(records: Sequence[Mapping[str, object]]) -> tuple[Sequence[str], Sequence[Row]]:
    columns = list(dict.fromkeys(column for record in records for column in record))
    return columns, [{column: _text(record.get(column)) for column in columns} for record in records]


def _text(value: object) -> str:
    if value is None or value != value:  # a missing number is not equal to itself
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
