"""Tags without training: what a published network for everyday sounds finds in recordings of any length.

In: recordings. Out: the best of its classes for each, which do not exclude each other. A recording is cut into windows
of ten seconds, as the network was trained; a class's score is its highest of all windows, because a tag is about
whether something occurs, not how long.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from auricle.audio.recordings import Recording, read_recordings
from auricle.inference.classifier import Classifier
from auricle.inference.predictor import score_recordings
from auricle.models import device
from auricle.models.encoders.published import open_network
from auricle.preparation.windows import WindowSpec

WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class Tag:
    """One class, its score from 0 to 1, and where the window with that score starts and ends, in seconds."""

    label: str
    score: float
    start: float
    end: float


@dataclass(frozen=True)
class TaggedRecording:
    """The tags of one recording, best first; none where there is an `error`."""

    name: str
    tags: tuple[Tag, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def to_json(self) -> str:
        """One line of JSON, scores with six digits and seconds with three."""
        tags = [
            asdict(replace(tag, score=round(tag.score, 6), start=round(tag.start, 3), end=round(tag.end, 3)))
            for tag in self.tags
        ]
        rest = {"seconds": round(self.seconds, 3), "warnings": self.warnings, "error": self.error}
        return json.dumps({"file": self.name, "tags": tags, **rest}, ensure_ascii=False)


def open_tagger(checkpoint: Path) -> Classifier:
    """Open a network as `published.open_network` does, on this block's device. Raises UsageError."""
    return Classifier(open_network(checkpoint).to(device.current()))


def tag(tagger: Classifier, recordings: Iterable[Recording], top: int) -> Iterator[TaggedRecording]:
    """Tag recordings, in order, with bounded memory; one that cannot be decoded has an error."""
    spec = WindowSpec(WINDOW_SECONDS, WINDOW_SECONDS)
    for chunk in read_recordings(recordings, tagger.settings):
        for recording, windows in score_recordings(tagger, chunk, spec):
            best = np.full(len(tagger.labels), -np.inf)
            bounds = np.zeros((len(best), 2))
            for window in windows:
                higher = window.logits > best
                best[higher] = window.logits[higher]
                bounds[higher] = window.start, window.end
            if recording.error is not None:
                yield TaggedRecording(recording.name, (), 0.0, error=recording.error)
                continue
            scores = 1.0 / (1.0 + np.exp(-best))
            order = np.argsort(-best, kind="stable")[:top]
            tags = tuple(Tag(tagger.labels[index], float(scores[index]), *bounds[index].tolist()) for index in order)
            yield TaggedRecording(recording.name, tags, recording.seconds, recording.warnings)
