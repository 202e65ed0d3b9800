"""Which clips to show: filtered by class, group and finding, in random or corpus order.

In: an Index, its Audit and, if there is one, the report of a run. Out: notes on each clip, and positions in the Index.
One shuffled order of all clips is the only randomness, so that no clip repeats before all were shown.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.corpus.clip import Index
from auricle.evaluation.report import Report
from auricle.preparation.audit import Audit
from auricle.run_folder import RunFolder

ANY_FINDING = "any finding"
CORRECTED = "corrected"
MAX_NAMED = 5


@dataclass(frozen=True)
class Note:
    """One finding on a clip: its kind, and the details."""

    kind: str
    detail: str


Notes = Mapping[str, Sequence[Note]]


@dataclass(frozen=True)
class Filter:
    """Which clips to show; None allows all. `finding` is the kind of a note, ANY_FINDING or CORRECTED."""

    label: str | None = None
    group: str | None = None
    finding: str | None = None


def collect_notes(audit: Audit, run: Path | None = None) -> dict[str, list[Note]]:
    """The audit's findings on each clip, by id; with a run folder, also its suspect labels and worst mistakes.

    Raises RunError for a folder without a report.
    """
    notes: dict[str, list[Note]] = defaultdict(list)
    for fault in (*audit.quarantined, *audit.warnings):
        notes[fault.id].append(Note(fault.kind, fault.detail))
    for row in audit.duplicates:
        kind = "duplicate" if row.kind == "exact" else "near duplicate"
        kind += ", different label" if row.conflict else ""
        similarity = "" if row.kind == "exact" else f"{row.similarity:.0%} similar: "
        for id in row.ids:
            if any(note.kind == "conflict" for note in notes[id]):
                continue  # that note names the other clips
            others = [f"'{other}' ({label})" for other, label in zip(row.ids, row.labels, strict=True) if other != id]
            more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
            notes[id].append(Note(kind, similarity + ", ".join(others[:MAX_NAMED]) + more))
    for leak in audit.leaks:
        notes[leak.tested].append(Note("leak", f"test clip of fold {leak.fold}; '{leak.trained}' is its duplicate"))
    if run is not None:
        for id, note in _report_notes(run):
            notes[id].append(note)
    return dict(notes)


def _report_notes(run: Path) -> Iterable[tuple[str, Note]]:
    report = Report.load(RunFolder(run).report)
    for kind, rows in (("suspect label", report.suspect_labels), ("misclassified", report.misclassified)):
        for row in rows:
            yield row.id, Note(kind, f"predicted '{row.predicted}' with {row.probability:.0%}")


def select(index: Index, notes: Notes, filter: Filter, corrected: Collection[str] = ()) -> list[int]:
    """The positions of the clips that a filter allows, in corpus order. `corrected` are the ids with a correction."""
    return [
        position
        for position, clip in enumerate(index)
        if filter.label in (None, clip.label)
        and filter.group in (None, clip.group)
        and _matches(notes.get(clip.id, ()), filter.finding, clip.id in corrected)
    ]


def _matches(notes: Sequence[Note], finding: str | None, is_corrected: bool) -> bool:
    if finding is None:
        return True
    if finding == CORRECTED:
        return is_corrected
    return bool(notes) if finding == ANY_FINDING else any(note.kind == finding for note in notes)


def count_clips(notes: Notes) -> dict[str, int]:
    """The number of clips with each kind of finding, the most frequent first."""
    counts = Counter(kind for clip_notes in notes.values() for kind in {note.kind for note in clip_notes})
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def shuffle(clips: int, seed: int) -> list[int]:
    """A random order of all clips."""
    return [int(position) for position in np.random.default_rng(seed).permutation(clips)]


def next_random(selected: Sequence[int], order: Sequence[int], start: int) -> tuple[int, int]:
    """The next selected position in the shuffled order, from index `start` on; and the index after it.

    `selected` holds one position or more.
    """
    allowed = set(selected)
    for step in range(len(order)):
        index = (start + step) % len(order)
        if order[index] in allowed:
            return order[index], index + 1
    raise AssertionError("nothing is selected")


def neighbour(selected: Sequence[int], position: int, step: int) -> int:
    """The selected position after (`step` 1) or before (-1) another, cyclically. `selected` is sorted and not empty."""
    if step > 0:
        return next((other for other in selected if other > position), selected[0])
    return next((other for other in reversed(selected) if other < position), selected[-1])
