"""Clips of many requests, scored together in one thread.

In: samples as a model takes them, from the event loop. Out: rows. `batched` gathers what waits into batches and leaves
out what nobody waits for any more: it runs inside our own event loop and application, where litserve, mosec and Ray
Serve bring servers of their own. How much may wait is decided before, in `asking`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from batched.aio import AsyncBatchProcessor

from auricle.classifier import Classifier
from auricle.serving.limits import Limits
from auricle.serving.metrics import Metrics

Rows = Callable[[Sequence[np.ndarray]], np.ndarray]
WARM_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Waiting:
    """One clip that waits; its length is its samples'."""

    samples: np.ndarray
    since: float

    def __len__(self) -> int:
        return int(self.samples.shape[-1])


class Scorer:
    """The one thread that a model runs in, and the queues before it."""

    def __init__(self, classifier: Classifier, limits: Limits, metrics: Metrics) -> None:
        self._classifier = classifier
        self._limits = limits
        self._metrics = metrics
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="auricle-score")
        self._logits = self._queue(classifier.logits)
        self._vectors = self._queue(classifier.vectors)

    async def logits(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (clips, classes) of clips int16 (channels, samples), or of frames."""
        return await self._rows(self._logits, clips)

    async def vectors(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (clips, width) of clips as `logits` takes them."""
        return await self._rows(self._vectors, clips)

    async def warm(self) -> None:
        """Score a little noise both ways, so that nobody's request is the first."""
        settings = self._classifier.settings
        shape = (settings.bands or 1, max(1, round(WARM_SECONDS * settings.sample_rate)))
        noise = np.random.default_rng(0).normal(0.0, 0.1, shape)
        clip = noise.astype(np.float32) if settings.bands else (noise * 32767).clip(-32768, 32767).astype(np.int16)
        await self.logits([clip])
        await self.vectors([clip])

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _rows(self, queue: "AsyncBatchProcessor[Waiting, np.ndarray]", clips: Sequence[np.ndarray]) -> np.ndarray:
        since = time.perf_counter()
        self._waiting += len(clips)
        self._metrics.queue_depth.set(self._waiting)
        try:
            return np.stack(await queue([Waiting(samples, since) for samples in clips]))
        finally:
            self._waiting -= len(clips)
            self._metrics.queue_depth.set(self._waiting)

    def _queue(self, rows: Rows) -> "AsyncBatchProcessor[Waiting, np.ndarray]":
        async def scored(items: list[Waiting]) -> list[np.ndarray]:
            start = time.perf_counter()
            for item in items:
                self._metrics.queue_seconds.observe(start - item.since)
            self._metrics.batch_clips.observe(len(items))
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._thread, rows, [item.samples for item in items])
            self._metrics.batch_seconds.observe(time.perf_counter() - start)
            return list(found)

        return AsyncBatchProcessor(
            scored,
            batch_size=self._limits.batch_clips,
            timeout_ms=1000 * self._limits.batch_wait,
            max_batch_length=max(1, round(self._limits.batch_seconds * self._classifier.settings.sample_rate)),
        )
