"""Identify speakers and verify claims: recordings against the voices of a store.

A threshold is a quantile of what the cohort scores as impostors: against the claimed voice, or against the best of all
voices in identification, since more voices give an impostor more chances. Without a cohort scores are plain cosines,
and nothing is accepted.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.audio.recordings import Recording, recordings
from auricle.errors import DataError, unknown
from auricle.inference.classifier import Embedding
from auricle.voices import score_norm
from auricle.voices.encoder import Encoder
from auricle.voices.enrol import encoder_for_store
from auricle.voices.store import StoreContents, VoiceStore


@dataclass(frozen=True)
class Match:
    """One voice and its score: standard deviations above impostors, or a plain cosine where there is no cohort."""

    voice: str
    score: float


@dataclass(frozen=True)
class Decision:
    """The result for one recording. `matches` come best first; empty when `error` says why there are none.

    `accepted` says whether the best match (of `verify`: the claimed voice) is above the threshold; None without one.
    """

    name: str
    matches: tuple[Match, ...]
    accepted: bool | None
    seconds: float
    warnings: tuple[str, ...] = ()
    error: str | None = None

    @property
    def voice(self) -> str | None:
        """The voice that was recognised; None for an unknown speaker, and without a threshold."""
        return self.matches[0].voice if self.accepted and self.matches else None


@dataclass(frozen=True, eq=False)
class SpeakerMatcher:
    """Voices with their encoder. `threshold` is None where nothing can be accepted.

    `impostors` (voices, cohort) says which cohort clips are of other people than each voice.
    """

    encoder: Encoder
    contents: StoreContents
    impostors: np.ndarray
    threshold: float | None
    notes: tuple[str, ...]

    def decide(self, recordings: Iterable[Recording]) -> Iterator[Decision]:
        """Decide for many recordings, in order, with bounded memory."""
        return (self._decide(clip) for clip in self.encoder.embeddings(recordings))

    def _decide(self, clip: Embedding) -> Decision:
        if clip.error is not None:
            return Decision(clip.name, (), None, 0.0, clip.warnings, clip.error)
        voices, cohort = self.contents.voices, self.contents.cohort
        enrolled = np.stack([voice.embedding for voice in voices])
        if cohort is None:
            scores = score_norm.cosines(enrolled, clip.vector[None])[:, 0]
        else:
            # A clip of the cohort is scored as if its speaker were not in the cohort.
            impostors = self.impostors & cohort.impostor_mask((), (clip.content,))[None]
            scores = score_norm.as_norm(enrolled, clip.vector[None], cohort, impostors)[:, 0]
        scores = np.where(np.isfinite(scores), scores, -np.inf)
        matches = tuple(Match(voices[row].name, float(scores[row])) for row in np.argsort(-scores, kind="stable"))
        accepted = None if self.threshold is None else matches[0].score > self.threshold
        return Decision(clip.name, matches, accepted, clip.seconds, clip.warnings)


def identify(store: str | Path, files: Iterable[str], *, run: str | Path | None = None) -> Iterator[Decision]:
    """Identify the speaker of each recording; `voice` is None for an unknown one. Errors as in `load_matcher`."""
    return load_matcher(store, run=run).decide(recordings(files))


def verify(store: str | Path, name: str, files: Iterable[str], *, run: str | Path | None = None) -> Iterator[Decision]:
    """Verify that each recording is of the voice called `name`. Errors as in `load_matcher`."""
    return load_matcher(store, name, run=run).decide(recordings(files))


def load_matcher(store: str | Path, name: str | None = None, *, run: str | Path | None = None) -> SpeakerMatcher:
    """Load a store and its encoder: for claims to be `name`, or for identification among all voices.

    `run` names the store's model where it has moved. Raises DataError for a store that does not exist or holds no such
    voice, RunError for a model that is gone or another one.
    """
    with VoiceStore.open(store) as opened:
        contents = opened.read()
    if not contents.voices:
        raise DataError(f"'{store}' holds no voices. Enrol one: auricle enrol {store} NAME FILES….")
    if name is not None:
        claimed = [voice for voice in contents.voices if voice.name == name.strip()]
        if not claimed:
            raise DataError(unknown("voice", name, [voice.name for voice in contents.voices]))
        contents = dataclasses.replace(contents, voices=tuple(claimed))
    impostors, threshold, notes = _threshold(contents)
    return SpeakerMatcher(encoder_for_store(Path(store), run), contents, impostors, threshold, notes)


def _threshold(contents: StoreContents) -> tuple[np.ndarray, float | None, tuple[str, ...]]:
    """Each voice's impostors in the cohort (voices, cohort), the threshold, and notes for the user."""
    voices, cohort, rate = contents.voices, contents.cohort, contents.max_false_accept_rate
    if cohort is None:
        note = "There is no cohort, hence no threshold: nothing is accepted. Add one: auricle enrol … --cohort DATA."
        return np.zeros((len(voices), 0), bool), None, (note,)
    impostors = np.array([cohort.impostor_mask((voice.name,), voice.content_hashes) for voice in voices])
    claims = score_norm.impostor_scores(np.stack([voice.embedding for voice in voices]), impostors, cohort)
    scored = np.isfinite(claims).any(0)
    count = int(scored.sum())
    best = np.where(np.isfinite(claims), claims, -np.inf).max(0)
    threshold = score_norm.threshold(best[scored], rate)
    notes: tuple[str, ...] = ()
    if threshold is None:
        notes = (f"The cohort has {count} impostor clips, too few for a threshold: nothing is accepted.",)
    elif count < 1 / rate:
        notes = (
            f"{count} impostor clips cannot measure a false-accept rate of {rate:g}: the threshold is the highest "
            "score among them.",
        )
    return impostors, threshold, notes
