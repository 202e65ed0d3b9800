"""What a browser's microphone hears, piece by piece, cut into windows and merged into events as it comes.

In: the pieces of sound that a browser records, each a small file, and the model's answers for the windows. Out: the
windows to be asked about, as files at the model's rate, and events. The pieces pass through one resampler, so no seam
between them is heard. An Ear belongs to one recording of one visitor; its memory is that of one window.
"""

import io
from collections import deque
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from auricle.audio.decode import decode, resample
from auricle.inference.classifier import Classifier
from auricle.inference.events import Event, EventDetector, EventRules
from auricle.inference.predictor import WindowSpec, moment

# A browser sends pieces of half a second; one much longer is no piece of a stream.
PIECE_SECONDS = 30.0
# A visitor whose pieces come faster than they are answered for is asked about no further back than this many windows.
MOST_BEHIND = 4
SHOWN_EVENTS = 50


class Ear:
    """Hears pieces, gives windows, and takes the answers for them."""

    def __init__(self, classifier: Classifier, hop_seconds: float) -> None:
        window = classifier.window_seconds
        self.labels = classifier.labels
        self.sample_rate = classifier.settings.sample_rate
        self.window_seconds = window
        self.size, self.hop = WindowSpec(window, min(window, hop_seconds)).samples(self.sample_rate)
        # Gradio forgets pieces that come faster than they are answered for: the clock shows it.
        self.missed = 0.0
        self._begun = float("inf")
        self.events: deque[Event] = deque(maxlen=SHOWN_EVENTS)
        self._merger = EventDetector(self.labels, classifier.threshold, EventRules())
        self._resampler: soxr.ResampleStream | None = None
        self._source_rate = 0
        self._kept = np.zeros(0, np.int16)
        self._begin = 0  # the place of the first sample that is kept
        self._next = 0  # the number of the next window

    @property
    def seconds(self) -> float:
        """How much was heard."""
        return (self._begin + len(self._kept)) / self.sample_rate

    @property
    def current(self) -> Event | None:
        """The event that goes on."""
        return self._merger.current

    def hear(self, piece: bytes, at: float) -> None:
        """Take one more piece, which came at so many seconds of a clock. Raises AudioError for one that is no sound."""
        sound = decode(piece, max_seconds=PIECE_SECONDS, name="microphone")
        samples = resample(sound, sound.sample_rate, 1)[0]
        if sound.sample_rate != self._source_rate:
            self._source_rate = sound.sample_rate
            self._resampler = soxr.ResampleStream(sound.sample_rate, self.sample_rate, 1, dtype="int16")
        if self._resampler is not None and self._source_rate != self.sample_rate:
            samples = self._resampler.resample_chunk(samples)
        self._kept = np.concatenate([self._kept, samples])
        self._begun = min(self._begun, at - self.seconds)
        self.missed = max(0.0, at - self._begun - self.seconds)

    def windows(self) -> Iterator[tuple[int, np.ndarray]]:
        """The windows that are full by now, by number; of many only the last few."""
        ready = (self._begin + len(self._kept) - self.size) // self.hop + 1
        self._next = max(self._next, ready - MOST_BEHIND)
        while self._next < ready:
            first = self._next * self.hop - self._begin
            yield self._next, self._kept[first : first + self.size]
            self._next += 1
        self._forget()

    def newest(self) -> np.ndarray:
        """What was heard last, at most a window of it: what can be asked about before the first window is full."""
        return self._kept[-self.size :]

    def answered(self, number: int, samples: np.ndarray, probabilities: np.ndarray) -> None:
        """Take the probabilities (classes,) of a window."""
        logits = np.log(np.maximum(probabilities, 1e-12))
        window = moment(samples[None], number * self.hop, self.hop, self.sample_rate, logits)
        self.events.extend(self._merger.add(window))

    def finish(self) -> None:
        """End the event that goes on: nothing follows."""
        self.events.extend(self._merger.finish())

    def _forget(self) -> None:
        """Let go of what lies before the next window and before the newest."""
        gone = max(0, min(self._next * self.hop - self._begin, len(self._kept) - self.size))
        self._kept = self._kept[gone:]
        self._begin += gone


def as_file(samples: np.ndarray, sample_rate: int) -> bytes:
    """Samples int16 (frames,) as the content of a wav file."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
