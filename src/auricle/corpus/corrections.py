"""Corrected labels: a table of clips, the labels that they have, and the labels that they should have.

In: an Index and a CSV with the columns id, label, was and, optionally, comment; an empty label excludes the clip. Out:
the Index as if the corpus had these labels. `was` is the corpus's own label: if that has changed, the file belongs to
another state of the corpus, and none of it is applied. Files that spreadsheets save (byte order mark, CRLF, semicolons)
are accepted.
"""

import csv
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from auricle.corpus.clip import Clip, Excluded, Index
from auricle.corpus.tables import Row, parse_delimited
from auricle.corpus.tree import decode_text
from auricle.errors import DataError
from auricle.run_folder import atomic_write

COLUMNS = ("id", "label", "was", "comment")
REQUIRED = COLUMNS[:3]


@dataclass(frozen=True)
class Correction:
    """The correct label of one clip; empty to exclude the clip. `others` are the user's own columns."""

    id: str
    label: str
    was: str
    comment: str = ""
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CorrectionSummary:
    """What a corrections file changed in a corpus."""

    name: str
    changed: int
    excluded: int

    @property
    def description(self) -> str:
        labels = "1 label" if self.changed == 1 else f"{self.changed} labels"
        clips = "1 clip" if self.excluded == 1 else f"{self.excluded} clips"
        return f"{self.name} changed {labels} and excluded {clips}"


def apply(index: Index, path: str | Path) -> tuple[Index, CorrectionSummary]:
    """Relabel the clips that a file lists, and exclude those without a label in it.

    Raises DataError for a file that cannot be read or does not belong to this corpus, and if fewer than two classes
    remain.
    """
    name = Path(path).name
    corrections = read(path)
    check(index, corrections, path)
    by_id = {correction.id: correction for correction in corrections}
    clips: list[Clip] = []
    excluded: list[Excluded] = []
    changed = 0
    for clip in index:
        correction = by_id.get(clip.id)
        if correction is None:
            clips.append(clip)
        elif correction.label:
            clips.append(replace(clip, label=correction.label))
            changed += correction.label != clip.label
        else:
            # The comment stays private: reports show others what was excluded and why.
            excluded.append(Excluded(clip.id, f"excluded by {name}"))
    labels = sorted({clip.label for clip in clips})
    if len(labels) < 2:
        rest = f"one class, '{labels[0]}'" if labels else "no clip"
        raise DataError(
            f"'{path}' leaves {rest} of '{index.origin}', and a classifier needs two classes. Exclude fewer clips."
        )
    summary = CorrectionSummary(name, changed, len(excluded))
    return replace(index, clips=tuple(clips), excluded=(*index.excluded, *excluded)), summary


def read(path: str | Path) -> tuple[Correction, ...]:
    """The corrections in a CSV file, in its order; none for a file with a header only.

    Raises DataError for a missing file, one that is not a UTF-8 table, a missing column, a row without a clip, or two
    rows for one clip.
    """
    columns, rows, _ = parse_delimited(_text(Path(path)), f"'{path}'", exact=True)
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise DataError(
            f"'{path}' lacks the columns {_quoted(missing)} (columns: {_quoted(columns) or 'none'}). Write this as its "
            f"first line: {','.join(COLUMNS)}"
        )
    corrections: dict[str, Correction] = {}
    for line, row in rows:
        if not any(cell.strip() for cell in row.values()):
            continue
        if not row["id"].strip():
            raise DataError(f"'{path}', line {line}, has an empty id. Write the clip's id, or delete the line.")
        if row["id"] in corrections:
            raise DataError(f"'{path}' has two rows for the clip '{row['id']}'. Delete one of them.")
        corrections[row["id"]] = _correction(row)
    return tuple(corrections.values())


def check(index: Index, corrections: Iterable[Correction], path: str | Path) -> None:
    """Raise DataError if corrections name a clip that the corpus lacks, or one whose label has changed since."""
    labels = {clip.id: clip.label for clip in index}
    unknown = [correction.id for correction in corrections if correction.id not in labels]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"'{path}' lists '{unknown[0]}'{more}, and '{index.origin}' has no such clip (its first is "
            f"'{index.clips[0].id}'). Use the file that was written for this corpus, or delete these rows."
        )
    outdated = [correction for correction in corrections if correction.was != normalize_text(labels[correction.id])]
    if outdated:
        first = outdated[0]
        more = f", and so for {len(outdated) - 1} more" if len(outdated) > 1 else ""
        raise DataError(
            f"'{path}' has the label '{first.was}' for '{first.id}' in its column 'was', and in '{index.origin}' it is "
            f"'{labels[first.id]}'{more}. The corpus, or how it is read, has changed: listen again, or edit 'was'."
        )


def write(path: Path, corrections: Iterable[Correction]) -> None:
    """Write corrections so that `read` returns them. Atomic: the file is complete at every moment.

    Raises OSError where the folder is not writable.
    """
    corrections = list(corrections)
    # A link stays a link: its target is written.
    path = path.resolve()
    others = list(dict.fromkeys(column for correction in corrections for column, _ in correction.others))
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow((*COLUMNS, *others))
        for row in corrections:
            own = dict(row.others)
            rows.writerow((row.id, row.label, row.was, row.comment, *(own.get(column, "") for column in others)))
        file.flush()
        os.fsync(file.fileno())


def normalize_text(text: str) -> str:
    """One spelling of a label or comment: accents composed, no blanks around it."""
    return unicodedata.normalize("NFC", text.strip())


def _text(path: Path) -> str:
    try:
        return decode_text(path.read_bytes(), f"'{path}'")
    except OSError as error:
        raise DataError(
            f"The corrections file '{path}' cannot be read: {error.strerror}. Give a CSV file with the columns "
            f"{', '.join(COLUMNS)}, as `auricle listen` writes it."
        ) from error


def _correction(row: Row) -> Correction:
    # An id is a file name and stays as it is; labels are normalised as when a corpus is read.
    others = tuple((column, value) for column, value in row.items() if column and column not in COLUMNS)
    label, was, comment = (normalize_text(row.get(column, "")) for column in COLUMNS[1:])
    return Correction(row["id"], label, was, comment, others)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names if name)
