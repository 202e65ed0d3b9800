"""Enrol someone: recordings become clips of a voice in the store, and other people's become its cohort.

In: a store's path, a name, recordings; the first time a run. Out: Enrolment, with what could not be heard. All is heard
before anything is written, and then written at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from auricle.audio.recordings import Recording, recordings
from auricle.corpus import splits
from auricle.corpus.clip import Index
from auricle.errors import AuricleError, RunError, UsageError
from auricle.inference.classifier import Embedded
from auricle.voices import score_norm
from auricle.voices.encoder import Encoder, open_encoder
from auricle.voices.score_norm import MIN_COHORT, MIN_SPEAKERS, Cohort
from auricle.voices.store import Clip, Enrolled, Store, begun, checked_name

OWN_COHORT = 500
# A cohort is compared with itself: its square in memory and time.
MOST_COHORT = 1000
# Corpora whose groups are people; elsewhere a run's labels are taken for them.
_PEOPLE = frozenset({"speaker", "actor", "singer", "person"})


@dataclass(frozen=True)
class Enrolment:
    """What `enrol` did. `enrolled` is None where no file could be heard; `failed` are names and reasons."""

    enrolled: Enrolled | None
    failed: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
    cohort: int
    cohort_named: str
    max_false_accept_rate: float
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Gathered:
    """A cohort, what it is called, and what is to be told of it. `cohort` is None where there were too few clips."""

    cohort: Cohort | None
    named: str
    notes: tuple[str, ...]


def enrol(
    store: str | Path,
    name: str,
    files: Iterable[str],
    *,
    run: str | Path | None = None,
    cohort: str | None = None,
    max_false_accept_rate: float | None = None,
) -> Enrolment:
    """Add recordings of one person to a store; make the store for the model in `run` where there is none.

    `cohort` is DATA with recordings of other people; without it, a new store takes the run's own training clips.
    `false_accept` is the share of strangers that thresholds let through. Raises UsageError, DataError or RunError for
    what cannot be a store, a name or a run, and for another model than the store's.
    """
    name = checked_name(name)
    if max_false_accept_rate is not None and not 0 < max_false_accept_rate < 1:
        raise UsageError(
            f"--false-accept received {max_false_accept_rate:g}. Allowed: a share between 0 and 1, such as 0.01."
        )
    encoder = encoder_of(Path(store), run)
    heard = list(encoder.embeddings(recordings(files)))
    good = [clip for clip in heard if clip.error is None]
    gathered = Gathered(None, "", ())
    enrolled = None
    if good:
        if cohort is not None:
            gathered = named_cohort(encoder, cohort)
        elif not begun(Path(store)):
            gathered = own_cohort(encoder)
        clips = [Clip(clip.name, clip.content, clip.seconds, clip.vector) for clip in good]
        with Store.create(store, encoder.origin) as opened:
            enrolled = opened.enrol(
                name,
                clips,
                cohort=gathered.cohort,
                cohort_named=gathered.named,
                max_false_accept_rate=max_false_accept_rate,
                run=None if run is None else encoder.origin.run,
            )
    return _told(Path(store), heard, enrolled, gathered.notes)


def _told(store: Path, heard: list[Embedded], enrolled: Enrolled | None, notes: tuple[str, ...]) -> Enrolment:
    failed = tuple((clip.name, clip.error) for clip in heard if clip.error is not None)
    warnings = tuple((clip.name, "; ".join(clip.warnings)) for clip in heard if clip.warnings)
    if enrolled is None:
        return Enrolment(None, failed, warnings, 0, "", 0.0, ("Nothing was enrolled: no file could be heard.",))
    with Store.open(store) as opened:
        contents = opened.read()
    if contents.cohort is None:
        notes = (*notes, f"There is no cohort, hence no threshold: name other people's recordings by {_WAY}.")
    size = 0 if contents.cohort is None else len(contents.cohort)
    return Enrolment(enrolled, failed, warnings, size, contents.cohort_named, contents.max_false_accept_rate, notes)


_WAY = "auricle enrol … --cohort DATA"


def encoder_of(store: Path, run: str | Path | None) -> Encoder:
    """Open the model of a store, from `run` where it is named; of a store that is not there, from `run` alone.

    Raises RunError for a model that is not where it was, and for another one than the store's.
    """
    if not begun(store):
        if run is None:
            raise UsageError(f"There is no store at '{store}' yet. Name the model that hears for it: --run RUN.")
        return open_encoder(run)
    with Store.open(store) as opened:
        origin = opened.origin
        if run is None and not Path(origin.run).exists():
            raise RunError(
                f"The model of '{store}' was at '{origin.run}' and is not there. Say where it is now: --run RUN."
            )
        encoder = open_encoder(run if run is not None else origin.run)
        opened.check(encoder.origin)
    return encoder


def named_cohort(encoder: Encoder, data: str) -> Gathered:
    """Hear recordings of other people: files, a folder, an archive or a pattern. A folder in it is one person.

    Raises UsageError where fewer can be heard than thresholds need.
    """
    found = list(recordings([data]))
    chosen = [found[place] for place in score_norm.evenly(len(found), MOST_COHORT)]
    gathered = _gather(
        encoder, [(recording, speaker) for recording, speaker in zip(chosen, _folders(chosen), strict=True)]
    )
    if gathered is None:
        raise UsageError(
            f"--cohort received '{data}', of which {len(found)} files are recordings. A cohort needs {MIN_COHORT} or "
            f"more that can be heard, of {MIN_SPEAKERS} people or more (a folder is one person)."
        )
    notes = () if len(chosen) == len(found) else (f"Of {len(found)} recordings, {len(chosen)} are the cohort.",)
    return Gathered(gathered, f"{len(gathered)} clips of '{Path(data).name}'", notes)


def own_cohort(encoder: Encoder) -> Gathered:
    """Hear clips that the run was trained on; none where it has no list of them or their recordings are gone."""
    run = encoder.run if (encoder.run / "index.parquet").is_file() else encoder.run.parent
    if not (run / "index.parquet").is_file() or not (run / "split.json").is_file():
        return Gathered(None, "", ("The model's folder names no training clips that could be a cohort.",))
    try:
        index = Index.load(run / "index.parquet")
        folds = splits.load(run / "split.json", index).folds
    except AuricleError as error:
        return Gathered(None, "", (f"The run's training clips cannot be a cohort: {error}",))
    trained = set(folds[0].train) if len(folds) == 1 else {clip.id for clip in index}
    clips = [clip for clip in index if clip.id in trained]
    chosen = [clips[place] for place in score_norm.evenly(len(clips), OWN_COHORT)]
    by_group = index.group_name in _PEOPLE
    wanted = [
        (Recording(clip.id, clip.source, clip.start, clip.end), (clip.group if by_group else clip.label) or clip.id)
        for clip in chosen
    ]
    gathered = _gather(encoder, wanted)
    if gathered is None:
        return Gathered(None, "", ("The run's training clips cannot be a cohort: too few of them are still there.",))
    return Gathered(gathered, f"{len(gathered)} clips that the model was trained on", ())


def _gather(encoder: Encoder, wanted: list[tuple[Recording, str]]) -> Cohort | None:
    """Hear clips of known or unknown people; None where too few can be heard. The same sound counts once."""
    kept: dict[str, tuple[np.ndarray, str]] = {}
    heard = encoder.embeddings(recording for recording, _ in wanted)
    for clip, (_, speaker) in zip(heard, wanted, strict=True):
        if clip.error is None:
            kept.setdefault(clip.content, (clip.vector, speaker))
    speakers = tuple(speaker for _, speaker in kept.values())
    if len(kept) < MIN_COHORT or len(set(speakers)) < MIN_SPEAKERS:
        return None
    return Cohort(np.stack([vector for vector, _ in kept.values()]), speakers, tuple(kept))


def _folders(chosen: Iterable[Recording]) -> Iterator[str]:
    """Whose each recording is: the first folder in which the names differ, or its own name where all lie in one."""
    paths = [PurePosixPath(recording.name).parts for recording in chosen]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    by_folder = all(len(path) > depth + 1 for path in paths)
    return ("/".join(path[: depth + 1]) if by_folder else "/".join(path) for path in paths)
