"""Stand-in until the service's own: what it will hear and tell."""

from dataclasses import dataclass

import numpy as np

from auricle.audio.survey import as_heard, open_clip
from auricle.classifier import Answer, Classifier
from auricle.corpus.clip import Clip
from auricle.events import Event
from auricle.serving.limits import Limits, Refused


@dataclass(frozen=True, eq=False)
class Window:
    """Probabilities (classes,) of a stretch of seconds."""

    start: float
    end: float
    probabilities: np.ndarray


@dataclass(frozen=True)
class Wanted:
    windows: bool = False
    events: bool = False


TIMELINE = Wanted(True, True)


@dataclass(frozen=True, eq=False)
class Told:
    """The answer for a sound, for its windows, its events, and the int16 samples (channels, frames) that were heard."""

    answer: Answer
    windows: tuple[Window, ...]
    events: tuple[Event, ...]
    samples: np.ndarray
    sample_rate: int


class Asking:
    """What both the service's routes and its page ask."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.limits = Limits()

    async def hear(self, content: bytes, name: str, wanted: Wanted = TIMELINE) -> Told:
        """Answer for the content of a file."""
        settings, labels = self.classifier.settings, self.classifier.labels
        opened = open_clip(Clip(name, name, ""), settings, content)
        if opened.sound is None or opened.sound.samples.shape[1] == 0:
            finding = opened.findings[0]
            raise Refused(finding.kind, finding.detail)
        samples = as_heard(opened.sound, settings)
        rate, seconds = settings.sample_rate, samples.shape[1] / settings.sample_rate
        if seconds > 600:
            raise Refused("long", f"it lasts {seconds:.0f} s, and 600 s are allowed")
        notes = tuple(f"{finding.kind}: {finding.detail}" for finding in opened.findings)
        answer = self.classifier.classify(samples, rate)
        answer = Answer(name, answer.choices, seconds, notes, unknown=answer.unknown)
        size, windows = 1.0, []
        for number in range(max(1, round(seconds / size * 2) - 1)):
            piece = samples[:, int(number * size / 2 * rate) : int((number / 2 + 1) * size * rate)]
            said = {c.label: c.probability for c in self.classifier.classify(piece, rate).choices}
            windows.append(
                Window(number / 2 * size, min((number / 2 + 1) * size, seconds), np.array([said[one] for one in labels]))
            )
        events: list[Event] = []
        for window in windows:
            best = int(window.probabilities.argmax())
            label, probability = labels[best], float(window.probabilities[best])
            if probability < 0.5:
                continue
            if events and events[-1].label == label and events[-1].end >= window.start:
                events[-1] = Event(label, events[-1].start, window.end, max(probability, events[-1].probability))
            else:
                events.append(Event(label, window.start, window.end, probability))
        return Told(answer, tuple(windows) if len(windows) > 1 else (), tuple(events), samples, rate)
