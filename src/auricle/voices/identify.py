"""Who speaks, and is it the one they say: recordings against the voices of a store.

In: a store and recordings. Out: Findings, in order. Scores are normalised against the store's cohort, and a threshold
is a quantile of what the cohort scores: against the claimed voice, or against the best of all voices where anyone may
speak, since more voices give a stranger more chances. Without a cohort scores are plain cosines: nothing is accepted.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.audio.recordings import Recording, recordings
from auricle.errors import DataError, unknown
from auricle.inference.classifier import Embedded
from auricle.voices import score_norm
from auricle.voices.encoder import Encoder
from auricle.voices.enrol import encoder_of
from auricle.voices.store import Contents, Store


@dataclass(frozen=True)
class Match:
    """One voice and its score: deviations above strangers, or a plain cosine where there is no cohort."""

    voice: str
    score: float


@dataclass(frozen=True)
class Finding:
    """What is found of one recording. `matches` come best first; empty when `error` says why there are none.

    `accepted` says that the best one (of `verify`: the one claimed) is above the threshold, None where there is none.
    """

    name: str
    matches: tuple[Match, ...]
    accepted: bool | None
    seconds: float
    warnings: tuple[str, ...] = ()
    error: str | None = None

    @property
    def voice(self) -> str | None:
        """The voice that was recognised; None for a stranger, and where nobody can say."""
        return self.matches[0].voice if self.accepted and self.matches else None


@dataclass(frozen=True, eq=False)
class Desk:
    """The voices that are asked about, with the model that hears. `threshold` is None where nothing can be accepted."""

    encoder: Encoder
    contents: Contents
    strange: np.ndarray
    threshold: float | None
    notes: tuple[str, ...]

    def findings(self, asked: Iterable[Recording]) -> Iterator[Finding]:
        """Answer for many recordings, in order, with bounded memory."""
        return (self._finding(clip) for clip in self.encoder.embeddings(asked))

    def _finding(self, clip: Embedded) -> Finding:
        if clip.error is not None:
            return Finding(clip.name, (), None, 0.0, clip.warnings, clip.error)
        voices, cohort = self.contents.voices, self.contents.cohort
        left = np.stack([voice.vector for voice in voices])
        if cohort is None:
            row = score_norm.cosines(left, clip.vector[None])[:, 0]
        else:
            # A clip of the cohort is answered for as if its speaker were not in there.
            strange = self.strange & cohort.impostors_of((), (clip.content,))[None]
            row = score_norm.normalise(left, clip.vector[None], cohort, strange)[:, 0]
        row = np.where(np.isfinite(row), row, -np.inf)
        matches = tuple(Match(voices[place].name, float(row[place])) for place in np.argsort(-row, kind="stable"))
        accepted = None if self.threshold is None else matches[0].score > self.threshold
        return Finding(clip.name, matches, accepted, clip.seconds, clip.warnings)


def identify(store: str | Path, files: Iterable[str], *, run: str | Path | None = None) -> Iterator[Finding]:
    """Say whose voice is in each recording, `voice` None for nobody's. Errors as in `desk`."""
    return desk(store, run=run).findings(recordings(files))


def verify(store: str | Path, name: str, files: Iterable[str], *, run: str | Path | None = None) -> Iterator[Finding]:
    """Say whether each recording is of the voice called `name`. Errors as in `desk`."""
    return desk(store, name, run=run).findings(recordings(files))


def desk(store: str | Path, name: str | None = None, *, run: str | Path | None = None) -> Desk:
    """Make ready to answer: for claims to be `name`, or for whoever of the store it may be.

    `run` names the store's model where it has moved. Raises DataError for a store that is not there or holds no such
    voice, RunError for a model that is gone or another one.
    """
    with Store.open(store) as opened:
        contents = opened.read()
    if not contents.voices:
        raise DataError(f"'{store}' holds no voices. Enrol one: auricle enrol {store} NAME FILES….")
    if name is not None:
        known = [voice for voice in contents.voices if voice.name == name.strip()]
        if not known:
            raise DataError(unknown("voice", name, [voice.name for voice in contents.voices]))
        contents = dataclasses.replace(contents, voices=tuple(known))
    strange, threshold, notes = _threshold(contents)
    return Desk(encoder_of(Path(store), run), contents, strange, threshold, notes)


def _threshold(contents: Contents) -> tuple[np.ndarray, float | None, tuple[str, ...]]:
    """Who in the cohort is a stranger to each voice (voices, cohort), the threshold, and what is to be told of it."""
    voices, cohort, share = contents.voices, contents.cohort, contents.max_false_accept_rate
    if cohort is None:
        note = "There is no cohort, hence no threshold: nothing is accepted. auricle enrol … --cohort DATA gives one."
        return np.zeros((len(voices), 0), bool), None, (note,)
    strange = np.array([cohort.impostors_of((voice.name,), voice.contents) for voice in voices])
    claims = score_norm.impostors(np.stack([voice.vector for voice in voices]), strange, cohort)
    heard = np.isfinite(claims).any(0)
    best = np.where(np.isfinite(claims), claims, -np.inf).max(0)
    found = score_norm.threshold(best[heard], share)
    if found is None:
        note = (
            f"Of the cohort, {int(heard.sum())} clips are of strangers, too few for a threshold: nothing is accepted."
        )
        return strange, None, (note,)
    notes: tuple[str, ...] = ()
    if heard.sum() < 1 / share:
        notes = (
            f"A false-accept rate of {share:g} cannot be told from {int(heard.sum())} clips of strangers: the "
            "threshold is the greatest score among them.",
        )
    return strange, found, notes
