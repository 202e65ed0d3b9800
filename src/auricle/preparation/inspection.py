"""What `auricle inspect` reports, and how it shows itself: as text, as HTML in a notebook, as JSON for programs."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from auricle.corpus.clip import Index
from auricle.corpus.splits import Split
from auricle.preparation.audit import Audit
from auricle.preparation.formatting import duration

MAX_ROWS = 20


@dataclass(frozen=True)
class Table:
    """Rows under named columns; `title` has the number of all rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Inspection:
    """A corpus and its audit. `split` is what training would use; without one, `split_error` has the reason. `grouping`
    says by which field the split keeps clips together, and why.
    """

    index: Index
    audit: Audit
    split: Split | None
    split_error: str
    grouping: str

    @property
    def summary(self) -> tuple[str, ...]:
        """What is in the corpus, in sentences."""
        audit, length = self.audit, self.audit.durations
        groups = f"{audit.groups} {audit.group_name}s" if audit.groups else "no groups known"
        if self.index.num_features is not None:
            rates = _counted(audit.sample_rates, " frames a second")
            formats = f"Precomputed features of {self.index.num_features} values a frame, {rates}."
        else:
            formats = (
                f"Sample rates: {_counted(audit.sample_rates, ' Hz')}. Channels: {_counted(audit.channels)}. "
                f"Formats: {_counted(audit.containers)}."
            )
        return (
            self.index.description,
            f"{audit.usable} of {audit.clips} clips usable, {len(audit.classes)} classes, {groups}, "
            f"{duration(length.total)} of audio ({length.shortest:.2f} to {length.longest:.2f} s, "
            f"median {length.median:.2f} s).",
            formats,
            f"{audit.files}.",
        )

    @property
    def tables(self) -> tuple[Table, ...]:
        """The classes and what the audit found; what it did not find has no table."""
        audit = self.audit
        pairs = sorted(audit.duplicates, key=lambda row: not row.conflict)
        tables = (
            ("Classes", ("class", "clips"), [(label, str(clips)) for label, clips in audit.classes.items()]),
            ("Unusable", ("fault", "clip", "detail"), [(row.kind, row.id, row.detail) for row in audit.quarantined]),
            ("Warnings", ("warning", "clip", "detail"), [(row.kind, row.id, row.detail) for row in audit.warnings]),
            (
                "Duplicates",
                ("kind", "clips", "class"),
                [
                    (
                        "conflict" if row.conflict else row.kind,
                        " = ".join(row.ids),
                        " / ".join(dict.fromkeys(row.labels)),
                    )
                    for row in pairs
                ],
            ),
            (
                "Leaks across the split",
                ("fold", "kind", "trained on", "tested on"),
                [(row.fold, row.kind, row.trained, row.tested) for row in audit.leaks],
            ),
            ("Excluded", ("file", "reason"), [(row.name, row.reason) for row in audit.excluded]),
        )
        return tuple(Table(f"{title}: {len(rows)}", columns, tuple(rows)) for title, columns, rows in tables if rows)

    @property
    def findings(self) -> tuple[str, ...]:
        """What the audit found, with the number of each kind: Unusable: 3, Warnings: 1."""
        return tuple(table.title for table in self.tables if not table.title.startswith("Classes:"))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before training: the audit's notes and the split's, or why there is no split."""
        grouping = (self.grouping,) if self.grouping else ()
        if self.split is None:
            return (*self.audit.notes, *grouping, f"It cannot be split as requested: {self.split_error}")
        return (*self.audit.notes, *grouping, *self.split.notes)

    @property
    def split_summary(self) -> str:
        return f"Split: {self.split.description}." if self.split is not None else "No split."

    def as_json(self) -> dict[str, Any]:
        """Plain data for programs: the audit, the split and every clip."""
        return {
            **self.audit.as_json(),
            "description": self.index.description,
            "num_features": self.index.num_features,
            "grouping": self.grouping,
            "split": self.split and {"kind": self.split.kind, "description": self.split.description},
            "index": [
                {"id": clip.id, "label": clip.label, "group": clip.group, "fold": clip.fold} for clip in self.index
            ],
        }

    def __str__(self) -> str:
        lines = [*self.summary, *self.findings, *(f"! {note}" for note in self.notes), self.split_summary]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        paragraphs = [*self.summary, *(f"! {note}" for note in self.notes), self.split_summary]
        parts = [f"<p>{'<br>'.join(html.escape(line) for line in paragraphs)}</p>"]
        for table in self.tables:
            rows = [table.columns, *table.rows[:MAX_ROWS]]
            cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            more = f"<p>… and {len(table.rows) - MAX_ROWS} more</p>" if len(table.rows) > MAX_ROWS else ""
            parts.append(
                f"<details><summary>{html.escape(table.title)}</summary><table>{cells}</table>{more}</details>"
            )
        return "\n".join(parts)


def _counted(counts: Mapping[Any, int], unit: str = "") -> str:
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{value}{unit} ({count})" for value, count in counts.items())
