"""The memory of a process and its descendants, sampled from outside while it runs.

Each page counts once, however many processes share it (Pss on Linux). Mapped files count too, and are listed
separately: the system reclaims their pages when it needs memory.
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
    """Gigabytes (10⁹ bytes): everything, and the anonymous part, which belongs to no file."""

    total: float = 0.0
    anonymous: float = 0.0

    def maximum(self, other: "Memory") -> "Memory":
        return Memory(max(self.total, other.total), max(self.anonymous, other.anonymous))


@dataclass(frozen=True)
class MonitoredRun:
    """How a process ended: exit code, output, seconds, and peak memory in each phase."""

    code: int
    out: str
    errors: str
    seconds: float
    peaks: Mapping[str, Memory] = field(default_factory=dict)

    @property
    def peak(self) -> Memory:
        peak = Memory()
        for memory in self.peaks.values():
            peak = peak.maximum(memory)
        return peak


def run_monitored(
    command: Sequence[str], every: float, phase: Callable[[], str] = lambda: "all", **environment: str
) -> MonitoredRun:
    """Run a command to its end and sample its memory every so many seconds; it is killed when we are interrupted.

    `phase` names the current phase of the command. A sample costs 20 ms of one core, more with many processes.
    """
    peaks: dict[str, Memory] = {}
    start = time.perf_counter()
    # Its output goes to files: an unread pipe would block it.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        child = psutil.Popen(list(command), stdout=out, stderr=errors, env={**os.environ, **environment})
        try:
            while child.poll() is None:
                current = phase()
                peaks[current] = peaks.get(current, Memory()).maximum(memory_of(child.pid))
                time.sleep(every)
        finally:
            if child.poll() is None:
                for each in (*child.children(recursive=True), child):
                    each.kill()
                child.wait()
        seconds = time.perf_counter() - start
        out.seek(0)
        errors.seek(0)
        return MonitoredRun(child.returncode, out.read(), errors.read(), seconds, peaks)


def memory_of(pid: int) -> Memory:
    """The memory of a process and its descendants; zero once it has ended."""
    try:
        process = psutil.Process(pid)
        pids = [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return Memory()
    total = mapped = 0
    for each in pids:
        # A process may end, or still be starting, between the listing and the sample.
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                if name == "Pss":
                    total += int(value.split()[0]) * 1024
                elif name == "Pss_File":
                    mapped += int(value.split()[0]) * 1024
    return Memory(total / 1e9, (total - mapped) / 1e9)
