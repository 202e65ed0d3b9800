"""Enrol a speaker: recordings become clips of a voice in the store, other people's recordings its cohort.

Everything is encoded before anything is written, and then written in one transaction.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from auricle.audio.recordings import recordings
from auricle.errors import RunError, UsageError
from auricle.voices.cohort import CohortSelection, cohort_from_data, cohort_from_run
from auricle.voices.encoder import Encoder, load_encoder
from auricle.voices.store import EnrolledVoice, VoiceStore, is_store, validate_name


@dataclass(frozen=True)
class Enrolment:
    """What `enrol` did. `enrolled` is None where no file could be decoded; `failed` are files and reasons.

    `cohort_clips` and `cohort_description` say what scores are normalised against.
    """

    enrolled: EnrolledVoice | None
    failed: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
    cohort_clips: int
    cohort_description: str
    max_false_accept_rate: float
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
    """Add recordings of one speaker to a store; create the store for the model in `run` where there is none.

    `cohort` is DATA with recordings of other people; without it, a new store uses clips that the run was trained on.
    `max_false_accept_rate` is the share of impostors that thresholds may accept. Raises UsageError, DataError or
    RunError for an invalid store, name or run, and for another model than the store's.
    """
    name = validate_name(name)
    if max_false_accept_rate is not None and not 0 < max_false_accept_rate < 1:
        raise UsageError(
            f"--max-false-accept-rate received {max_false_accept_rate:g}. Allowed: a rate between 0 and 1, such as "
            "0.01."
        )
    path = Path(store)
    encoder = encoder_for_store(path, run)
    clips = list(encoder.embeddings(recordings(files)))
    failed = tuple((clip.name, clip.error) for clip in clips if clip.error is not None)
    warnings = tuple((clip.name, "; ".join(clip.warnings)) for clip in clips if clip.warnings)
    decoded = [clip for clip in clips if clip.error is None]
    if not decoded:
        return Enrolment(None, failed, warnings, 0, "", 0.0, ("Nothing was enrolled: no file could be decoded.",))
    selection = CohortSelection()
    if cohort is not None:
        selection = cohort_from_data(encoder, cohort)
    elif not is_store(path):
        selection = cohort_from_run(encoder)
    with VoiceStore.create(path, encoder.id) as opened:
        enrolled = opened.enrol(
            name,
            decoded,
            cohort=selection.cohort,
            cohort_description=selection.description,
            max_false_accept_rate=max_false_accept_rate,
            run=None if run is None else encoder.id.run,
        )
        contents = opened.read()
    notes, size = selection.notes, 0 if contents.cohort is None else len(contents.cohort)
    if not size:
        notes = (*notes, "There is no cohort, hence no threshold. Add one: auricle enrol … --cohort DATA.")
    return Enrolment(
        enrolled, failed, warnings, size, contents.cohort_description, contents.max_false_accept_rate, notes
    )


def encoder_for_store(store: Path, run: str | Path | None) -> Encoder:
    """Load the model of a store, from `run` where the user names it; of a store yet to be made, from `run` alone.

    Raises RunError for a model that is not where it was, and for another one than the store's.
    """
    if not is_store(store):
        if run is None:
            raise UsageError(f"There is no store at '{store}' yet. Name the model for it: --run RUN.")
        return load_encoder(run)
    with VoiceStore.open(store) as opened:
        stored = opened.encoder
        if run is None and not Path(stored.run).exists():
            raise RunError(
                f"The model of '{store}' was at '{stored.run}' and is not there. Name its folder: --run RUN."
            )
        encoder = load_encoder(run if run is not None else stored.run)
        opened.check_encoder(encoder.id)
    return encoder
