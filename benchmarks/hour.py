"""The memory of naming the speaker of an hour-long recording and of a 40-second utterance, at its peak.

A conformer of random weights answers through `auricle predict` in a fresh process; sampled is what the process holds,
mapped files included. The last line is the greatest peak in gigabytes (10⁹ bytes).
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
from benchmarks._figures import Screen
from benchmarks._watching import watch

SAMPLE_RATE = 16_000
SECONDS = {"utterance": 40, "recording": 3600}
SPEAKERS = 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", action="append", help="default, tutorial or reference (default: all three)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Make the models and the sound, and watch `auricle predict`."""
    screen.machine()
    rows: list[tuple[str, ...]] = [("size", "sound", "seconds", "took", "peak GB")]
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
                command = [sys.executable, "-m", "auricle.cli", "predict", str(folder), f"{scratch}/{name}.wav"]
                watched = watch(command, every=0.1)
                if watched.code:
                    raise AuricleError(f"The prediction failed: {(watched.errors or watched.out).strip()[-2000:]}")
                peak = watched.peak.total
                greatest = max(greatest, peak)
                rows.append((size, name, str(seconds), f"{watched.seconds:.0f} s", f"{peak:.2f}"))
                screen.record("hour", size=size, sound=name, seconds=watched.seconds, peak_gb=peak)
    screen.table(rows)
    screen.verdict("hour", "peak_gb", greatest)
