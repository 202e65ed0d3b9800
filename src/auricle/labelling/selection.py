"""Which clips to listen to: chosen by class, group and finding, drawn at random or stepped through.

In: an Index, its Audit and, if there is one, the report of a run. Out: what is remarked on each clip, and positions in
the Index. Chance comes from one shuffled order of all clips, so that nothing is drawn twice before all are heard.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.corpus.clip import Index
from auricle.errors import RunError
from auricle.preparation.audit import Audit

ANY_FINDING = "any finding"
MARKED = "marked"
NAMED = 5


@dataclass(frozen=True)
class Remark:
    """What is known against a clip: the kind of finding, and how it shows."""

    kind: str
    detail: str


Remarks = Mapping[str, Sequence[Remark]]


@dataclass(frozen=True)
class Choice:
    """The clips that are wanted; None wants all. `finding` is a remark's kind, or ANY_FINDING, or MARKED."""

    label: str | None = None
    group: str | None = None
    finding: str | None = None


def remarks_of(audit: Audit, run: Path | None = None) -> dict[str, list[Remark]]:
    """What the audit found on each clip, by id; with a run folder, also the labels it doubts and its worst mistakes.

    Raises RunError for a folder without a report.
    """
    found: dict[str, list[Remark]] = defaultdict(list)
    for fault in (*audit.quarantined, *audit.warnings):
        found[fault.id].append(Remark(fault.kind, fault.detail))
    for row in audit.duplicates:
        kind = "same sound" if row.kind == "exact" else "nearly the same sound"
        kind += ", other label" if row.conflict else ""
        alike = "" if row.kind == "exact" else f"{row.similarity:.0%} alike: "
        for id in row.ids:
            if any(note.kind == "conflict" for note in found[id]):
                continue  # the audit has named the others
            others = [f"'{one}' ({label})" for one, label in zip(row.ids, row.labels, strict=True) if one != id]
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            found[id].append(Remark(kind, alike + ", ".join(others[:NAMED]) + more))
    for leak in audit.leaks:
        found[leak.tested].append(
            Remark("leak", f"in fold {leak.fold}, '{leak.trained}' sounds the same and is learnt")
        )
    if run is not None:
        for id, note in _reported(run):
            found[id].append(note)
    return dict(found)


def _reported(run: Path) -> Iterable[tuple[str, Remark]]:
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"'{run}' holds no report.json ({error.strerror}). Name the folder of a finished `auricle train`."
        ) from error
    for kind, rows in (("doubted label", report["doubted"]), ("mistaken", report["mistakes"])):
        for row in rows:
            yield row["id"], Remark(kind, f"heard as '{row['predicted']}' with {row['probability']:.0%}")


def choose(index: Index, notes: Remarks, choice: Choice, marked: Collection[str] = ()) -> list[int]:
    """The positions of the clips that are wanted, in the corpus' order. `marked` are the ids with a mark."""
    return [
        place
        for place, clip in enumerate(index)
        if choice.label in (None, clip.label)
        and choice.group in (None, clip.group)
        and _wanted(notes.get(clip.id, ()), choice.finding, clip.id in marked)
    ]


def _wanted(notes: Sequence[Remark], finding: str | None, is_marked: bool) -> bool:
    if finding is None:
        return True
    if finding == MARKED:
        return is_marked
    return bool(notes) if finding == ANY_FINDING else any(note.kind == finding for note in notes)


def kinds(notes: Remarks) -> dict[str, int]:
    """How many clips have each kind of finding, the commonest first."""
    counts = Counter(kind for found in notes.values() for kind in {note.kind for note in found})
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def shuffled(clips: int, seed: int) -> list[int]:
    """The order in which clips are drawn."""
    return [int(place) for place in np.random.default_rng(seed).permutation(clips)]


def draw(chosen: Sequence[int], order: Sequence[int], turn: int) -> tuple[int, int]:
    """The next of the chosen positions in the shuffled order, from place `turn` on; and the place after it.

    `chosen` holds one position or more.
    """
    wanted = set(chosen)
    for ahead in range(len(order)):
        place = (turn + ahead) % len(order)
        if order[place] in wanted:
            return order[place], place + 1
    raise AssertionError("nothing was chosen")


def step(chosen: Sequence[int], at: int, by: int) -> int:
    """The chosen position after (`by` 1) or before (-1) another, round and round. `chosen` is sorted, and not empty."""
    if by > 0:
        return next((place for place in chosen if place > at), chosen[0])
    return next((place for place in reversed(chosen) if place < at), chosen[-1])
