"""How time and memory grow with the corpus: each command on more and more clips.

Generated clips of half a second at 8 kHz in class folders, named by their speakers. Each size has a fresh cache:
`auricle inspect`, `auricle train` with the recipe `sound` for one epoch (its preparation and its epoch are measured
apart), `auricle predict` on all clips, and `auricle train` with the recipe `baseline`. Time is start-up and a power of
the number of clips, fitted together. The last line is the greatest of these exponents.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.optimize import least_squares

from auricle.errors import AuricleError
from benchmarks._environment import Screen
from benchmarks._memory_monitor import Memory, run_monitored

SAMPLE_RATE, SECONDS = 8_000, 0.5
CLASSES, SPEAKERS = 10, 50
SAMPLING_SECONDS = 0.2
# A corpus whose time is mostly start-up.
START_CLIPS = 100
PREPARE, EPOCH = "prepare", "sound, one epoch"


@dataclass(frozen=True)
class Cost:
    """What one command took on so many clips: seconds, and the peak memory of all its processes."""

    seconds: float
    memory: Memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000], metavar="N")
    parser.add_argument("--baseline-clips", type=int, nargs="+", default=[100_000], metavar="N", help="without `sound`")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure every size; print seconds, gigabytes and the fitted exponents."""
    screen.machine()
    costs: dict[str, dict[int, Cost]] = {}
    for clips in sorted({START_CLIPS, *options.clips, *options.baseline_clips}):
        with tempfile.TemporaryDirectory() as scratch:
            for name, cost in measure(Path(scratch), clips, has_network=clips not in options.baseline_clips):
                costs.setdefault(name, {})[clips] = cost
                screen.record("growth", command=name, clips=clips, seconds=cost.seconds, peak_gb=cost.memory.total)
    greatest = 0.0
    for title, value in (("seconds", lambda cost: cost.seconds), ("peak GB", lambda cost: cost.memory.total)):
        sizes = sorted({size for found in costs.values() for size in found})
        rows = [(title, *(f"{size:,}" for size in sizes), "exponent")]
        for name, found in costs.items():
            values = {size: value(cost) for size, cost in found.items()}
            power = exponent(values)
            if title == "seconds":
                greatest = max(greatest, power)
            shown = (f"{values[size]:.3g}" if size in values else "" for size in sizes)
            rows.append((name, *shown, f"{power:.2f}"))
            screen.record("exponent", command=name, of=title, value=power)
        screen.table(rows)
    screen.result("growth", "exponent", greatest)


def measure(scratch: Path, clips: int, *, has_network: bool) -> Iterator[tuple[str, Cost]]:
    """The cost of each command, by name, on a corpus of so many clips."""
    data, cache = scratch / "data", str(scratch / "cache")
    write_corpus(data, clips)

    def auricle(*arguments: str, phase_file: Path | None = None) -> dict[str, Cost]:
        """The cost before and after a file is written, under PREPARE and the command's name."""
        began, written = time.perf_counter(), 0.0

        def phase() -> str:
            nonlocal written
            if phase_file is not None and not phase_file.is_file():
                return PREPARE
            written = written or time.perf_counter()
            return arguments[0]

        command = [sys.executable, "-m", "auricle", *arguments]
        done = run_monitored(command, SAMPLING_SECONDS, phase, AURICLE_CACHE=cache)
        if done.code:
            raise AuricleError(f"auricle {arguments[0]} failed: {(done.errors or done.out).strip()[-2000:]}")
        first = written - began if phase_file is not None else 0.0
        seconds = {PREPARE: first, arguments[0]: done.seconds - first}
        return {name: Cost(seconds[name], peak) for name, peak in done.peaks.items()}

    def train(recipe: str, *more: str) -> dict[str, Cost]:
        out = scratch / recipe
        split = out / "split.json"
        return auricle("train", str(data), "--no-audio", "--recipe", recipe, *more, "--out", str(out), phase_file=split)

    yield "inspect", auricle("inspect", str(data))["inspect"]
    if has_network:
        costs = train("sound", "--set", "train.epochs=1")
        yield PREPARE, costs[PREPARE]
        history = next((scratch / "sound").rglob("history.jsonl")).read_text(encoding="utf-8").splitlines()
        yield EPOCH, Cost(json.loads(history[0])["seconds"], costs["train"].memory)
        answers = str(scratch / "answers.csv")
        yield "predict", auricle("predict", str(scratch / "sound"), str(data), "--out", answers)["predict"]
    yield "baseline", train("baseline")["train"]


def write_corpus(folder: Path, clips: int) -> None:
    """Tones in noise in class folders: the frequency is the class's, the timbre the speaker's."""
    random = np.random.default_rng(0)
    times = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    overtones = random.uniform(0.0, 1.0, (SPEAKERS, 4))
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    for number in range(clips):
        label, speaker = number % CLASSES, number // CLASSES % SPEAKERS
        pitch = (200.0 + 60.0 * label) * random.uniform(0.9, 1.1)
        waves = np.sin(2 * np.pi * pitch * np.arange(1, 5)[:, None] * times + random.uniform(0, 6, (4, 1)))
        samples = 0.1 * overtones[speaker] @ waves + random.normal(0.0, 0.05, len(times))
        path = folder / f"class{label}" / f"speaker{speaker:02}_{number:06}.wav"
        soundfile.write(path, samples.astype(np.float32), SAMPLE_RATE, subtype="PCM_16")


def exponent(values: dict[int, float]) -> float:
    """The power p in start-up + c * size ** p, fitted to the logarithms of the values; 0 where nothing grows.

    Start-up is fitted too: a single measurement of it would decide the power of all small sizes.
    """
    sizes = np.array(sorted(values), float)
    measured = np.array([values[int(size)] for size in sizes])
    if measured.max() < 1.1 * measured.min():
        return 0.0

    def misfit(parameters: np.ndarray) -> np.ndarray:
        start, grown, power = parameters
        return np.asarray(np.log(np.exp(start) + np.exp(grown) * (sizes / sizes[-1]) ** power) - np.log(measured))

    begin = np.log([measured.min(), measured.max() - measured.min()])
    fits = (least_squares(misfit, [*begin, power]) for power in (0.5, 1.0, 1.5, 2.0))
    return float(min(fits, key=lambda fit: fit.cost).x[2])
