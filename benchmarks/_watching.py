"""The memory of a process and of all that it starts, sampled from outside while it runs.

Each page in memory is counted once, however many processes share it (Linux calls this Pss). Pages of files that are
only mapped are counted too, and given apart: the system takes these back when others need the room.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Memory:
    """Gigabytes (10⁹ bytes): everything, and the part that is no file's."""

    total: float = 0.0
    anonymous: float = 0.0

    def most(self, other: "Memory") -> "Memory":
        return Memory(max(self.total, other.total), max(self.anonymous, other.anonymous))


@dataclass(frozen=True)
class Watched:
    """How a watched process ended: exit code, what it printed, seconds, and the peak of memory in each phase."""

    code: int
    out: str
    errors: str
    seconds: float
    peaks: Mapping[str, Memory] = field(default_factory=dict)

    @property
    def peak(self) -> Memory:
        most = Memory()
        for memory in self.peaks.values():
            most = most.most(memory)
        return most


def watch(
    command: Sequence[str], every: float, phase: Callable[[], str] = lambda: "all", **environment: str
) -> Watched:
    """Run a command to its end and look at its memory every so many seconds; it ends when we are interrupted.

    `phase` names what the command is doing at the moment. A look costs 20 ms of one core and more with many processes.
    """
    peaks: dict[str, Memory] = {}
    start = time.perf_counter()
    # Files take what it prints: a pipe that nobody empties would stop it.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        child = psutil.Popen(list(command), stdout=out, stderr=errors, env={**os.environ, **environment})
        try:
            while child.poll() is None:
                now = phase()
                peaks[now] = peaks.get(now, Memory()).most(memory_of(child.pid))
                time.sleep(every)
        finally:
            if child.poll() is None:
                for each in (*child.children(recursive=True), child):
                    each.kill()
                child.wait()
        seconds = time.perf_counter() - start
        out.seek(0)
        errors.seek(0)
        return Watched(child.returncode, out.read(), errors.read(), seconds, peaks)


def memory_of(pid: int) -> Memory:
    """What a process and its descendants hold at the moment; nothing once it has ended."""
    try:
        process = psutil.Process(pid)
        pids = [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return Memory()
    total = mapped = 0
    for each in pids:
        # A process may end, or be one that is still being started, between the listing and the look.
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                if name == "Pss":
                    total += int(value.split()[0]) * 1024
                elif name == "Pss_File":
                    mapped += int(value.split()[0]) * 1024
    return Memory(total / 1e9, (total - mapped) / 1e9)
