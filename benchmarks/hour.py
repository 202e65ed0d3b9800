"""Peak memory of identifying the speaker of an hour-long recording and of a 40-second utterance.

A conformer with random weights runs through `auricle predict` in a new process, whose memory is sampled, mapped files
included. The last line is the greatest peak in gigabytes (10⁹ bytes).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from auricle import recipes
from auricle.errors import AuricleError
from auricle.models.load import build_model, save_model
from benchmarks._environment import Screen
from benchmarks._memory_monitor import run_monitored

SAMPLE_RATE = 16_000
SECONDS = {"utterance": 40, "recording": 3600}
SPEAKERS = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", action="append", help="default, tutorial or reference (default: all three)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Write the models and the recordings, and monitor `auricle predict`."""
    screen.machine()
    rows: list[tuple[str, ...]] = [("size", "recording", "duration, s", "took", "peak GB")]
    greatest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        random = np.random.default_rng(0)
        for name, seconds in SECONDS.items():
            samples = (random.normal(0.0, 0.1, seconds * SAMPLE_RATE) * 32767).clip(-32768, 32767).astype(np.int16)
            soundfile.write(Path(scratch) / f"{name}.wav", samples, SAMPLE_RATE)
        for size in options.size or ("tutorial", "default", "reference"):
            settings = [f"audio.sample_rate={SAMPLE_RATE}", f"model.size={size}", "model.ensemble_baseline=false"]
            model = build_model(recipes.load("speaker", settings), [f"speaker {n}" for n in range(SPEAKERS)])
            folder = Path(scratch) / size / "model"
            folder.parent.mkdir()
            save_model(model, folder)
            for name, seconds in SECONDS.items():
                command = [sys.executable, "-m", "auricle", "predict", str(folder), f"{scratch}/{name}.wav"]
                monitored = run_monitored(command, every=0.1)
                if monitored.code:
                    raise AuricleError(f"auricle predict failed: {(monitored.errors or monitored.out).strip()[-2000:]}")
                peak = monitored.peak.total
                greatest = max(greatest, peak)
                rows.append((size, name, str(seconds), f"{monitored.seconds:.0f} s", f"{peak:.2f}"))
                screen.record("hour", size=size, recording=name, seconds=monitored.seconds, peak_gb=peak)
    screen.table(rows)
    screen.result("hour", "peak_gb", greatest)
