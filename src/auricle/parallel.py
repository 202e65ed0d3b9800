"""Work on many parts, spread over processes, with results in order.

In: a function and the parts to apply it to. Out: its results, in the order of the parts.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from auricle.errors import DataError

# Called with how much is done and how much there is.
Progress = Callable[[int, int], None]
Part = TypeVar("Part")
Result = TypeVar("Result")
# The most that glibc takes for either threshold.
RETAINED_BYTES = 32 << 20


def parallel_map(work: Callable[[Part], Result], parts: Sequence[Part], workers: int | None = None) -> Iterator[Result]:
    """Do `work` on every part, in processes where that pays, and give the results in order.

    Threads would wait for each other: a short recording is decoded in less time than the interpreter's lock changes
    hands. A worker ends with its parent. Raises DataError when one is killed, as a system short of memory does.
    """
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
            "A process that was decoding recordings was ended from outside, as happens when memory runs out. What is "
            "whole is kept: run the same command again, and it goes on from there."
        ) from error


def _begin_worker() -> None:
    """On Linux, let the worker end when its parent is killed, and let it keep the memory that it frees.

    Each clip takes and frees the same few large arrays; asking the system for them anew costs a tenth of the time.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    set_death_signal = 1
    library.prctl(set_death_signal, signal.SIGKILL)
    if hasattr(library, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(trim_threshold, RETAINED_BYTES)
        library.mallopt(mmap_threshold, RETAINED_BYTES)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
