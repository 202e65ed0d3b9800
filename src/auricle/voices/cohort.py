"""Select a cohort: recordings of other people, against which scores are normalised."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.audio.recordings import Recording, recordings
from auricle.corpus import splits
from auricle.corpus.clip import Index
from auricle.errors import AuricleError, UsageError
from auricle.run_folder import RunFolder
from auricle.voices.encoder import Encoder
from auricle.voices.score_norm import MIN_COHORT_CLIPS, MIN_COHORT_SPEAKERS, Cohort

MAX_TRAINING_CLIPS = 500
# A cohort is compared with itself: its square in memory and time.
MAX_CLIPS = 1000
# Corpora whose groups are people; in others the label stands for the person.
_PERSON_GROUPS = frozenset({"speaker", "actor", "singer", "person"})


@dataclass(frozen=True, eq=False)
class CohortSelection:
    """A cohort, its description, and notes for the user. `cohort` is None where there were too few clips."""

    cohort: Cohort | None = None
    description: str = ""
    notes: tuple[str, ...] = ()


def cohort_from_data(encoder: Encoder, data: str) -> CohortSelection:
    """Encode recordings of other people: files, a folder, an archive or a glob. A folder in it is one person.

    Raises UsageError where fewer can be decoded than thresholds need.
    """
    listed = list(recordings([data]))
    chosen = [listed[index] for index in evenly_spaced(len(listed), MAX_CLIPS)]
    names = [recording.name for recording in chosen]
    folders = speaker_folders(names)
    speakers = names if folders is None else ["/".join(folder) for folder in folders]
    cohort = _encode(encoder, chosen, speakers)
    if cohort is None:
        raise UsageError(
            f"--cohort received '{data}', which holds {len(listed)} recordings. A cohort needs {MIN_COHORT_CLIPS} or "
            f"more that can be decoded, of {MIN_COHORT_SPEAKERS} people or more (a folder is one person)."
        )
    notes = () if len(chosen) == len(listed) else (f"The cohort is {len(chosen)} of {len(listed)} recordings.",)
    return CohortSelection(cohort, f"{len(cohort)} clips of '{Path(data).name}'", notes)


def cohort_from_run(encoder: Encoder) -> CohortSelection:
    """Encode clips that the run was trained on; no cohort where it lists none or their recordings are gone."""
    folder = Path(encoder.id.run)
    run = next((run for run in map(RunFolder, (folder, folder.parent)) if run.index.is_file()), None)
    if run is None or not run.split.is_file():
        return CohortSelection(notes=("The model's folder lists no training clips that could be a cohort.",))
    try:
        index = Index.load(run.index)
        folds = splits.load(run.split, index).folds
    except AuricleError as error:
        return CohortSelection(notes=(f"The run's training clips cannot be a cohort: {error}",))
    trained = set(folds[0].train) if len(folds) == 1 else {clip.id for clip in index}
    clips = [clip for clip in index if clip.id in trained]
    clips = [clips[row] for row in evenly_spaced(len(clips), MAX_TRAINING_CLIPS)]
    by_group = index.group_name in _PERSON_GROUPS
    cohort = _encode(
        encoder,
        [Recording(clip.id, clip.source, clip.start, clip.end) for clip in clips],
        [(clip.group if by_group else clip.label) or clip.id for clip in clips],
    )
    if cohort is None:
        return CohortSelection(notes=("The run's training clips cannot be a cohort: too few of them still exist.",))
    return CohortSelection(cohort, f"{len(cohort)} clips that the model was trained on")


def _encode(encoder: Encoder, clips: Sequence[Recording], speakers: Sequence[str]) -> Cohort | None:
    """Encode clips of these speakers; None where too few can be decoded. The same audio counts once."""
    unique: dict[str, tuple[np.ndarray, str]] = {}
    for clip, speaker in zip(encoder.embeddings(clips), speakers, strict=True):
        if clip.error is None:
            unique.setdefault(clip.content, (clip.vector, speaker))
    names = tuple(speaker for _, speaker in unique.values())
    if len(unique) < MIN_COHORT_CLIPS or len(set(names)) < MIN_COHORT_SPEAKERS:
        return None
    return Cohort(np.stack([embedding for embedding, _ in unique.values()]), names, tuple(unique))


def speaker_folders(names: Sequence[str]) -> list[list[str]] | None:
    """Each file's folders down to the first level at which they differ; None where a file lies in no such folder."""
    paths = [name.split("/") for name in names]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    return [path[: depth + 1] for path in paths] if all(len(path) > depth + 1 for path in paths) else None


def evenly_spaced(count: int, most: int) -> Sequence[int]:
    """At most `most` of `count` indices, evenly spaced."""
    return range(count) if count <= most else [int(index) for index in np.linspace(0, count - 1, most).round()]
