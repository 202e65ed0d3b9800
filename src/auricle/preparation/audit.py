"""What is wrong with a corpus, before anything is trained on it.

In: an Index and a ClipInfo of each clip. Out: an Audit that names every bad file with its reason, every duplicate and
conflict, every leak across the split, and every imbalance. Quarantined clips are neither trained nor tested on.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from auricle.audio import fingerprint, quality
from auricle.audio.inspect import ClipInfo
from auricle.corpus.clip import Excluded, Index
from auricle.corpus.read import rare_labels, similar_labels
from auricle.corpus.splits import Split
from auricle.recipe import exclude_option
from auricle.run_folder import write_json

ODD_RATIO = 20.0
CONFOUND_SHARE = 0.9


@dataclass(frozen=True)
class Fault:
    """One clip, what is wrong with it, and how that shows."""

    id: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Duplicate:
    """Clips with the same audio. `kind` is exact (the decoded samples agree) or near (the fingerprints do)."""

    kind: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    similarity: float

    @property
    def conflict(self) -> bool:
        return len(set(self.labels)) > 1


@dataclass(frozen=True)
class Leak:
    """The same audio on both sides of a fold."""

    fold: str
    trained: str
    tested: str
    kind: str


@dataclass(frozen=True)
class Durations:
    """Seconds of all clips together, and of the shortest, median and longest clip."""

    total: float
    shortest: float
    median: float
    longest: float


@dataclass(frozen=True)
class FileCounts:
    """Every file of the corpus, once: clips are used from it, or all its clips are unusable, or it is excluded for the
    reason that `excluded` lists, or it is no recording, or a hidden or system file.
    """

    total: int
    used: int
    unusable: int
    excluded: int
    other: int
    hidden: int = 0

    def __str__(self) -> str:
        parts = (
            (self.used, "used"),
            (self.unusable, "unusable"),
            (self.excluded, "excluded"),
            (self.other, "no recordings"),
            (self.hidden, "hidden"),
        )
        return f"{self.total} files: {', '.join(f'{count} {name}' for count, name in parts if count)}"


@dataclass(frozen=True)
class Audit:
    """Everything the audit found, in the order that a person would read it."""

    clips: int
    usable: int
    quarantined: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    duplicates: tuple[Duplicate, ...]
    leaks: tuple[Leak, ...]
    classes: dict[str, int]
    groups: int
    group_name: str
    durations: Durations
    sample_rates: dict[str, int]
    channels: dict[str, int]
    containers: dict[str, int]
    notes: tuple[str, ...]
    excluded: tuple[Excluded, ...]
    files: FileCounts

    @property
    def quarantined_ids(self) -> frozenset[str]:
        return frozenset(fault.id for fault in self.quarantined)

    @property
    def faults_in_words(self) -> str:
        """The kinds of quarantined clips and of warnings, the commonest first, each with one clip; else empty."""
        first: dict[str, Fault] = {}
        faults = [*self.quarantined, *self.warnings]
        for fault in faults:
            first.setdefault(fault.kind, fault)
        counts = Counter(fault.kind for fault in faults).most_common()
        named = (f"{kind}: {count}, such as '{first[kind].id}' ({first[kind].detail})" for kind, count in counts)
        return "".join(f"{words}. " for words in named).rstrip()

    @property
    def duplicate_groups(self) -> list[tuple[str, ...]]:
        """Sets of clips with the same audio, which must stay on one side of a split."""
        return [duplicate.ids for duplicate in self.duplicates]

    @property
    def imbalance(self) -> float:
        """Clips of the largest class for each clip of the smallest."""
        return max(self.classes.values()) / min(self.classes.values()) if self.classes else 1.0

    def save(self, path: Path) -> None:
        write_json(path, self.as_json())

    def as_json(self) -> dict[str, object]:
        """Plain data for programs."""
        content = asdict(self)
        for row, duplicate in zip(content["duplicates"], self.duplicates, strict=True):
            row["conflict"] = duplicate.conflict
        return {**content, "imbalance": self.imbalance}


def audit(index: Index, clips: Sequence[ClipInfo]) -> Audit:
    """Audit all clips, given in the Index's order."""
    duplicates = _duplicates(index, clips)
    faults = [Fault(clip.id, finding.kind, finding.detail) for clip in clips for finding in clip.findings]
    quarantined = [fault for fault in faults if fault.kind in quality.QUARANTINED]
    quarantined += _conflicts(duplicates, {fault.id for fault in quarantined})
    excluded = {fault.id for fault in quarantined}
    is_usable = [clip.id not in excluded for clip in index]
    usable = index.select(is_usable)
    usable_clips = [clip for clip, keep in zip(clips, is_usable, strict=True) if keep]
    warnings = [fault for fault in faults if fault.kind not in quality.QUARANTINED and fault.id not in excluded]
    warnings += _odd_lengths(usable_clips)
    return Audit(
        clips=len(index),
        usable=len(usable),
        quarantined=tuple(quarantined),
        warnings=tuple(warnings),
        duplicates=tuple(duplicates),
        leaks=(),
        classes=dict(Counter(clip.label for clip in sorted(usable, key=lambda clip: clip.label))),
        groups=len({clip.group for clip in usable if clip.group is not None}),
        group_name=index.group_name,
        durations=_durations(usable_clips),
        sample_rates=_counts(str(clip.sample_rate) for clip in usable_clips),
        channels=_counts(str(clip.channels) for clip in usable_clips),
        containers=_counts(clip.container for clip in usable_clips),
        notes=tuple(_notes(index, usable, usable_clips)),
        excluded=index.excluded,
        files=_file_counts(index, usable),
    )


def _file_counts(index: Index, usable: Index) -> FileCounts:
    sources, used = {clip.source for clip in index}, {clip.source for clip in usable}
    other, hidden = index.num_other_files, index.num_hidden_files
    excluded = index.num_files - other - hidden - len(sources)
    return FileCounts(index.num_files, len(used), len(sources) - len(used), excluded, other, hidden)


def with_groups(audit: Audit, index: Index) -> Audit:
    """The same audit with the groups of another index of the same clips."""
    usable = [clip for clip in index if clip.id not in audit.quarantined_ids]
    groups = {clip.group for clip in usable if clip.group is not None}
    return replace(audit, groups=len(groups), group_name=index.group_name)


def with_leaks(audit: Audit, split: Split) -> Audit:
    """The same audit with the duplicates that a split puts on both sides."""
    leaks = []
    for fold in split.folds:
        tested, trained = set(fold.test), {*fold.train, *fold.valid}
        for duplicate in audit.duplicates:
            in_test = [id for id in duplicate.ids if id in tested]
            in_training = [id for id in duplicate.ids if id in trained]
            if in_test and in_training:
                leaks.append(Leak(fold.name, in_training[0], in_test[0], duplicate.kind))
    return replace(audit, leaks=tuple(leaks))


def _duplicates(index: Index, clips: Sequence[ClipInfo]) -> list[Duplicate]:
    """Exact duplicates by the hash of the audio, then near ones by fingerprint, as connected sets."""
    label_of = {clip.id: clip.label for clip in index}
    by_hash: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip.usable:
            by_hash[clip.audio_hash].append(clip.id)
    exact = [ids for ids in by_hash.values() if len(ids) > 1]
    rows = [Duplicate("exact", tuple(ids), tuple(label_of[id] for id in ids), 1.0) for ids in exact]
    first_of = {id: ids[0] for ids in exact for id in ids}
    distinct = [clip for clip in clips if clip.usable and first_of.get(clip.id, clip.id) == clip.id]
    for match in fingerprint.near_duplicates([clip.fingerprint for clip in distinct]):
        pair = (distinct[match.a].id, distinct[match.b].id)
        rows.append(Duplicate("near", pair, tuple(label_of[id] for id in pair), match.similarity))
    return rows


def _conflicts(duplicates: Iterable[Duplicate], quarantined: set[str]) -> list[Fault]:
    """One recording under two labels contradicts itself: all its exact copies are excluded."""
    rows = []
    for duplicate in duplicates:
        if duplicate.kind != "exact" or not duplicate.conflict:
            continue
        names = ", ".join(f"'{id}' ({label})" for id, label in zip(duplicate.ids, duplicate.labels, strict=True))
        rows += [Fault(id, "conflict", f"the same audio under several labels: {names}") for id in duplicate.ids]
    return [row for row in rows if row.id not in quarantined]


def _odd_lengths(clips: Sequence[ClipInfo]) -> list[Fault]:
    median = float(np.median([clip.seconds for clip in clips])) if clips else 0.0
    rows = []
    for clip in clips:
        if clip.seconds > ODD_RATIO * median or clip.seconds < median / ODD_RATIO:
            rows.append(Fault(clip.id, "odd length", f"{clip.seconds:.2f} s, where the median is {median:.2f} s"))
    return rows


def _durations(clips: Sequence[ClipInfo]) -> Durations:
    seconds = [clip.seconds for clip in clips] or [0.0]
    return Durations(float(np.sum(seconds)), float(np.min(seconds)), float(np.median(seconds)), float(np.max(seconds)))


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _notes(index: Index, usable: Index, clips: Sequence[ClipInfo]) -> list[str]:
    notes = []
    for names in similar_labels(index):
        quoted = " and ".join(f"'{name}'" for name in names)
        notes.append(f"The labels {quoted} differ only by case, blanks or punctuation: are they one class?")
    empty = sorted(set(index.labels) - set(usable.labels))
    for labels, fault in (
        (rare_labels(usable), "a single usable clip, and training and testing need one each"),
        (empty, "no usable clip"),
    ):
        listed = ", ".join(f"'{label}'" for label in labels[:5]) + (" …" if len(labels) > 5 else "")
        if labels:
            subject = f"The class {listed} has" if len(labels) == 1 else f"{len(labels)} classes have"
            leave = f" {exclude_option(labels)} leaves {'it' if len(labels) == 1 else 'them'} out."
            several = len(index.labels) - len(labels) > 1
            notes.append(f"{subject} {fault}{f': {listed}' if len(labels) > 1 else ''}.{leave if several else ''}")
    notes += _confounds(usable, clips, "sample rate", lambda clip: f"{clip.sample_rate} Hz")
    notes += _confounds(usable, clips, "number of channels", lambda clip: str(clip.channels))
    notes += _confounds(usable, clips, "file format", lambda clip: clip.container)
    return notes


def _confounds(usable: Index, clips: Sequence[ClipInfo], name: str, value_of: Callable[[ClipInfo], str]) -> list[str]:
    """Name classes that a property of the files identifies: a model may learn the recorder and not the sound."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for clip, info in zip(usable, clips, strict=True):
        values[clip.label][value_of(info)] += 1
    whole = sum(values.values(), Counter())
    notes = []
    for label, counts in sorted(values.items()):
        value, most = counts.most_common(1)[0]
        others = whole.total() - counts.total()
        elsewhere = whole[value] - most
        if others and most >= CONFOUND_SHARE * counts.total() and elsewhere <= (1 - CONFOUND_SHARE) * others:
            notes.append(
                f"The {name} gives the class '{label}' away: {value} in {most} of its {counts.total()} clips, and in "
                f"{elsewhere} of the {others} others. A model may learn that and not the sound."
            )
    return notes
