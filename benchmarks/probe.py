"""Classifying short clips with Whisper tiny: a probe, which runs over the clip alone, and `transformers.pipeline`.

Both have Whisper tiny's size and random weights, and classify the same clips of three seconds. The stock model fills
every clip to 30 seconds. The pipeline runs one file at a time and in batches of eight; the sides alternate.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification, pipeline
from transformers.utils import logging as transformers_logging

from auricle import recipes
from auricle.audio.recordings import recordings
from auricle.inference.classifier import Classifier
from auricle.models.load import build_model
from benchmarks._environment import Screen

RATE, SECONDS, CLASSES, BATCH, TURNS = 16_000, 3.0, 7, 8, 3
TINY = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=20, help="number of clips (default: 20)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Classify on all sides in turns; print clips per second and the ratio to the faster pipeline."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    screen.machine()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder, files = Path(scratch), []
        for number in range(options.clips):
            files.append(str(folder / f"{number:03d}.wav"))
            soundfile.write(files[-1], random.normal(0, 0.1, round(RATE * SECONDS)), RATE, subtype="PCM_16")
        torch.manual_seed(0)
        stock = WhisperForAudioClassification(WhisperConfig(**TINY, num_labels=CLASSES)).eval()
        stock.save_pretrained(folder / "stock")
        WhisperFeatureExtractor().save_pretrained(folder / "stock")
        pipe = pipeline("audio-classification", model=str(folder / "stock"), device="cpu")
        ours = probe(folder / "stock")
        sides: dict[str, Callable[[], object]] = {
            "pipeline, one at a time": lambda: [pipe(samples(file)) for file in files],
            f"pipeline, batches of {BATCH}": lambda: pipe([samples(file) for file in files], batch_size=BATCH),
            "auricle": lambda: list(ours.predict(recordings(files))),
        }
        spent = {name: 0.0 for name in sides}
        for turn in range(TURNS + 1):
            for name, side in sides.items():
                start = time.perf_counter()
                side()
                spent[name] += time.perf_counter() - start if turn else 0.0
    rates = {name: TURNS * len(files) / seconds for name, seconds in spent.items()}
    screen.table([("side", "clips/s"), *((name, f"{rate:.1f}") for name, rate in rates.items())])
    screen.record("probe", **rates)
    screen.result("probe", "ratio", rates["auricle"] / max(rate for name, rate in rates.items() if name != "auricle"))


def probe(checkpoint: Path) -> Classifier:
    """A probe of all layers, fitted to random embeddings: its answers mean nothing, its work is that of any other."""
    recipe = recipes.load("probe", [f"model.checkpoint={checkpoint}", "model.descriptors=false"])
    labels = [f"class {number}" for number in range(CLASSES)]
    model = build_model(recipe.replace("audio", sample_rate=RATE), labels)
    size = sum((*model.config.layer_sizes, *model.config.descriptor_sizes))
    values = np.random.default_rng(0).normal(0, 1, (500, size)).astype(np.float32)
    model.fit(values, np.arange(500) % CLASSES, groups=None, class_weighted=True, seed=0)
    return Classifier(model.eval())


def samples(file: str) -> np.ndarray:
    """What a pipeline takes: samples at the model's rate."""
    values: np.ndarray = soundfile.read(file, dtype="float32")[0]
    return values
