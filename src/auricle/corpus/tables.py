"""Tables as rows of text: CSV and TSV with any usual delimiter, JSON lines, Parquet. Every table is read here.

In: a tree and the name of a table in it, or the text of a delimited table. Out: its columns, and its rows as mappings
from column to text, where a missing value is the empty text. Nothing here knows what the columns mean.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from auricle.corpus.tree import Tree
from auricle.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = ",\t;|"
Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table with at least one row. Every row has all columns."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(tree: Tree, name: str, required: Iterable[str] = ()) -> Table:
    """Read a table of a tree. Raises DataError if it is unreadable, has no rows or lacks a required column."""
    where = f"'{name}' in '{tree.location}'"
    suffix = posixpath.splitext(name)[1].lower()
    if suffix == ".parquet":
        columns, rows = _parquet(tree, name, where)
    elif suffix in (".jsonl", ".ndjson"):
        columns, rows = _as_text(_json_lines(tree.read_text(name), where))
    else:
        columns, numbered = parse_delimited(tree.read_text(name), where)
        rows = [row for _, row in numbered]
    if not rows:
        raise DataError(f"{where} has no rows. It needs a header and one row per clip.")
    if missing := sorted(set(required) - set(columns)):
        raise DataError(
            f"{where} lacks the columns {', '.join(missing)} (columns: {', '.join(columns)}). Download it again, or "
            "remove it."
        )
    return Table(tuple(columns), tuple(rows))


def parse_delimited(text: str, where: str, *, exact: bool = False) -> tuple[list[str], list[tuple[int, Row]]]:
    """Parse a delimited table with a header: its columns, and each row with the number of its last line.

    The header decides the delimiter. `exact` keeps blanks at the start of cells and refuses rows with more cells than
    the header. Raises DataError, which names the table by `where`.
    """
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=not exact)
    rows: list[tuple[int, Row]] = []
    try:
        columns = [column.strip() for column in next(reader, [])]
        for cells in reader:
            if exact and any(cell.strip() for cell in cells[len(columns) :]):
                raise DataError(
                    f"{where}, line {reader.line_num}, has {len(cells)} cells under {len(columns)} columns. Put a text "
                    "with commas in double quotes."
                )
            if cells:
                cells += [""] * (len(columns) - len(cells))
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}. Fix that line.") from error
    return columns, rows


def _json_lines(text: str, where: str) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}, line {number}, is not JSON: {error}. Fix that line.") from error
        if not isinstance(record, dict):
            raise DataError(f"{where}, line {number}, is not a JSON object of columns and values. Fix that line.")
        yield record


def _parquet(tree: Tree, name: str, where: str) -> tuple[Sequence[str], Sequence[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with tree.open(name) as file:
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{where} is not a readable Parquet table: {error}.") from error
    return _as_text(table.to_pylist())


def _as_text(records: Iterable[Mapping[str, object]]) -> tuple[Sequence[str], Sequence[Row]]:
    records = list(records)
    columns = list(dict.fromkeys(column for record in records for column in record))
    return columns, [{column: _text(record.get(column)) for column in columns} for record in records]


def _text(value: object) -> str:
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
