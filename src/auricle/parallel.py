"""Apply a function to many parts in parallel, with results in order: in local processes, or on a cluster.

In: a function and the parts. Out: the results, in the order of the parts, the same wherever they were computed.
"""

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from auricle import cluster
from auricle.errors import DataError

# Called with the number of items done and the total.
Progress = Callable[[int, int], None]
Part = TypeVar("Part")
Result = TypeVar("Result")
# The maximum that glibc accepts for either threshold.
RETAINED_BYTES = 32 << 20


def parallel_map(work: Callable[[Part], Result], parts: Sequence[Part], workers: int | None = None) -> Iterator[Result]:
    """Apply `work` to every part, in forked processes if there are several cores and parts; results are in order.
    Within `cluster.connected` in tasks of the cluster.

    Threads would wait for each other: decoding a short recording takes less time than handing over the interpreter
    lock. A worker ends with its parent. Raises DataError when one is killed, as happens when memory runs out.
    """
    if cluster.is_used():
        yield from cluster.cluster_map(work, parts)
        return
    workers = min(workers or cores(), len(parts))
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(work, parts)
        return
    fork = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(workers, mp_context=fork, initializer=_begin_worker) as pool:
            yield from pool.map(work, parts)
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process was killed, as happens when memory runs out. Completed work is saved: run the same "
            "command again to resume."
        ) from error


def _begin_worker() -> None:
    """End the worker when its parent is killed, on Linux, and let it reuse the memory that it frees."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    reuse_freed_memory()


@functools.cache
def reuse_freed_memory() -> None:
    """Let this process keep arrays of up to RETAINED_BYTES that it frees, on Linux, for the next ones.

    Each clip allocates and frees the same few large arrays. Requesting them from the system again takes a tenth of the
    time to decode it, and a third of that to describe it.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(trim_threshold, RETAINED_BYTES)
        library.mallopt(mmap_threshold, RETAINED_BYTES)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
