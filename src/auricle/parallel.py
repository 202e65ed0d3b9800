"""Apply a function to many parts in parallel: in processes of this machine, or in tasks of a Ray cluster.

In: a function and the parts. Out: the results, in the order of the parts, the same wherever they were computed. A task
that a lost machine or process takes with it runs again elsewhere: what parts write, they write completely or not at
all. Only results travel, not audio: every machine reads the recordings, and reads and writes the cache, where the first
does.
"""

import collections
import contextlib
import ctypes
import functools
import importlib.util
import io
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TextIO, TypeVar

from auricle.errors import DataError, MissingExtra, UsageError

# Called with the number of items done and the total.
Progress = Callable[[int, int], None]
Part = TypeVar("Part")
Result = TypeVar("Result")
# The maximum that glibc accepts for either threshold.
RETAINED_BYTES = 32 << 20
# A part may lose its process or machine so often; one that ends every process it runs in ends the command.
RETRIES = 5
# How long a cluster may take to accept a connection.
CONNECT_SECONDS = 10.0
# Parts that are submitted for each processor: the next one is there when one is done, and results stay few.
_AHEAD = 2
_connected = False


def parallel_map(work: Callable[[Part], Result], parts: Sequence[Part], workers: int | None = None) -> Iterator[Result]:
    """Apply `work` to every part, in forked processes if there are several cores and parts; results are in order.
    Within `connected` in tasks of the cluster.

    Threads would wait for each other: decoding a short recording takes less time than handing over the interpreter
    lock. A worker ends with its parent. Raises DataError when one is killed, as happens when memory runs out.
    """
    if on_cluster():
        yield from cluster_map(work, parts)
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


def on_cluster() -> bool:
    """Whether this command works on a cluster."""
    return _connected


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Work on the cluster at an address within the block, without one on this machine alone.

    Raises MissingExtra, and UsageError for an address at which no cluster answers.
    """
    global _connected
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("--engine ray", "scale")
    # Ray would call home, and warn of settings that its users cannot change.
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}.items():
        os.environ.setdefault(name, value)
    import ray

    try:
        if address not in (None, "auto", "local"):
            # Ray itself would try for minutes, and print what it tries.
            host, _, port = address.rpartition("://")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", include_dashboard=None)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--ray-address received '{address}', and no cluster answers there ({str(error).splitlines()[0]}). Give "
            "the address that its first machine prints, such as 10.0.0.1:6379, or none for this machine alone."
        ) from error
    _connected = True
    try:
        # Ray's threads print what they notice of lost machines among the answers.
        with contextlib.redirect_stdout(_MainThreadsOutput(sys.stdout)):
            yield
    finally:
        _connected = False
        ray.shutdown()


class _MainThreadsOutput(io.TextIOBase):
    """Standard output for the main thread; what other threads write goes to standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        is_ours = threading.current_thread() is threading.main_thread()
        return (self._stream if is_ours else sys.stderr).write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def cluster_map(work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """Apply `work` to every part on the cluster; parts are taken as machines need them.

    Raises what `work` raises, and DataError where its process is lost.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    remote: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
    given, folder = ray.put(work), os.getcwd()
    remaining = iter(parts)
    pending: collections.deque[Any] = collections.deque()
    while True:
        # Machines may join while the work runs.
        ahead = max(1, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
        pending.extend(
            remote.remote(given, part, folder) for part in itertools.islice(remaining, max(0, ahead - len(pending)))
        )
        if not pending:
            return
        try:
            yield ray.get(pending.popleft())
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise DataError(
                f"A part of the work lost its process {RETRIES + 1} times, as happens when memory runs out "
                f"({type(error).__name__}). Completed work is saved: run the same command again."
            ) from error


def _run(work: Callable[[Part], Result], part: Part, folder: str) -> Result:
    try:
        # Names of recordings may be relative.
        os.chdir(folder)
    except OSError as error:
        raise DataError(
            f"A machine of the cluster, {socket.gethostname()}, has no folder '{folder}'. All machines read the "
            "recordings and the cache at the same paths: run the command in a folder that they share."
        ) from error
    return work(part)
