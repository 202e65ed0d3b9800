"""Labels put right: a table of clips, the labels that they have, and the labels that they should have.

In: an Index and a CSV with the columns id, label, was and, if wanted, comment; an empty label leaves the clip out. Out:
the Index as if the corpus had been labelled so. `was` is the corpus' own label: when it is another by now, the file was
made for another state of the corpus, and nothing of it is applied. What a spreadsheet saves (a byte order mark, CRLF,
semicolons) is read as well.
"""

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from auricle.corpus.clip import Clip, Excluded, Index
from auricle.errors import DataError
from auricle.run_folder import atomic_write

COLUMNS = ("id", "label", "was", "comment")
NEEDED = COLUMNS[:3]


@dataclass(frozen=True)
class Fix:
    """One clip's right label; empty where the clip is to be left out. `others` are columns of the user's own."""

    id: str
    label: str
    was: str
    comment: str = ""
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Fixed:
    """What a file of fixes did to a corpus."""

    name: str
    changed: int
    excluded: int

    @property
    def described(self) -> str:
        labels = "1 label" if self.changed == 1 else f"{self.changed} labels"
        clips = "1 clip" if self.excluded == 1 else f"{self.excluded} clips"
        return f"{self.name} changed {labels} and left {clips} out"


def apply(index: Index, path: str | Path) -> tuple[Index, Fixed]:
    """Relabel the clips that a file names and leave out those that it gives no label.

    Raises DataError for a file that cannot be read or does not belong to this corpus, and when one class is left.
    """
    name = Path(path).name
    corrections = read(path)
    check(index, corrections, path)
    by_id = {fix.id: fix for fix in corrections}
    clips: list[Clip] = []
    excluded: list[Excluded] = []
    changed = 0
    for clip in index:
        fix = by_id.get(clip.id)
        if fix is None:
            clips.append(clip)
        elif fix.label:
            clips.append(replace(clip, label=fix.label))
            changed += fix.label != clip.label
        else:
            # The comment is the listener's own: what is left out and why stands in reports that others see.
            excluded.append(Excluded(clip.id, f"left out by {name}"))
    labels = sorted({clip.label for clip in clips})
    if len(labels) < 2:
        there = f"one class, '{labels[0]}'" if labels else "no clip"
        raise DataError(f"'{path}' leaves {there} of '{index.origin}', and a classifier needs two. Keep more clips.")
    fixed = Fixed(name, changed, len(excluded))
    return replace(index, clips=tuple(clips), excluded=(*index.excluded, *excluded)), fixed


def read(path: str | Path) -> tuple[Fix, ...]:
    """The fixes of a CSV file, in its order; none where it has a header only.

    Raises DataError for a file that is missing or no UTF-8 table, a missing column, a row without a clip, or two rows
    for one clip.
    """
    text = _text(Path(path))
    header = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=header.count))
    corrections: dict[str, Fix] = {}
    try:
        columns = [column.strip() for column in next(rows, [])]
        missing = [column for column in NEEDED if column not in columns]
        if missing:
            raise DataError(
                f"'{path}' has the columns {_quoted(columns) or 'of an empty file'} and lacks {_quoted(missing)}. "
                f"Give it a first line: {','.join(COLUMNS)}."
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            fix = _fix(columns, row, f"'{path}', line {rows.line_num},")
            if fix.id in corrections:
                raise DataError(f"'{path}' has two rows for the clip '{fix.id}'. Keep the one that holds.")
            corrections[fix.id] = fix
    except csv.Error as error:
        raise DataError(f"'{path}', line {rows.line_num}: {error}. Mend that line.") from error
    return tuple(corrections.values())


def check(index: Index, corrections: Iterable[Fix], path: str | Path) -> None:
    """Raise DataError if fixes name a clip that a corpus does not have, or one whose label is another by now."""
    labels = {clip.id: clip.label for clip in index}
    unknown = [fix.id for fix in corrections if fix.id not in labels]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"'{path}' names '{unknown[0]}'{more}, and '{index.origin}' has no such clip; one that it has is "
            f"'{index.clips[0].id}'. Give the file that was made for this corpus, or take those rows out."
        )
    moved = [fix for fix in corrections if fix.was != plain(labels[fix.id])]
    if moved:
        first = moved[0]
        more = f", and so for {len(moved) - 1} more" if len(moved) > 1 else ""
        raise DataError(
            f"'{path}' says that '{first.id}' was labelled '{first.was}', and in '{index.origin}' it is "
            f"'{labels[first.id]}'{more}. The corpus or the way it is read has changed: listen again, or mend 'was'."
        )


def write(path: Path, corrections: Iterable[Fix]) -> None:
    """Write fixes so that `read` gives them back; the file is whole at every moment, also when this is killed.

    Raises OSError where the folder does not allow it.
    """
    corrections = list(corrections)
    # A link stays one: what it leads to is written.
    path = path.resolve()
    others = list(dict.fromkeys(column for fix in corrections for column, _ in fix.others))
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow((*COLUMNS, *others))
        for fix in corrections:
            own = dict(fix.others)
            rows.writerow((fix.id, fix.label, fix.was, fix.comment, *(own.get(column, "") for column in others)))
        file.flush()
        os.fsync(file.fileno())


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text ({error}). Save it as 'CSV UTF-8'.") from error
    except OSError as error:
        raise DataError(
            f"There are no fixes to read at '{path}': {error.strerror}. Give a CSV file with the columns "
            f"{', '.join(COLUMNS)}, as `auricle listen` writes it."
        ) from error


def _fix(columns: Sequence[str], row: Sequence[str], place: str) -> Fix:
    if len(row) > len(columns):
        raise DataError(
            f"{place} has {len(row)} cells under {len(columns)} columns. Put a text with commas in double quotes."
        )
    cells = dict(zip(columns, row, strict=False))
    id = cells.get("id", "")
    if not id.strip():
        raise DataError(f"{place} names no clip in its column 'id'. Fill it in, or take the line out.")
    # An id is a file's name, and stays as it is; labels have one spelling, as when a corpus is read.
    others = tuple((column, cells.get(column, "")) for column in columns if column and column not in COLUMNS)
    label, was, comment = (plain(cells.get(column, "")) for column in COLUMNS[1:])
    return Fix(id, label, was, comment, others)


def plain(text: str) -> str:
    """One spelling for a label or comment: accents composed, no blanks around it."""
    return unicodedata.normalize("NFC", text.strip())


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names if name)
