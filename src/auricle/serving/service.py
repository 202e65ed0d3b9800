"""What the service's routes and its page ask alike: the content of a file in, all that the model says of it out.

Content is decoded in a few threads and scored in batches with what others ask at the same time, so the event loop
waits for neither. Each request has a turn: counted, bounded in bytes, and over at its deadline.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from auricle.audio.long_recordings import WHOLE_SECONDS
from auricle.audio.recordings import Heard
from auricle.evaluation.scoring import softmax
from auricle.inference.classifier import Answer, Classifier, Embedded, embedded
from auricle.inference.events import Event, EventRules, events
from auricle.inference.predictor import WindowSpec, moment
from auricle.preparation.windows import Window as Stretch
from auricle.preparation.windows import windows
from auricle.serving.batching import Scorer
from auricle.serving.decode import Pcm, hear
from auricle.serving.limits import Limits, Refused
from auricle.serving.metrics import Metrics

# So many windows of one sound wait for the model at a time: others' short clips come in between.
WINDOWS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Window:
    """The probabilities (classes,) of a stretch, in seconds."""

    start: float
    end: float
    probabilities: np.ndarray


@dataclass(frozen=True)
class Wanted:
    """What is asked beside the answer: windows of so many `seconds`, one every `hop`, and events made of them.

    By default windows are as long as the model's own, and half of that apart.
    """

    windows: bool = False
    events: bool = False
    seconds: float | None = None
    hop: float | None = None
    rules: EventRules = field(default_factory=EventRules)


TIMELINE = Wanted(windows=True, events=True)


@dataclass(frozen=True, eq=False)
class Told:
    """The answer for a sound, for its windows, its events, and the samples (channels, frames) that were heard."""

    answer: Answer
    windows: tuple[Window, ...]
    events: tuple[Event, ...]
    samples: np.ndarray
    sample_rate: int


class Turn:
    """One request's place among those under way."""

    def __init__(self, asking: "Asking") -> None:
        self._asking = asking
        self._bytes = 0

    def hold(self, count: int) -> None:
        """Count so many bytes more as this request's. Raises Refused 'memory' where there is no room for them."""
        if self._asking.held_bytes + count > self._asking.limits.held_bytes:
            raise Refused("memory", "The bodies of others fill the room that there is. Try again.")
        self._asking.held_bytes += count
        self._bytes += count

    def end(self) -> None:
        """Give the room back."""
        self._asking.held_bytes -= self._bytes
        self._bytes = 0


class Asking:
    """A model that many ask at once. `name` is what it is called in answers."""

    def __init__(self, classifier: Classifier, limits: Limits, scorer: Scorer, metrics: Metrics, name: str) -> None:
        self.classifier = classifier
        self.limits = limits
        self.scorer = scorer
        self.metrics = metrics
        self.name = name
        self.under_way = 0
        self.held_bytes = 0
        self.stopping = False
        self.is_broken = False
        self._decoders = ThreadPoolExecutor(limits.decoders, thread_name_prefix="auricle-decode")

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Be one of the requests under way, until the deadline.

        Raises Refused: 'full' at once where there are as many as allowed, 'deadline' when time is over.
        """
        if self.under_way >= self.limits.requests:
            raise Refused("full", f"{self.limits.requests} requests are under way. Try again.")
        self.under_way += 1
        turn = Turn(self)
        try:
            async with asyncio.timeout(self.limits.deadline):
                yield turn
        except TimeoutError as error:
            raise Refused("deadline", f"There was no answer within {self.limits.deadline:g} s.") from error
        finally:
            self.under_way -= 1
            turn.end()

    async def hear(self, content: bytes, name: str = "", wanted: Wanted | None = None) -> Told:
        """Take a turn and answer for the content of a file, with all that is known of it. Raises Refused."""
        async with self.turn() as turn:
            turn.hold(len(content))
            known = TIMELINE if self.classifier.settings.num_features is None else Wanted()
            return await self.answer(turn, content, name, known if wanted is None else wanted)

    async def answer(self, turn: Turn, content: bytes, name: str, wanted: Wanted, pcm: Pcm | None = None) -> Told:
        """Answer for the content of a file, or for raw PCM, within a turn. Raises Refused."""
        heard = await self._decoded(turn, content, name, pcm)
        samples, rate = heard.samples, self.classifier.settings.sample_rate
        logits = await self._whole(samples)
        hop, cut = 0, list[Stretch]()
        rows = np.zeros((0, len(self.classifier.labels)), np.float32)
        if wanted.windows or wanted.events:
            hop, cut = self._cut(samples.shape[-1], wanted)
            rows = await self._over_windows(samples, cut)
        answer = self.classifier.answer(heard.name, logits, samples.shape[-1] / rate, heard.notes)
        told: tuple[Window, ...] = ()
        if wanted.windows:
            chances = softmax(rows)
            told = tuple(Window(one.start / rate, one.stop / rate, row) for one, row in zip(cut, chances, strict=True))
        found: tuple[Event, ...] = ()
        if wanted.events:
            merged = functools.partial(self._events, samples, cut, hop, rows, wanted.rules)
            found = await asyncio.get_running_loop().run_in_executor(self._decoders, merged)
        return Told(answer, told, found, samples, rate)

    async def vector(self, turn: Turn, content: bytes, name: str, pcm: Pcm | None = None) -> Embedded:
        """Give the vector of the content of a file, within a turn. Raises Refused."""
        heard = await self._decoded(turn, content, name, pcm)
        rows = await self.scorer.vectors([heard.samples])
        return next(embedded([heard], rows, self.classifier.settings.sample_rate))

    def close(self) -> None:
        """Let the threads end; what was not begun is dropped."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.scorer.close()

    async def _whole(self, samples: np.ndarray) -> np.ndarray:
        """Logits (classes,) of a sound as `auricle predict` has them: of a long one, the mean over windows."""
        settings = self.classifier.settings
        if settings.num_features is not None or samples.shape[-1] <= WHOLE_SECONDS * settings.sample_rate:
            return np.asarray((await self.scorer.logits([samples]))[0])
        size, step = self.classifier.cut.samples(settings.sample_rate)
        cut = windows(np.array([samples.shape[-1]]), size, 1 - step / size)
        return np.asarray((await self._over_windows(samples, cut)).mean(0))

    async def _decoded(self, turn: Turn, content: bytes, name: str, pcm: Pcm | None) -> Heard:
        work = functools.partial(hear, content, name, self.classifier.settings, self.limits, pcm)
        heard = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        # A small file may hold much sound: it counts as what it takes.
        turn.hold(heard.samples.nbytes)
        self.metrics.audio_seconds.inc(heard.samples.shape[-1] / self.classifier.settings.sample_rate)
        return heard

    def _cut(self, frames: int, wanted: Wanted) -> tuple[int, list[Stretch]]:
        """The hop in samples, and the windows that are wanted."""
        if self.classifier.settings.num_features is not None:
            raise Refused(
                "query", "windows and events are of sound; this model hears precomputed features, whole clips only."
            )
        seconds = wanted.seconds or self.classifier.window_seconds
        hop = wanted.hop or seconds / 2
        if hop > seconds:
            raise Refused("query", f"hop received '{hop:g}', and up to the window's {seconds:g} s is allowed.")
        size, step = WindowSpec(seconds, hop).samples(self.classifier.settings.sample_rate)
        count = max(0, frames - size) // step + 2
        if count > self.limits.windows:
            raise Refused("query", f"{count} windows were asked for, and {self.limits.windows} are allowed.")
        return step, windows(np.array([frames]), size, 1 - step / size)

    def _events(
        self, samples: np.ndarray, cut: Sequence[Stretch], hop: int, rows: np.ndarray, rules: EventRules
    ) -> tuple[Event, ...]:
        classifier = self.classifier
        rate = classifier.settings.sample_rate
        heard = (
            moment(samples[:, one.start : one.stop], one.start, hop, rate, row)
            for one, row in zip(cut, rows, strict=True)
        )
        return tuple(events(heard, classifier.labels, classifier.threshold, rules))

    async def _over_windows(self, samples: np.ndarray, cut: Sequence[Stretch]) -> np.ndarray:
        """Logits (windows, classes), some windows at a time."""
        rows = []
        for first in range(0, len(cut), WINDOWS_AT_ONCE):
            part = cut[first : first + WINDOWS_AT_ONCE]
            rows.append(await self.scorer.logits([samples[:, one.start : one.stop] for one in part]))
        return np.concatenate(rows)
