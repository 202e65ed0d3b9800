"""Evaluate a speaker encoder on a list of verification trials: EER and minDCF of cosines and of normalised scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.audio.recordings import Recording
from auricle.errors import DataError, UsageError
from auricle.evaluation.intervals import Interval
from auricle.evaluation.report import IntervalBasis
from auricle.parallel import Progress
from auricle.voices import score_norm
from auricle.voices.cohort import CohortSelection, cohort_from_data, speaker_folders
from auricle.voices.encoder import load_encoder
from auricle.voices.error_rates import Trials, error_rate_intervals
from auricle.voices.score_norm import MIN_COHORT_CLIPS, MIN_COHORT_SPEAKERS, Cohort

# Trials, and embeddings, scored at once.
_TRIAL_BLOCK, _EMBEDDING_BLOCK = 100_000, 1000
_TARGET_WORDS = {"1": True, "0": False, "target": True, "nontarget": False, "tgt": True, "imp": False}
_LIST_FORMAT = "Each line holds two files and, first or last, 1 or 0 (or target or nontarget)."


@dataclass(frozen=True)
class TrialsReport:
    """The error rates of an encoder. `metrics` has cosine and, with a cohort, normalised, each with EER and minDCFs.

    `excluded` counts trials with a file in `failed` (file, reason); `trials` counts the others.
    """

    trials: int
    targets: int
    nontargets: int
    files: int
    cohort: str
    interval: IntervalBasis
    metrics: dict[str, dict[str, Interval]]
    excluded: int
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def evaluate_trials(
    run: str | Path,
    trial_list: str | Path,
    progress: Progress,
    *,
    root: str | Path | None = None,
    cohort: str | None = None,
) -> TrialsReport:
    """Encode the files of a list, below `root` (default: the list's folder), and measure the error rates.

    Raises DataError for a malformed list, and where no target or no non-target trials are left; RunError for a folder
    that holds no model; UsageError for an unusable cohort.
    """
    trial_list = Path(trial_list)
    trials = read_trials(trial_list)
    root = trial_list.parent if root is None else Path(root)
    if not root.is_dir():
        raise UsageError(f"--root received '{root}', which is no folder. Name the folder that the list's files lie in.")
    encoder = load_encoder(run)
    clips = []
    for clip in encoder.embeddings(Recording(name, str(root / name)) for name in trials.files):
        clips.append(clip)
        progress(len(clips), len(trials.files))
    decoded = np.array([clip.error is None for clip in clips])
    if not decoded.any():
        raise DataError(
            f"None of the {len(clips)} files of '{trial_list}' can be decoded below '{root}': {clips[0].error}. Name "
            "their folder: --root FOLDER."
        )
    width = next(len(clip.vector) for clip in clips if clip.error is None)
    embeddings = np.stack([clip.vector if clip.error is None else np.zeros(width, np.float32) for clip in clips])
    usable = trials.select(decoded[trials.left] & decoded[trials.right])
    speakers = speakers_of(trials)
    rates, resampled = error_rate_intervals(_scores(usable, embeddings, None), usable, speakers)
    metrics = {"cosine": rates}
    notes = [] if speakers is not None else ["The list's folders do not name speakers: intervals are over files."]
    selection = CohortSelection() if cohort is None else cohort_from_data(encoder, cohort)
    if selection.cohort is not None:
        impostors, more = _without_evaluated(selection.cohort, [clip.content for clip in clips], speakers)
        notes += [*selection.notes, *more]
        metrics["normalised"] = error_rate_intervals(_scores(usable, embeddings, impostors), usable, speakers)[0]
    basis = IntervalBasis.of(resampled)
    for kind, figures in metrics.items():
        notes += basis.caution(f"EER ({kind})", figures["eer"])
    return TrialsReport(
        trials=len(usable),
        targets=int(usable.target.sum()),
        nontargets=int((~usable.target).sum()),
        files=len(clips),
        cohort=selection.description,
        interval=basis,
        metrics=metrics,
        excluded=len(trials) - len(usable),
        failed=tuple((clip.name, clip.error) for clip in clips if clip.error is not None),
        notes=tuple(notes),
    )


def _scores(trials: Trials, embeddings: np.ndarray, cohort: Cohort | None) -> np.ndarray:
    """The score of each trial (trials,): a cosine, or an AS-norm score against the cohort."""
    blocks = [slice(first, first + _TRIAL_BLOCK) for first in range(0, max(1, len(trials)), _TRIAL_BLOCK)]
    cosines = np.concatenate(
        [np.einsum("tw,tw->t", embeddings[trials.left[rows]], embeddings[trials.right[rows]]) for rows in blocks]
    ).astype(np.float64)
    if cohort is None:
        return cosines
    parts = []
    for first in range(0, len(embeddings), _EMBEDDING_BLOCK):
        scores = score_norm.cosines(embeddings[first : first + _EMBEDDING_BLOCK], cohort.embeddings)
        parts.append(cohort.shrink(score_norm.top_statistics(scores)))
    mean = np.concatenate([part.mean for part in parts])
    deviation = np.concatenate([part.deviation for part in parts])
    left, right = ((cosines - mean[side]) / deviation[side] for side in (trials.left, trials.right))
    return np.asarray((left + right) / 2)


def _without_evaluated(
    cohort: Cohort, content_hashes: list[str], speakers: Sequence[str] | None
) -> tuple[Cohort, list[str]]:
    names = {Path(speaker).name for speaker in cohort.speakers} & set(speakers or ())
    known = {speaker for speaker in cohort.speakers if Path(speaker).name in names}
    impostors = cohort.impostor_mask(known, content_hashes)
    if impostors.all():
        return cohort, []
    remaining = cohort.select(impostors)
    removed = len(cohort) - len(remaining)
    if len(remaining) < MIN_COHORT_CLIPS or len(set(remaining.speakers)) < MIN_COHORT_SPEAKERS:
        raise UsageError(
            f"{removed} of the {len(cohort)} cohort clips are of the evaluated speakers. Name recordings of other "
            "people: --cohort DATA."
        )
    return remaining, [f"{removed} clips of the cohort are of the evaluated speakers and were excluded from it."]


def read_trials(path: Path) -> Trials:
    """Read a trial list: two files and 1 or 0, target or nontarget, first (as in VoxCeleb) or last on each line.

    Raises DataError for anything else, with the first malformed line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as a trial list: {error}.") from error
    # Between tabs, where a line has any, names may hold blanks.
    rows = [
        (number, [part.strip() for part in line.strip().split("\t")] if "\t" in line else line.split())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise DataError(f"'{path}' holds no trials. {_LIST_FORMAT}")
    malformed = [(number, row) for number, row in rows if len(row) != 3][:1]
    for column in (0, -1) if not malformed else ():
        unknown = [(number, row) for number, row in rows if row[column].lower() not in _TARGET_WORDS][:1]
        if not unknown:
            return _trials([row for _, row in rows], column)
        # The column that stays valid for longer is the one that was meant.
        malformed = max(malformed, unknown)
    number, row = malformed[0]
    raise DataError(f"'{path}' is no trial list: line {number} is '{' '.join(row)}'. {_LIST_FORMAT}")


def _trials(rows: Sequence[list[str]], target_column: int) -> Trials:
    target = np.array([_TARGET_WORDS[row[target_column].lower()] for row in rows])
    pairs = [row[1:] if target_column == 0 else row[:-1] for row in rows]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for pair in pairs for name in pair))}
    indices = np.array([[numbers[name] for name in pair] for pair in pairs])
    return Trials(tuple(numbers), indices[:, 0], indices[:, 1], target)


def speakers_of(trials: Trials) -> tuple[str, ...] | None:
    """The speaker of each file: its top folder, below those that all files share.

    None where files lie in no folders, or where the folders contradict the trials.
    """
    folders = speaker_folders(trials.files)
    if folders is None:
        return None
    names = np.array([folder[-1] for folder in folders])
    if not np.array_equal(names[trials.left] == names[trials.right], trials.target):
        return None
    return tuple(str(name) for name in names)
