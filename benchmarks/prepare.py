"""Preparing a corpus: auricle's store compared with `datasets.map` and librosa, at 16 kHz mono.

Each measurement is its own process, the sides alternate, the files are in the system's cache, and imports are not
timed. The ratio compares with the tutorial, which stores Python lists; the table also shows numpy arrays, the best that
`datasets` can do. auricle's time includes the audit's fault checks and fingerprints. The decoder alone, and with the
resampler, in as many processes, show the limit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from auricle.errors import UsageError
from benchmarks._environment import Screen, corpus, median

# Targets for the ratio: ogg spends most of its time in the decoder that both sides share.
TARGETS = {"emodb": 10.0, "esc10": 4.0}
SIDES = ("lists", "arrays", "auricle", "resampled", "decoder")
SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class SideRun:
    """One run of one side. Peak memory in megabytes: everything, and the anonymous part, which belongs to no file."""

    seconds: float
    clips: int
    peak_mb: float
    anonymous_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", choices=[*TARGETS, "all"], default="all", help="which corpus (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: 3)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure each corpus, print its ratio, and end with the ratio that is lowest relative to its target."""
    names = list(TARGETS) if options.corpus == "all" else [options.corpus]
    folders = {name: corpus(name) for name in names}
    screen.machine()
    ratios = {}
    for name, folder in folders.items():
        runs: dict[str, list[SideRun]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side, done in runs.items():
                done.append(run_side(side, folder))
        ratios[name] = _show(name, runs, screen)
    lowest = min(names, key=lambda name: ratios[name] / TARGETS[name])
    if len(names) > 1:
        screen.say(f"Lowest relative to its target of {TARGETS[lowest]:g}: {lowest}.")
    screen.result("prepare", "ratio", ratios[lowest])


def run_side(side: str, folder: Path) -> SideRun:
    """Run one side in a new process and sample its memory. Raises UsageError with the end of its output if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks._prepare_side", side, str(folder), scratch]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        anonymous = 0.0
        while child.poll() is None:
            anonymous = max(anonymous, _anonymous_mb(child.pid))
            time.sleep(SAMPLING_SECONDS)
        out, errors = child.communicate()
    if child.returncode:
        raise UsageError(f"The side '{side}' failed on '{folder}': {errors.strip()[-2000:]}")
    summary = json.loads(out.splitlines()[-1])
    return SideRun(summary["seconds"], int(summary["clips"]), summary["peak_mb"], anonymous)


def _anonymous_mb(pid: int) -> float:
    """The anonymous memory of a process and its workers; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon:"))
    return own + sum(_anonymous_mb(int(worker)) for worker in workers)


def _show(name: str, runs: dict[str, list[SideRun]], screen: Screen) -> float:
    seconds = {side: median([each.seconds for each in done]) for side, done in runs.items()}
    ratio = seconds["lists"] / seconds["auricle"]
    rows: list[tuple[str, ...]] = [
        (name, "clips", "median s", "best s", "time / auricle", "peak MB", "of it anonymous")
    ]
    for side, done in runs.items():
        peak, anonymous = max(each.peak_mb for each in done), max(each.anonymous_mb for each in done)
        best = min(each.seconds for each in done)
        rows.append(
            (
                side,
                str(done[0].clips),
                f"{seconds[side]:.2f}",
                f"{best:.2f}",
                f"{seconds[side] / seconds['auricle']:.2f}",
                f"{peak:.0f}",
                f"{anonymous:.0f}",
            )
        )
        screen.record(
            "prepare",
            corpus=name,
            side=side,
            seconds=[each.seconds for each in done],
            peak_mb=peak,
            anonymous_mb=anonymous,
        )
    screen.table(rows)
    screen.result(f"prepare {name}", "ratio", ratio)
    return ratio
