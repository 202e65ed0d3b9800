"""Judge a model's vectors by a list of trials.

In: a run, a list, perhaps a cohort. Out: EER and minDCF with intervals, of plain cosines and, with a cohort, of
normalised scores. Each file is heard once, however many trials it is in.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from auricle.audio.recordings import Recording
from auricle.errors import DataError, UsageError
from auricle.parallel import Progress
from auricle.voices import error_rates, score_norm
from auricle.voices.encoder import open_encoder
from auricle.voices.enrol import Gathered, named_cohort
from auricle.voices.error_rates import Trials
from auricle.voices.score_norm import MIN_COHORT, MIN_SPEAKERS, Cohort

# Trials scored at once.
_BLOCK = 100_000


def judge(
    run: str | Path,
    listed: str | Path,
    progress: Progress,
    *,
    root: str | Path | None = None,
    cohort: str | None = None,
) -> dict[str, Any]:
    """Hear the files of a list, below `root` (default: the list's folder), and measure. Plain data, ready for JSON.

    Trials with a file that cannot be heard are left out and counted. Raises DataError for a list that is none or of
    which no trials of both kinds are left, RunError for no model, UsageError for no cohort.
    """
    listed = Path(listed)
    asked = error_rates.read(listed)
    root = listed.parent if root is None else Path(root)
    if not root.is_dir():
        raise UsageError(f"--root received '{root}', which is no folder. Name the folder that the list's files lie in.")
    encoder = open_encoder(run)
    heard = []
    for clip in encoder.embeddings(Recording(name, str(root / name)) for name in asked.files):
        heard.append(clip)
        progress(len(heard), len(asked.files))
    good = np.array([clip.error is None for clip in heard])
    if not good.any():
        raise DataError(
            f"None of the {len(heard)} files of '{listed}' can be heard below '{root}': {heard[0].error}. Name their "
            "folder by --root."
        )
    width = next(len(clip.vector) for clip in heard if clip.error is None)
    vectors = np.stack([clip.vector if clip.error is None else np.zeros(width, np.float32) for clip in heard])
    kept = asked.select(good[asked.left] & good[asked.right])
    speakers = error_rates.speakers(asked)
    plain = _each(kept, vectors, None)
    figures, drawn = error_rates.measured(plain, kept, speakers)
    measures = {"cosine": figures}
    notes = _told(speakers)
    found = Gathered(None, "", ()) if cohort is None else named_cohort(encoder, cohort)
    if found.cohort is not None:
        out_of_set, more = _strangers(found.cohort, [clip.content for clip in heard], speakers)
        notes += [*found.notes, *more]
        measures["normalised"] = error_rates.measured(_each(kept, vectors, out_of_set), kept, speakers)[0]
    failed = [{"file": clip.name, "error": clip.error} for clip in heard if clip.error is not None]
    return {
        "trials": len(kept),
        "targets": int(kept.target.sum()),
        "nontargets": int((~kept.target).sum()),
        "files": len(heard),
        "cohort": found.named,
        "interval": {"unit": drawn.unit, "units": drawn.units, "level": 0.95},
        "metrics": {kind: {name: asdict(one) for name, one in rows.items()} for kind, rows in measures.items()},
        "left_out": len(asked) - len(kept),
        "failed": failed,
        "notes": notes,
    }


def _each(kept: Trials, vectors: np.ndarray, cohort: Cohort | None) -> np.ndarray:
    """The score of each trial (trials,)."""
    out = np.concatenate(
        [
            np.einsum("tw,tw->t", vectors[kept.left[at : at + _BLOCK]], vectors[kept.right[at : at + _BLOCK]])
            for at in range(0, max(1, len(kept)), _BLOCK)
        ]
    ).astype(np.float64)
    if cohort is None:
        return out
    parts = [
        cohort.steadied(score_norm.level(score_norm.cosines(vectors[at : at + 1000], cohort.vectors)))
        for at in range(0, len(vectors), 1000)
    ]
    mean = np.concatenate([part.mean for part in parts])
    deviation = np.concatenate([part.deviation for part in parts])
    sides = [(out - mean[side]) / deviation[side] for side in (kept.left, kept.right)]
    return np.asarray((sides[0] + sides[1]) / 2)


def _strangers(cohort: Cohort, contents: list[str], speakers: Sequence[str] | None) -> tuple[Cohort, list[str]]:
    """The cohort without the speakers that are judged, and what is to be told of it."""
    names = {Path(speaker).name for speaker in cohort.speakers} & set(speakers or ())
    known = {speaker for speaker in cohort.speakers if Path(speaker).name in names}
    strange = cohort.impostors_of(known, contents)
    if strange.all():
        return cohort, []
    left = cohort.select(strange)
    if len(left) < MIN_COHORT or len(set(left.speakers)) < MIN_SPEAKERS:
        raise UsageError(
            f"Of the {len(cohort)} clips of the cohort, {len(cohort) - len(left)} are of the speakers that are judged. "
            "Name recordings of other people by --cohort."
        )
    return left, [f"{len(cohort) - len(left)} clips of the cohort are of the judged speakers and left out of it."]


def _told(speakers: Sequence[str] | None) -> list[str]:
    if speakers is not None:
        return []
    return [
        "The folders of the list do not tell who speaks: intervals are drawn over files, as if each were a speaker of "
        "its own."
    ]
