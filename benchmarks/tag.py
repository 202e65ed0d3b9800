"""Tagging on one core: how many seconds of audio EfficientAT's small network takes a second.

Random weights of width 0.4, or a published file. Measured are the network with its front end on a window of ten
seconds, the statistics of all its layers, and the whole way from a file as published to tags. The last line is the
slowest of the three.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from auricle.audio.recordings import recordings
from auricle.inference.classifier import Classifier
from auricle.inference.tagging import WINDOW_SECONDS, open_tagger, tag
from auricle.models.encoders import efficientat
from benchmarks._environment import Screen, median

FILE_SECONDS, FILE_RATE = 60, 44_100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="a published file (default: random weights)")
    parser.add_argument("--repeats", type=int, default=7, help="the median of so many (default: 7)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure all three, and print seconds of audio per second."""
    torch.set_num_threads(1)
    screen.machine()
    if options.checkpoint is None:
        tagger = Classifier(efficientat.Model(efficientat.Config(width=0.4, num_labels=527)))
    else:
        tagger = open_tagger(options.checkpoint)
    network = tagger.model
    samples = np.random.default_rng(0).normal(0.0, 0.1, FILE_SECONDS * FILE_RATE)
    window = torch.from_numpy(samples[: round(WINDOW_SECONDS * tagger.settings.sample_rate)]).float()[None]
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        path = Path(scratch) / "minute.wav"
        soundfile.write(path, samples, FILE_RATE, subtype="PCM_16")
        rates = {
            "scores": WINDOW_SECONDS / seconds(lambda: network(window), options.repeats),
            "layer statistics": WINDOW_SECONDS / seconds(lambda: network.layer_statistics(window), options.repeats),
            "a file to tags": FILE_SECONDS
            / seconds(lambda: list(tag(tagger, recordings([str(path)]), 5)), options.repeats),
        }
    screen.table([("one core", "times real time"), *((name, f"{rate:.0f}") for name, rate in rates.items())])
    screen.record("tag", **rates)
    screen.result("tag", "ratio", min(rates.values()))


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call, in seconds, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)
