"""Clips of many requests, scored together in as many threads as there are cores.

`batched` gathers what waits into batches without what nobody waits for any more: it runs inside our own event loop,
where litserve, mosec and Ray Serve bring servers of their own. Each thread has one core: threads of one operation that
wait for each other spin, and cost ten times the work where others use the machine too.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from batched.aio import AsyncBatchProcessor

from auricle.audio import FULL_SCALE
from auricle.inference.classifier import Classifier
from auricle.parallel import cores
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


class WorkerQueue:
    """One thread that a model runs in, and the queue before it."""

    def __init__(self, rows: Rows, limits: Limits, metrics: Metrics, sample_rate: int) -> None:
        self.frames = 0
        self._rows = rows
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="auricle-score", initializer=_one_core)
        self._queue = AsyncBatchProcessor(
            self._scored,
            batch_size=limits.batch_clips,
            timeout_ms=1000 * limits.batch_wait,
            max_batch_length=max(1, round(limits.batch_seconds * sample_rate)),
        )

    async def row(self, samples: np.ndarray) -> np.ndarray:
        """Wait until one clip is scored."""
        waiting = Waiting(samples, time.perf_counter())
        self.frames += len(waiting)
        self._metrics.queue_depth.inc()
        try:
            row: np.ndarray = await self._queue(waiting)
            return row
        finally:
            self.frames -= len(waiting)
            self._metrics.queue_depth.dec()

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _scored(self, items: list[Waiting]) -> list[np.ndarray]:
        start = time.perf_counter()
        for item in items:
            self._metrics.queue_seconds.observe(start - item.since)
        self._metrics.batch_clips.observe(len(items))
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._thread, self._rows, [item.samples for item in items])
        self._metrics.batch_seconds.observe(time.perf_counter() - start)
        return list(rows)


class BatchScorer:
    """The threads that a model runs in. A clip goes where the least waits."""

    def __init__(self, classifier: Classifier, limits: Limits, metrics: Metrics) -> None:
        self._settings = classifier.settings
        threads, rate = limits.threads or cores(), classifier.settings.sample_rate
        self._logits = [WorkerQueue(classifier.logits, limits, metrics, rate) for _ in range(threads)]
        self._vectors = [WorkerQueue(classifier.vectors, limits, metrics, rate)]

    async def logits(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (clips, classes) of clips int16 (channels, samples), or of frames."""
        return await _spread(self._logits, clips)

    async def vectors(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (clips, width) of clips as `logits` takes them."""
        return await _spread(self._vectors, clips)

    async def warm(self) -> None:
        """Score a little noise in every thread, so that nobody's request is the first."""
        shape = (self._settings.num_features or 1, max(1, round(WARM_SECONDS * self._settings.sample_rate)))
        noise = np.random.default_rng(0).normal(0.0, 0.1, shape)
        clip = noise.astype(np.float32)
        if self._settings.is_audio:
            clip = (noise * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
        await asyncio.gather(*(queue.row(clip) for queue in (*self._logits, *self._vectors)))

    def close(self) -> None:
        """Let the threads end."""
        for queue in (*self._logits, *self._vectors):
            queue.close()


async def _spread(queues: Sequence[WorkerQueue], clips: Sequence[np.ndarray]) -> np.ndarray:
    frames = [queue.frames for queue in queues]
    waiting = []
    for clip in clips:
        shortest = frames.index(min(frames))
        frames[shortest] += clip.shape[-1]
        waiting.append(queues[shortest].row(clip))
    return np.stack(await asyncio.gather(*waiting))


def _one_core() -> None:
    """PyTorch's number of threads is each thread's own; where it is not imported, there is nothing to set."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
