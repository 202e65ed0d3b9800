"""Training the everyday-sounds network: auricle compared with the tutorial, in alternating epochs.

Both train the same network on the same clips with the same batch, augmentation, optimiser and schedule. The tutorial
reads files at every access; ours reads the log-mel that `auricle train` computes once, and that is timed separately.
Measured twice: on 44.1 kHz wav copies, which decode almost for free, and on the files as published; the last line is
the ratio on the latter. The limit is the ratio that the network alone allows, on one batch that is ready.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from auricle import recipes
from auricle.corpus.read import read_index
from auricle.models.load import build_model
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.run_folder import RunFolder
from auricle.training import train as training
from auricle.training.frozen_features import FrozenFeatures
from auricle.training.progress import Epoch, ProgressReporter
from auricle.training.task import frozen_feature_task
from benchmarks import _reference_sound as reference
from benchmarks._environment import Screen, corpus, median

# The tutorial's settings, on top of the recipe.
SETTINGS = (
    "model.size=tutorial",
    f"audio.sample_rate={reference.SAMPLE_RATE}",
    f"audio.channels={reference.CHANNELS}",
    f"augment.shift_fraction={reference.SHIFT}",
    f"augment.frequency_masks={reference.MASKS}",
    f"augment.time_masks={reference.MASKS}",
    "augment.gain_db=0",
    "augment.noise_fraction=0",
    "augment.mixup_alpha=0",
    "train.optimizer=adam",
    f"train.learning_rate={reference.LEARNING_RATE}",
    f"train.batch_size={reference.BATCH}",
    "train.weight_decay=0",
    "train.max_grad_norm=0",
    "train.lr_scheduler_type=one-cycle",
    "train.label_smoothing_factor=0",
    "train.class_balance=none",
    "train.ema_decay=0",
    "train.crop_seconds=4",
    "train.load_best_model_at_end=false",
)


@dataclass(frozen=True)
class Rates:
    """Clips per second of each epoch and of the network alone, and the seconds that our preparation took."""

    clips: int
    prepare_seconds: float
    reference: tuple[float, ...]
    ours: tuple[float, ...]
    network: float

    @property
    def ratio(self) -> float:
        return median(self.ours) / median(self.reference)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="a corpus (default: $AURICLE_DATA/esc10)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each side (default: 6)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure on wav copies and on the published files, print both, and end with the ratio on the published files."""
    data = options.data or corpus("esc10")
    screen.machine()
    rows: list[tuple[str, ...]] = [
        ("files", "clips", "tutorial, clips/s", "auricle, clips/s", "ratio", "limit", "auricle's preparation, s")
    ]
    ratio = float("nan")
    with tempfile.TemporaryDirectory() as scratch:
        copies = Path(scratch) / "wav" / data.name
        for files, folder in (("decoded wav", copies), ("as published", data)):
            if folder == copies:
                write_copies(data, copies)
            rates = compare(folder, options.epochs, Path(scratch) / files)
            ratio = rates.ratio
            rows.append(_row(files, rates))
            screen.record(
                "sound",
                files=files,
                clips=rates.clips,
                reference=rates.reference,
                ours=rates.ours,
                network=rates.network,
                ratio=ratio,
                prepare_seconds=rates.prepare_seconds,
            )
            if folder == copies:
                screen.result("sound, decoded wav", "ratio", ratio)
    screen.say(f"Medians of {options.epochs} epochs, sides alternating, {torch.get_num_threads()} threads each:")
    screen.table(rows)
    screen.result("sound", "ratio", ratio)


def compare(data: Path, epochs: int, scratch: Path) -> Rates:
    """Train both sides on all usable clips, in alternating epochs."""
    recipe = recipes.load("sound", [*SETTINGS, f"train.epochs={epochs}"])
    with fresh_cache(scratch / "cache"):
        start = time.perf_counter()
        prepared = prepare(read(data, recipe), recipe, lambda *_: None)
        ids = [clip.id for clip in prepared.usable]
        features = training.log_mel_features(prepared, ids, ProgressReporter())
        assert features is not None, "the tutorial's augmentation acts on frames"
        prepare_seconds = time.perf_counter() - start
    number = {label: index for index, label in enumerate(prepared.labels)}
    labels = np.array([number[clip.label] for clip in prepared.usable], dtype=np.int64)
    tutorial = reference.Training(
        [clip.source for clip in prepared.usable], labels.tolist(), len(prepared.labels), epochs
    )
    tutorial_rates: list[float] = []
    our_rates: list[float] = []

    def after_epoch(epoch: Epoch) -> None:
        our_rates.append(epoch.clips_per_second)
        tutorial_rates.append(tutorial.epoch())

    train(prepared, features, labels, scratch / "fold", after_epoch)
    return Rates(len(labels), prepare_seconds, tuple(tutorial_rates), tuple(our_rates), tutorial.network_rate())


def train(
    prepared: PreparedCorpus,
    features: FrozenFeatures,
    labels: np.ndarray,
    folder: Path,
    after_epoch: Callable[[Epoch], None],
) -> None:
    """Train as `auricle train` trains one fold, without validation."""
    folder.mkdir(parents=True)
    model, every = build_model(prepared.recipe, prepared.labels), range(len(labels))
    training.fit_normalization_to_rows(model, features, every)
    task = frozen_feature_task(model, prepared.recipe, None, features, (every, labels), ([], labels[:0]))
    training.train(model, prepared.recipe, task, RunFolder(folder), after_epoch)


def write_copies(data: Path, folder: Path) -> None:
    """Decode a corpus to 16-bit wav under the same names and at the same rates."""
    for clip in read_index(data).clips:
        path = folder / Path(clip.source).relative_to(data).with_suffix(".wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, sample_rate = soundfile.read(clip.source, dtype="int16")
        soundfile.write(path, samples, sample_rate, subtype="PCM_16")


@contextmanager
def fresh_cache(folder: Path) -> Iterator[None]:
    """Set auricle's cache to an empty folder."""
    before = os.environ.get("AURICLE_CACHE")
    os.environ["AURICLE_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["AURICLE_CACHE"]
        else:
            os.environ["AURICLE_CACHE"] = before


def _row(files: str, rates: Rates) -> tuple[str, ...]:
    theirs, ours = median(rates.reference), median(rates.ours)
    return (
        files,
        str(rates.clips),
        f"{theirs:.0f}",
        f"{ours:.0f}",
        f"{rates.ratio:.2f}",
        f"{rates.network / theirs:.2f}",
        f"{rates.prepare_seconds:.2f}",
    )
