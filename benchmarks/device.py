"""Every family on the GPU: one epoch in float32 and bf16, evaluation, resuming, and the same logits as on the CPU.

In: nothing; the corpus and the random checkpoints are generated. Out: a table, and `device ratio` of the `cnn` family's
training rate on the device to that on the CPU. A family that fails is a row of the table, and exit code 1 at the end.
"""

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file
from tests import checkpoints

import auricle
from auricle import recipes
from auricle.evaluation.report import Cost
from auricle.models import device
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
from auricle.training.progress import Epoch, ProgressReporter
from auricle.training.run import run as train
from benchmarks._environment import Screen

RATE = 16_000
CLASSES = {"low": 300.0, "middle": 900.0, "high": 2500.0}
# Relative to the largest logit. Convolutions in TF32 would be off by more: torch leaves it to matrix products alone.
FLOAT32_LIMIT = 1e-3
GPU_RESUME_LIMIT = 1e-2
CLOSED_FORM = ("baseline", "probe")


@dataclass(frozen=True)
class Row:
    """What one family did: training rates in clips/s, the largest relative difference of logits, peak GPU memory."""

    name: str
    float32: float = 0.0
    bf16: float = 0.0
    difference: float = 0.0
    bf16_difference: float = 0.0
    memory_mb: float = 0.0
    seconds: float = 0.0
    fault: str = ""


class Interrupted(Exception):
    """Raised in the last epoch, as a kill would stop the process, when the first epoch's checkpoint is complete."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--clips", type=int, default=40, help="clips of each of three classes (default: 40)")
    parser.add_argument("--only", help="one family or checkpoint, such as cnn or tiny-hubert")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Run every family on this machine's device, and compare it with the CPU."""
    screen.say(f"device: {_device_name()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        corpus = _corpus(folder / "corpus", options.clips)
        names = ["baseline", "probe", "emotion", "cnn", "conformer", *checkpoints.TINY]
        rows = [_row(name, corpus, folder) for name in names if options.only in (None, name)]
        ratio = _ratio(corpus, folder)
    heading = ["family", "float32 clips/s", "bf16 clips/s", "difference", "in bf16", "GPU MB", "seconds", "fault"]
    screen.table([heading, *(_cells(row) for row in rows)])
    screen.result("device", "ratio", ratio)
    if any(row.fault for row in rows):
        sys.exit(1)


def _cells(row: Row) -> list[str]:
    rates, differences = (row.float32, row.bf16), (row.difference, row.bf16_difference)
    figures = [*(f"{rate:.1f}" for rate in rates), *(f"{difference:.1e}" for difference in differences)]
    return [row.name, *figures, f"{row.memory_mb:.0f}", f"{row.seconds:.1f}", row.fault]


def _row(name: str, corpus: Path, folder: Path) -> Row:
    """Measure one family; a failure is part of the row."""
    start = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        row = _measure(name, corpus, folder / name)
    except Exception as error:  # the other families still run
        traceback.print_exc()
        row = Row(name, fault=f"{type(error).__name__}: {error}"[:200])
    memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
    return replace(row, memory_mb=memory, seconds=time.perf_counter() - start)


def _measure(name: str, corpus: Path, folder: Path) -> Row:
    recipe = _recipe(name, folder)
    rate, difference = _train_and_compare(recipe, corpus, folder / "float32")
    if name in CLOSED_FORM:
        return Row(name, rate, 0.0, difference, 0.0, fault=_exceeds(difference))
    bf16 = recipe.replace("train", precision="bf16")
    bf16_rate, bf16_difference = _train_and_compare(bf16, corpus, folder / "bf16")
    fault = _exceeds(difference) or _resume(recipe, corpus, folder)
    return Row(name, rate, bf16_rate, difference, bf16_difference, fault=fault)


def _exceeds(difference: float) -> str:
    return f"logits differ from the CPU's by {difference:.1e}" if difference > FLOAT32_LIMIT else ""


def _recipe(name: str, folder: Path) -> Recipe:
    if name in ("probe", "emotion"):
        checkpoint = checkpoints.make("tiny-hubert", folder / "checkpoint", labels=len(CLASSES))
        # The probe is right about all of these clips: by log loss training can still gain.
        metric = "train.metric_for_best_model=log_loss"
        return recipes.load(name, [f"model.checkpoint={checkpoint}", metric, *_settings(name)])
    if name in ("baseline", "cnn", "conformer"):
        named = {"baseline": "baseline", "cnn": "sound", "conformer": "speaker"}[name]
        return recipes.load(named, [f"audio.sample_rate={RATE}", *_settings(named)])
    checkpoint = checkpoints.make(name, folder / "checkpoint", labels=len(CLASSES))
    # The longest clip that the smallest of the checkpoints takes is 1.28 s.
    windows = ["train.crop_seconds=1.0", "evaluate.window_seconds=1.0"]
    return recipes.load("emotion-reference", [f"model.checkpoint={checkpoint}", *windows, *_settings("emotion")])


def _settings(named: str) -> list[str]:
    short = [] if named in CLOSED_FORM else ["train.epochs=2", "train.precision=float32"]
    return [*short, "evaluate.bootstrap_resamples=100", "evaluate.embed_audio=false"]


def _train_and_compare(recipe: Recipe, corpus: Path, folder: Path) -> tuple[float, float]:
    """Training and evaluation on the device; the rate, and how far its logits are from the CPU's."""
    train(corpus, recipe, folder, ProgressReporter())
    clips = [soundfile.read(path, dtype="int16")[0][None] for path in sorted(corpus.rglob("*.wav"))[::7]]
    precision = "bf16" if recipe.train.precision == "bf16" else "float32"
    ours = auricle.load(folder, precision).logits(clips)
    with device.use("cpu"):
        reference = auricle.load(folder, "float32").logits(clips)
    return _rate(folder), float(np.abs(ours - reference).max() / max(1.0, float(np.abs(reference).max())))


def _rate(folder: Path) -> float:
    """Clips per second of the last epoch, or of the whole closed-form fit."""
    return Cost.load(RunFolder(folder).cost).clips_per_second


def _resume(recipe: Recipe, corpus: Path, folder: Path) -> str:
    """Interrupt a training in its last epoch and resume it; returns what is wrong with the end."""
    last = recipe.train.epochs

    def interrupt(_: str, epoch: Epoch) -> None:
        if epoch.epoch == last:
            raise Interrupted

    with contextlib.suppress(Interrupted):
        train(corpus, recipe, folder / "resumed", ProgressReporter(epoch=interrupt))
        return "training was not interrupted"
    epochs: list[int] = []
    reporter = ProgressReporter(epoch=lambda _, epoch: epochs.append(epoch.epoch))
    train(corpus, recipe, folder / "resumed", reporter, resume=True)
    if epochs != [last]:
        return f"resuming trained the epochs {epochs}, not {last} alone"
    whole, resumed = (load_file(RunFolder(folder / run).model / "model.safetensors") for run in ("float32", "resumed"))
    scale = max(float(weights.abs().max()) for weights in whole.values())
    difference = max(float((whole[name].double() - resumed[name].double()).abs().max()) for name in whole) / scale
    # A GPU adds in any order; on a CPU the resumed training is exact.
    limit = GPU_RESUME_LIMIT if torch.cuda.is_available() else 0.0
    return f"weights after resuming differ by {difference:.1e}" if difference > limit else ""


def _ratio(corpus: Path, folder: Path) -> float:
    """The `cnn` family's training rate on the device against the CPU's; 1 where there is no other device."""
    if not torch.cuda.is_available():
        return 1.0
    recipe = recipes.load("sound", [f"audio.sample_rate={RATE}", *_settings("sound")])
    train(corpus, recipe, folder / "ratio-device", ProgressReporter())
    with device.use("cpu"):
        train(corpus, recipe, folder / "ratio-cpu", ProgressReporter())
    return _rate(folder / "ratio-device") / _rate(folder / "ratio-cpu")


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _corpus(folder: Path, clips: int) -> Path:
    """Tones of three pitches in noise, 1 to 2 seconds: class folders of wav files."""
    random = np.random.default_rng(0)
    for label, pitch in CLASSES.items():
        (folder / label).mkdir(parents=True)
        for number in range(clips):
            moments = np.arange(int(RATE * random.uniform(1.0, 2.0))) / RATE
            tone = 0.3 * np.sin(2 * np.pi * pitch * random.uniform(0.9, 1.1) * moments)
            path = folder / label / f"clip{number:03d}.wav"
            soundfile.write(path, tone + 0.05 * random.normal(size=len(moments)), RATE, subtype="PCM_16")
    return folder
