"""Peak memory of preparing CREMA-D from its archive and fine-tuning a HuBERT-base on it.

The corpus has the real one's 7,442 names and table of actors, and generated audio of 1.3 to 5 s, in an archive.zip as
its users have it. `auricle train` runs on it in a new process; the memory of this process and its workers is sampled,
each shared page counted once. The last line is the peak in gigabytes (10⁹ bytes), mapped files included.
"""

import argparse
import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
from tests import checkpoints
from transformers.utils import logging as transformers_logging

from auricle.errors import AuricleError
from benchmarks._environment import Screen, corpus
from benchmarks._memory_monitor import Memory, run_monitored

CHECKPOINT = "hubert-base"
SETTINGS = ("model.stages=[]", "model.freeze={top: 2}")  # the recipe's last stage, from the first epoch on
SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 1.3, 5.0
SYLLABLE_RATE = 4.0
SAMPLING_SECONDS = 0.2
PREPARING, TRAINING = "preparing", "fine-tuning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, help="number of clips, evenly spaced over the actors (default: all 7,442)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of fine-tuning (default: 1)")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder (default: random weights, generated)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Write the archive, train from it, and print the peak of each phase."""
    tables = corpus("crema-d")
    names = (tables / "filenames.txt").read_text(encoding="utf-8").split()
    count = min(options.clips or len(names), len(names))
    names = [names[number * len(names) // count] for number in range(count)]
    transformers_logging.disable_progress_bar()
    screen.machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        start = time.perf_counter()
        archive = scratch / "archive.zip"
        seconds = write_archive(archive, names, (tables / "VideoDemographics.csv").read_bytes())
        screen.say(
            f"{len(names)} clips, {seconds / 3600:.1f} hours, in an archive of {archive.stat().st_size / 1e6:.0f} MB: "
            f"written in {time.perf_counter() - start:.0f} s."
        )
        checkpoint = options.checkpoint or checkpoints.make(CHECKPOINT, scratch / CHECKPOINT, head=False)
        command = [sys.executable, "-m", "auricle", "train", str(archive), "--recipe", "emotion-reference"]
        for setting in (f"model.checkpoint={checkpoint}", *SETTINGS, f"train.epochs={options.epochs}", *options.set):
            command += ["--set", setting]
        out = scratch / "run"
        # split.json is written when the corpus is prepared.
        monitored = run_monitored(
            [*command, "--out", str(out)],
            SAMPLING_SECONDS,
            lambda: TRAINING if (out / "split.json").is_file() else PREPARING,
            AURICLE_CACHE=str(scratch / "cache"),
        )
        if monitored.code:
            raise AuricleError(f"auricle train failed: {(monitored.errors or monitored.out).strip()[-2000:]}")
    rows: list[tuple[str, ...]] = [("phase", "peak GB", "of it anonymous")]
    for phase in (PREPARING, TRAINING):
        peak = monitored.peaks.get(phase, Memory())
        rows.append((phase, f"{peak.total:.2f}", f"{peak.anonymous:.2f}"))
        screen.record("memory", phase=phase, clips=len(names), **asdict(peak))
    screen.table(rows)
    screen.say(f"`auricle train` took {monitored.seconds:.0f} s.")
    screen.result("memory", "peak_gb", monitored.peak.total)


def write_archive(path: Path, names: Sequence[str], actors: bytes) -> float:
    """Write the named clips and the table of actors as CREMA-D's users have them; returns the seconds of audio."""
    random = np.random.default_rng(0)
    total = 0.0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("VideoDemographics.csv", actors)
        for name in names:
            samples = babble(MIN_SECONDS + (MAX_SECONDS - MIN_SECONDS) * random.beta(2, 4), random)
            wav = io.BytesIO()
            soundfile.write(wav, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
            archive.writestr(f"AudioWAV/{name}", wav.getvalue())
            total += len(samples) / SAMPLE_RATE
    return total


def babble(seconds: float, random: np.random.Generator) -> np.ndarray:
    """Audio as loud, tonal and uneven as speech, different for each clip: float32 (samples,).

    A pulse train and noise pass three resonances and an envelope of syllables.
    """
    count = round(seconds * SAMPLE_RATE)
    source = random.normal(0.0, 0.05, count)
    source[:: round(SAMPLE_RATE / random.uniform(90, 280))] += 1.0
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    response = sum(
        1.0 / (1.0 + ((frequency - random.uniform(low, high)) / 120.0) ** 2)
        for low, high in ((300, 900), (900, 2400), (2200, 3400))
    )
    samples = np.fft.irfft(np.fft.rfft(source) * response, count)
    knots = random.uniform(0.05, 1.0, int(seconds * SYLLABLE_RATE) + 2)
    samples *= np.interp(np.arange(count), np.linspace(0, count, len(knots)), knots)
    return (0.3 * samples / np.abs(samples).max()).astype(np.float32)
