"""The inference service behind the HTTP routes and the page: a file's content in, all that the model predicts out.

Content is decoded in a few threads and scored in batches with other requests, so the event loop waits for neither. Each
request has a slot: counted, bounded in bytes, and over at its deadline. Windows, means and events are the predictor's.
"""

import asyncio
import contextlib
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
from auricle.serving.decode import Upload, decode_request
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

    def __init__(self, classifier: Classifier, limits: Limits, name: str) -> None:
        self.classifier = classifier
        self.limits = limits
        self.metrics = Metrics()
        self.scorer = BatchScorer(classifier, limits, self.metrics)
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
            return await self.predict(slot, Upload(content, name), options)

    async def predict_samples(self, recording: DecodedRecording) -> np.ndarray:
        """Take a slot and score a recording in memory: the logits (classes,) of its prediction. Raises RequestError."""
        async with self.slot() as slot:
            slot.reserve(recording.samples.nbytes)
            return await self._mean_logits(recording)

    async def predict(self, slot: RequestSlot, upload: Upload, options: PredictOptions) -> Timeline:
        """Predict for a file, or for raw PCM, within a slot. Raises RequestError."""
        recording = await self._decode(slot, upload)
        prediction = self.classifier.prediction(recording, await self._mean_logits(recording))
        windows: tuple[ScoredWindow, ...] = ()
        events: tuple[Event, ...] = ()
        if options.windows or options.events:
            spec = self._window_spec(recording.samples.shape[-1], options)
            scored = await self._score(recording, spec)
            loop = asyncio.get_running_loop()
            windows, events = await loop.run_in_executor(self._decoders, self._timeline, scored, options)
        rate = self.classifier.settings.sample_rate
        return Timeline(prediction, windows if options.windows else (), events, recording.samples, rate)

    async def embed(self, slot: RequestSlot, upload: Upload) -> Embedding:
        """Compute the embedding of a file, within a slot. Raises RequestError."""
        recording = await self._decode(slot, upload)
        return next(pair_embeddings([recording], await self.scorer.vectors([recording.samples])))

    def close(self) -> None:
        """Let the threads end; what has not begun is dropped."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.scorer.close()

    async def _decode(self, slot: RequestSlot, upload: Upload) -> DecodedRecording:
        loop, settings = asyncio.get_running_loop(), self.classifier.settings
        recording = await loop.run_in_executor(self._decoders, decode_request, upload, settings, self.limits)
        # A small file may hold much audio: it counts as what it takes.
        slot.reserve(recording.samples.nbytes)
        self.metrics.audio_seconds.inc(recording.seconds)
        return recording

    async def _score(self, recording: DecodedRecording, spec: WindowSpec) -> list[tuple[WindowBatch, np.ndarray]]:
        rate = self.classifier.settings.sample_rate
        batches = window_batches(recording.blocks, spec, rate, WINDOWS_AT_ONCE)
        return [(batch, await self.scorer.logits(batch.pieces)) for batch in batches]

    async def _mean_logits(self, recording: DecodedRecording) -> np.ndarray:
        """The logits (classes,) of a recording as `auricle predict` has them: the mean over its windows."""
        mean = MeanLogits()
        for _, rows in await self._score(recording, spec_for(self.classifier, recording)):
            for row in rows:
                mean.add(row)
        return mean.value

    def _timeline(
        self, scored: Sequence[tuple[WindowBatch, np.ndarray]], options: PredictOptions
    ) -> tuple[tuple[ScoredWindow, ...], tuple[Event, ...]]:
        classifier = self.classifier
        rate = classifier.settings.sample_rate
        windows = tuple(window for batch, rows in scored for window in batch.scored(rows, rate))
        if not options.events:
            return windows, ()
        return windows, tuple(find_events(windows, classifier.labels, classifier.threshold, options.rules))

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
