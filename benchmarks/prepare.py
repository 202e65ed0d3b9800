"""Preparing a corpus: auricle's store beside `datasets.map` with librosa, at 16 kHz mono.

Each measurement is a process of its own, the sides in turn, with the files in the system's cache and imports off the
clock. The ratio is to the reference's way, Python lists; numpy arrays, the best that `datasets` can do, stand beside
it. Ours also looks for faults and takes the fingerprints of the audit in that time.
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
from benchmarks._figures import Screen, corpus, median

# How much faster ours is to be: ogg spends most of its time in the decoder that both sides share.
AIMS = {"emodb": 10.0, "esc10": 4.0}
SIDES = ("lists", "arrays", "auricle")
SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    """One run of one side. Memory in megabytes: all of it at its peak, and the part that is no file's."""

    seconds: float
    clips: int
    peak_mb: float
    anonymous_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", choices=[*AIMS, "all"], default="all", help="which corpus (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: 3)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure each corpus, print its ratio, and end with the ratio that is nearest to its aim."""
    names = list(AIMS) if options.corpus == "all" else [options.corpus]
    folders = {name: corpus(name) for name in names}
    screen.machine()
    ratios = {}
    for name, folder in folders.items():
        runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side, done in runs.items():
                done.append(measured(side, folder))
        ratios[name] = _show(name, runs, screen)
    tightest = min(names, key=lambda name: ratios[name] / AIMS[name])
    if len(names) > 1:
        screen.say(f"Nearest to its aim: {tightest}, where {AIMS[tightest]:g} is aimed at.")
    screen.verdict("prepare", "ratio", ratios[tightest])


def measured(side: str, folder: Path) -> Measured:
    """Run one side in a fresh process and watch its memory. Raises UsageError with its last words if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks._preparation", side, str(folder), scratch]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        anonymous = 0.0
        while child.poll() is None:
            anonymous = max(anonymous, _anonymous_mb(child.pid))
            time.sleep(SAMPLING_SECONDS)
        out, errors = child.communicate()
    if child.returncode:
        raise UsageError(f"The side '{side}' failed on '{folder}': {errors.strip()[-2000:]}")
    told = json.loads(out.splitlines()[-1])
    return Measured(told["seconds"], int(told["clips"]), told["peak_mb"], anonymous)


def _anonymous_mb(pid: int) -> float:
    """The memory that backs no file, of a process and its workers; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon:"))
    return own + sum(_anonymous_mb(int(worker)) for worker in workers)


def _show(name: str, runs: dict[str, list[Measured]], screen: Screen) -> float:
    seconds = {side: median([one.seconds for one in done]) for side, done in runs.items()}
    ratio = seconds["lists"] / seconds["auricle"]
    rows: list[tuple[str, ...]] = [(name, "clips", "median s", "best s", "times ours", "peak MB", "of it no file's")]
    for side, done in runs.items():
        peak, anonymous = max(one.peak_mb for one in done), max(one.anonymous_mb for one in done)
        best = min(one.seconds for one in done)
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
            seconds=[one.seconds for one in done],
            peak_mb=peak,
            anonymous_mb=anonymous,
        )
    screen.table(rows)
    screen.verdict(f"prepare {name}", "ratio", ratio)
    return ratio
