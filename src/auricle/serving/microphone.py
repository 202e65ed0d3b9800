"""A browser's microphone, piece by piece: cut into windows and merged into events as it comes.

The pieces, each a small file, pass through one resampler, so no seam between them is audible. A MicrophoneStream
belongs to one recording of one visitor; its memory is that of one window.
"""

from collections import deque

import numpy as np

from auricle.audio.decode import Converter, decode
from auricle.audio.recordings import DecodedRecording, whole_recording
from auricle.inference.classifier import Classifier
from auricle.inference.events import Event, EventDetector, EventRules
from auricle.inference.predictor import WindowBatch, WindowCutter
from auricle.preparation.windows import WindowSpec

# A browser sends pieces of half a second; one much longer is no piece of a stream.
PIECE_SECONDS = 30.0
NAME = "microphone"
# Of a visitor whose pieces come faster than they are scored, only so many of the latest windows are scored.
MAX_PENDING_WINDOWS = 4
SHOWN_EVENTS = 50


class MicrophoneStream:
    """Takes pieces, gives windows, and takes the logits for them."""

    def __init__(self, classifier: Classifier, hop_seconds: float) -> None:
        self.settings = classifier.settings
        self.spec = WindowSpec(classifier.window_seconds, min(classifier.window_seconds, hop_seconds))
        # Gradio drops pieces that come faster than they are scored: the clock shows it.
        self.missed = 0.0
        self._completed: deque[Event] = deque(maxlen=SHOWN_EVENTS)
        self._start_time = float("inf")
        self._detector = EventDetector(classifier.labels, classifier.threshold, EventRules())
        self._converter: Converter | None = None
        self._cutter = WindowCutter(*self.spec.samples(self.settings.sample_rate))
        self._pending: deque[WindowBatch] = deque(maxlen=MAX_PENDING_WINDOWS)

    @property
    def seconds(self) -> float:
        """How much audio came in."""
        return self._cutter.received / self.settings.sample_rate

    @property
    def events(self) -> list[Event]:
        """The latest events, with the one that goes on."""
        current = self._detector.current
        return [*self._completed, *([] if current is None else [current])]

    def add(self, piece: bytes, time: float) -> None:
        """Take one more piece, which came at so many seconds of a clock. Raises AudioError for one without audio."""
        audio = decode(piece, max_seconds=PIECE_SECONDS, name=NAME)
        if self._converter is None or self._converter.source_rate != audio.sample_rate:
            self._converter = Converter(audio.sample_rate, self.settings.sample_rate, 1)
        self._pending.extend(self._cutter.add(self._converter.convert(audio.samples)))
        self._start_time = min(self._start_time, time - self.seconds)
        self.missed = max(0.0, time - self._start_time - self.seconds)

    def windows(self) -> list[WindowBatch]:
        """The windows that are full by now; of many only the last few."""
        windows = list(self._pending)
        self._pending.clear()
        return windows

    def newest(self) -> DecodedRecording:
        """The audio that came in last, at most a window of it: what can be scored before the first window is full."""
        return whole_recording(NAME, self._cutter.newest, self.settings)

    def add_logits(self, window: WindowBatch, logits: np.ndarray) -> None:
        """Take the logits (classes,) of a window."""
        for scored in window.scored([logits], self.settings.sample_rate):
            self._completed.extend(self._detector.add(scored))

    def finish(self) -> None:
        """End the event that goes on: nothing follows."""
        self._completed.extend(self._detector.finish())
