"""Which clips to show: filtered by class, group and finding, in random or corpus order; and each visitor's position.

One shuffled order of all clips is the only randomness, so that no clip repeats before all were shown.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from auricle.audio.quality import Finding
from auricle.corpus.clip import Clip, Index
from auricle.evaluation.report import Report
from auricle.labelling.corrections_file import CorrectionsFile
from auricle.preparation.audit import Audit
from auricle.run_folder import RunFolder

ANY_FINDING = "any finding"
CORRECTED = "corrected"
MAX_NAMED = 5


Notes = Mapping[str, Sequence[Finding]]


@dataclass(frozen=True)
class Filter:
    """Which clips to show; None allows all. `finding` is the kind of a note, ANY_FINDING or CORRECTED."""

    label: str | None = None
    group: str | None = None
    finding: str | None = None


def collect_notes(audit: Audit, run: Path | None = None) -> dict[str, list[Finding]]:
    """The audit's findings on each clip, by id; with a run folder, also its suspect labels and worst mistakes.

    Raises RunError for a folder without a report.
    """
    notes: dict[str, list[Finding]] = defaultdict(list)
    for fault in (*audit.quarantined, *audit.warnings):
        notes[fault.id].append(Finding(fault.kind, fault.detail))
    for row in audit.duplicates:
        kind = "duplicate" if row.kind == "exact" else "near duplicate"
        kind += ", different label" if row.conflict else ""
        similarity = "" if row.kind == "exact" else f"{row.similarity:.0%} similar: "
        for id in row.ids:
            if any(note.kind == "conflict" for note in notes[id]):
                continue  # that note names the other clips
            others = [f"'{other}' ({label})" for other, label in zip(row.ids, row.labels, strict=True) if other != id]
            more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
            notes[id].append(Finding(kind, similarity + ", ".join(others[:MAX_NAMED]) + more))
    for leak in audit.leaks:
        notes[leak.tested].append(Finding("leak", f"test clip of fold {leak.fold}; '{leak.trained}' is its duplicate"))
    if run is not None:
        report = Report.load(RunFolder(run).report)
        for kind, rows in (("suspect label", report.suspect_labels), ("misclassified", report.misclassified)):
            for wrong in rows:
                notes[wrong.id].append(Finding(kind, f"predicted '{wrong.predicted}' with {wrong.probability:.0%}"))
    return dict(notes)


def select(index: Index, notes: Notes, filter: Filter, corrected: Collection[str] = ()) -> list[int]:
    """The positions of the clips that a filter allows, in corpus order. `corrected` are the ids with a correction."""
    return [
        position
        for position, clip in enumerate(index)
        if filter.label in (None, clip.label)
        and filter.group in (None, clip.group)
        and _matches(notes.get(clip.id, ()), filter.finding, clip.id in corrected)
    ]


def _matches(notes: Sequence[Finding], finding: str | None, is_corrected: bool) -> bool:
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
    """The next selected position in the shuffled order, from index `start` on; and the index after it."""
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


@dataclass(frozen=True)
class View:
    """What one visitor sees: a filter, a position in the Index, and how far the shuffled order is used."""

    filter: Filter = field(default_factory=Filter)
    position: int | None = None
    next_index: int = 0


@dataclass(frozen=True)
class Session:
    """What all visitors share. `order` is the shuffled order; `corpus_options` are the options that read the corpus."""

    index: Index
    notes: Notes
    corrections: CorrectionsFile
    order: Sequence[int]
    corpus_options: Sequence[str] = ()

    def selected(self, view: View) -> list[int]:
        """The positions that a view's filter allows."""
        corrected = self.corrections.read() if view.filter.finding == CORRECTED else ()
        return select(self.index, self.notes, view.filter, corrected)

    def clip(self, view: View) -> Clip | None:
        """The current clip, if there is one."""
        return None if view.position is None else self.index.clips[view.position]

    def random(self, view: View) -> View:
        """Go to a random clip; to none if the filter allows none."""
        selected = self.selected(view)
        if not selected:
            return replace(view, position=None)
        position, next_index = next_random(selected, self.order, view.next_index)
        return replace(view, position=position, next_index=next_index)

    def step(self, view: View, step: int) -> View:
        """Go to the next (1) or the previous (-1) clip that the filter allows."""
        selected = self.selected(view)
        if not selected or view.position is None:
            return self.random(view)
        return replace(view, position=neighbour(selected, view.position, step))

    def apply_filter(self, view: View, filter: Filter) -> View:
        """Change the filter; stay at the current clip if the new filter allows it."""
        view = replace(view, filter=filter)
        return view if view.position in self.selected(view) else self.random(view)

    def go_to(self, view: View, id: str) -> View:
        """Go to a clip by its id, whatever the filter; stay if there is no such clip."""
        position = next((position for position, clip in enumerate(self.index) if clip.id == id), view.position)
        return replace(view, position=position)
