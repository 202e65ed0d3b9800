"""The inference service behind the HTTP routes and the page: a file's content in, all that the model predicts out.

Content is decoded in a few threads and scored in batches with other requests, so the event loop waits for neither. Each
request has a slot: counted, bounded in bytes, and over at its deadline. Windows, means and events are the predictor's.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from auricle.audio.recordings import DecodedRecording
from auricle.inference.classifier import Classifier, Embedding, Prediction, pair_embeddings
from auricle.inference.events import Event, EventRules, find_events
from auricle.inference.predictor import MeanLogits, ScoredWindow, WindowBatch, spec_for, window_batches
from auricle.preparation.windows import WindowSpec
from auricle.serving.batching import BatchScorer
from auricle.serving.decode import Pcm, decode_request
from auricle.serving.limits import Limits, RequestError
from auricle.serving.metrics import Metrics

# So many windows of one recording are queued at a time: the short clips of other requests come in between.
WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class PredictOptions:
    """What to predict as well: windows of so many `seconds`, one every `hop`, and the events in them.

    By default windows are as long as the model's own, and half of that apart.
    """

    windows: bool = False
    events: bool = False
    seconds: float | None = None
    hop: float | None = None
    rules: EventRules = field(default_factory=EventRules)


TIMELINE = PredictOptions(windows=True, events=True)


@dataclass(frozen=True, eq=False)
class Timeline:
    """A recording's prediction, windows and events, and its samples (channels, frames) in the model's form."""

    prediction: Prediction
    windows: tuple[ScoredWindow, ...]
    events: tuple[Event, ...]
    samples: np.ndarray
    sample_rate: int


class RequestSlot:
    """One request among those in progress."""

    def __init__(self, service: "InferenceService") -> None:
        self._service = service
        self._bytes = 0

    def reserve(self, count: int) -> None:
        """Count so many bytes more as this request's. Raises RequestError 'memory' where the limit is reached."""
        if self._service.held_bytes + count > self._service.limits.held_bytes:
            raise RequestError("memory", "The server's memory limit is reached; retry later.")
        self._service.held_bytes += count
        self._bytes += count

    def release(self) -> None:
        """Free the request's bytes."""
        self._service.held_bytes -= self._bytes
        self._bytes = 0


class InferenceService:
    """A model that serves many requests at once. `name` is what it is called in responses."""

    def __init__(
        self, classifier: Classifier, limits: Limits, scorer: BatchScorer, metrics: Metrics, name: str
    ) -> None:
        self.classifier = classifier
        self.limits = limits
        self.scorer = scorer
        self.metrics = metrics
        self.name = name
        self.in_progress = 0
        self.held_bytes = 0
        self.stopping = False
        self.is_broken = False
        self._decoders = ThreadPoolExecutor(limits.decoders, thread_name_prefix="auricle-decode")

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[RequestSlot]:
        """Be one of the requests in progress, until the deadline. Raises RequestError 'full' at once, or 'deadline'."""
        if self.in_progress >= self.limits.requests:
            raise RequestError("full", f"{self.limits.requests} requests are in progress; retry later.")
        self.in_progress += 1
        slot = RequestSlot(self)
        try:
            async with asyncio.timeout(self.limits.deadline):
                yield slot
        except TimeoutError as error:
            raise RequestError("deadline", f"There was no answer within {self.limits.deadline:g} s.") from error
        finally:
            self.in_progress -= 1
            slot.release()

    async def predict_file(self, content: bytes, name: str = "") -> Timeline:
        """Take a slot and predict all there is for the content of a file. Raises RequestError."""
        async with self.slot() as slot:
            slot.reserve(len(content))
            options = TIMELINE if self.classifier.settings.is_audio else PredictOptions()
            return await self.predict(slot, content, name, options)

    async def predict_samples(self, recording: DecodedRecording) -> np.ndarray:
        """Take a slot and score a recording in memory: the logits (classes,) of its prediction. Raises RequestError."""
        async with self.slot() as slot:
            slot.reserve(recording.samples.nbytes)
            return await self._mean_logits(recording)

    async def predict(
        self, slot: RequestSlot, content: bytes, name: str, options: PredictOptions, pcm: Pcm | None = None
    ) -> Timeline:
        """Predict for the content of a file, or for raw PCM, within a slot. Raises RequestError."""
        recording = await self._decode(slot, content, name, pcm)
        rate = self.classifier.settings.sample_rate
        prediction = self.classifier.prediction(recording, await self._mean_logits(recording))
        windows: list[ScoredWindow] = []
        events: tuple[Event, ...] = ()
        if options.windows or options.events:
            spec = self._window_spec(recording.samples.shape[-1], options)
            batches, rows = await self._score(recording, spec)
            work = functools.partial(self._timeline, batches, rows, options)
            windows, events = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        return Timeline(prediction, tuple(windows) if options.windows else (), events, recording.samples, rate)

    async def embed(self, slot: RequestSlot, content: bytes, name: str, pcm: Pcm | None = None) -> Embedding:
        """Compute the embedding of the content of a file, within a slot. Raises RequestError."""
        recording = await self._decode(slot, content, name, pcm)
        return next(pair_embeddings([recording], await self.scorer.vectors([recording.samples])))

    def close(self) -> None:
        """Let the threads end; what has not begun is dropped."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.scorer.close()

    async def _decode(self, slot: RequestSlot, content: bytes, name: str, pcm: Pcm | None) -> DecodedRecording:
        work = functools.partial(decode_request, content, name, self.classifier.settings, self.limits, pcm)
        recording = await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        # A small file may hold much audio: it counts as what it takes.
        slot.reserve(recording.samples.nbytes)
        self.metrics.audio_seconds.inc(recording.seconds)
        return recording

    async def _score(self, recording: DecodedRecording, spec: WindowSpec) -> tuple[list[WindowBatch], list[np.ndarray]]:
        rate = self.classifier.settings.sample_rate
        batches = list(window_batches(recording.blocks, spec, rate, WINDOWS_AT_ONCE))
        return batches, [await self.scorer.logits(batch.pieces) for batch in batches]

    async def _mean_logits(self, recording: DecodedRecording) -> np.ndarray:
        """The logits (classes,) of a recording as `auricle predict` has them: the mean over its windows."""
        mean = MeanLogits()
        for rows in (await self._score(recording, spec_for(self.classifier, recording)))[1]:
            for row in rows:
                mean.add(row)
        return mean.value

    def _timeline(
        self, batches: Sequence[WindowBatch], rows: Sequence[np.ndarray], options: PredictOptions
    ) -> tuple[list[ScoredWindow], tuple[Event, ...]]:
        classifier = self.classifier
        rate = classifier.settings.sample_rate
        windows = [one for batch, own in zip(batches, rows, strict=True) for one in batch.scored(own, rate)]
        events = find_events(windows, classifier.labels, classifier.threshold, options.rules) if options.events else ()
        return windows, tuple(events)

    def _window_spec(self, frames: int, options: PredictOptions) -> WindowSpec:
        if not self.classifier.settings.is_audio:
            raise RequestError(
                "query", "windows and events need audio; this model takes precomputed features, whole clips only."
            )
        seconds = options.seconds or self.classifier.window_seconds
        spec = WindowSpec(seconds, options.hop or seconds / 2)
        if spec.hop > seconds:
            raise RequestError(
                "query", f"hop received '{spec.hop:g}', and up to {seconds:g} s, the window, is allowed."
            )
        size, hop = spec.samples(self.classifier.settings.sample_rate)
        count = max(0, frames - size) // hop + 2
        if count > self.limits.windows:
            raise RequestError("query", f"{count} windows were requested, and {self.limits.windows} are allowed.")
        return spec
