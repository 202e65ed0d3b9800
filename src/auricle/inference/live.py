"""Events as they happen: audio comes in, and a message goes out when an event begins and when it is over.

Windows are scored one by one, as soon as they are complete; where that is slower than the audio comes, windows are
skipped and counted.
"""

import bisect
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from auricle.errors import AuricleError, DataError
from auricle.inference.classifier import Classifier
from auricle.inference.events import Event, EventDetector, EventRules
from auricle.inference.predictor import window_batches
from auricle.preparation.windows import WindowSpec

# For a block of samples to fill, to be handed over and to be resampled.
SLACK_SECONDS = 0.2
# Scored before the first window, to measure how long it takes.
_TRIALS = 3
_QUEUE_BLOCKS = 256
# Audio that is further ahead of the clock than this comes from a file: it can wait, and nothing is skipped.
_AHEAD_SECONDS = 1.0
_REMEMBERED_BLOCKS = 4096


@dataclass(frozen=True)
class Latency:
    """How long after the audio a message is sent, in seconds, at most: that an event began, and that it is over.

    `scoring` is what one window took, measured; a machine that is busy with something else may take longer.
    """

    begin: float
    end: float
    scoring: float


@dataclass(frozen=True)
class Message:
    """One line: an event began or is over, or windows were skipped, or the audio came to its end.

    `event` of one that began reaches as far as is known. `after` is how long ago its begin, or its end, came in. With
    "skipped", `windows` were skipped since the last such message; with "done", `seconds` came in, scored in `windows`.
    """

    kind: Literal["begin", "end", "skipped", "done"]
    event: Event | None = None
    after: float = 0.0
    windows: int = 0
    seconds: float = 0.0


def latency(classifier: Classifier, spec: WindowSpec, rules: EventRules) -> Latency:
    """Measure how long a window takes, and state the bounds that follow.

    A cell of one hop is decided when the window that begins with it is complete. The begin of an event is known when
    it is long enough to be reported, its end when its gap can no longer be bridged.
    """
    rate = classifier.settings.sample_rate
    size, hop = spec.samples(rate)
    noise = np.random.default_rng(0).integers(-3000, 3000, (1, size), dtype=np.int16)
    classifier.logits([noise])
    times = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        classifier.logits([noise])
        times.append(time.perf_counter() - start)
    scoring = max(times)
    # The window before may still be with the model.
    fixed = size / rate + 2 * scoring + SLACK_SECONDS
    cells = max(1, math.ceil(rules.min_seconds * rate / hop - 1e-6))
    bridged = math.floor(rules.max_gap * rate / hop + 1e-6)
    return Latency(fixed + (cells - 1) * hop / rate, fixed + bridged * hop / rate, scoring)


def listen(
    classifier: Classifier, blocks: Iterator[np.ndarray], spec: WindowSpec, rules: EventRules
) -> Iterator[Message]:
    """Detect events in a stream of int16 blocks (channels, samples) at the classifier's rate, until its end.

    A KeyboardInterrupt is taken for the end. An AuricleError of the stream is raised after the last event.
    """
    rate = classifier.settings.sample_rate
    buffer = StreamBuffer(blocks, rate)
    detector = EventDetector(classifier.labels, classifier.threshold, rules)
    scored = skipped = 0
    announced: float | None = None

    def ended(events: list[Event]) -> Iterator[Message]:
        """The messages of events that are over; first the one that an event began, if that is known only now."""
        nonlocal announced
        for event in events:
            if event.start != announced:
                yield Message("begin", event, buffer.since(event.start))
            yield Message("end", event, buffer.since(event.end))
            announced = None

    try:
        for batch in window_batches(buffer.blocks(), spec, rate, 1):
            if buffer.is_late(batch.starts[0] + batch.pieces[0].shape[1], batch.hop):
                skipped += 1
                continue
            if skipped:
                yield Message("skipped", windows=skipped)
                skipped = 0
            (window,) = batch.scored(classifier.logits(batch.pieces), rate)
            scored += 1
            yield from ended(detector.add(window))
            current = detector.current
            if current is not None and current.start != announced:
                announced = current.start
                yield Message("begin", current, buffer.since(current.start))
    except KeyboardInterrupt:
        pass
    if skipped:
        yield Message("skipped", windows=skipped)
    yield from ended(detector.finish())
    yield Message("done", windows=scored, seconds=buffer.received)
    if buffer.fault is not None:
        raise buffer.fault


class StreamBuffer:
    """Takes blocks in a thread of its own, so that a recorder never waits for the model, and notes when they came."""

    def __init__(self, blocks: Iterator[np.ndarray], sample_rate: int) -> None:
        self._rate = sample_rate
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(_QUEUE_BLOCKS)
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED_BLOCKS)  # end in the stream, clock
        self._lock = threading.Lock()
        self._began = 0.0
        self.received = 0.0
        self.fault: AuricleError | None = None
        threading.Thread(target=self._receive, args=(blocks,), name="auricle-stream", daemon=True).start()

    def _receive(self, blocks: Iterator[np.ndarray]) -> None:
        count = 0
        try:
            for block in blocks:
                now = time.monotonic()
                if not count:
                    self._began = now - block.shape[1] / self._rate
                count += block.shape[1]
                self.received = count / self._rate
                with self._lock:
                    self._arrivals.append((self.received, now))
                self._queue.put(block)
        except AuricleError as error:
            self.fault = error
        except OSError as error:
            self.fault = DataError(f"The audio cannot be read: {error}. Pipe raw samples in.")
        finally:
            self._queue.put(None)

    def blocks(self) -> Iterator[np.ndarray]:
        while (block := self._queue.get()) is not None:
            yield block

    def is_late(self, upto: int, hop: int) -> bool:
        """Whether a window up to sample `upto` waited so long, with newer ones behind it, that it is skipped."""
        newer = self.received - upto / self._rate > hop / self._rate
        is_live = self.received - (time.monotonic() - self._began) < _AHEAD_SECONDS
        return newer and is_live and self.since(upto / self._rate) > max(2 * hop / self._rate, SLACK_SECONDS)

    def since(self, seconds: float) -> float:
        """How long ago the sample at so many seconds of the stream came in."""
        with self._lock:
            arrivals = list(self._arrivals)
        index = bisect.bisect_left(arrivals, seconds - 1e-6, key=lambda arrival: arrival[0])
        return time.monotonic() - arrivals[min(index, len(arrivals) - 1)][1]
