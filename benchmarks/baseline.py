"""The instant baseline: milliseconds of one core for a clip, beside librosa; whole commands; and how its fit grows.

Clips of a corpus are described by auricle (vectors of whole clips, and those of their centers for the accuracy by
duration) and by librosa (MFCC with deltas, spectral contrast, centroid, bandwidth, roll-off, zero crossings, and pitch
by YIN, at the same hop and window; mean and deviation of each), in turn, on one core, in processor time. Then the
command `train --recipe baseline` runs on each corpus, and the ridge classifiers are fitted to synthetic vectors. The
last line is how many times as long librosa takes.
"""

import argparse
import itertools
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable

import numpy as np

from auricle.preparation.prepare import prepare, read
from auricle.recipe import Recipe
from benchmarks._environment import CORPORA, Screen, command, corpus, median

CLIP_SECONDS = 5.0
FEATURES, CLASSES, SPEAKERS = 1872, 8, 24
SHARED_CLIPS = 4481


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=48, help="clips that are described (default 48)")
    parser.add_argument("--corpora", nargs="*", default=["esc10"], choices=CORPORA, help="where the command runs")
    parser.add_argument(
        "--fits", nargs="*", type=int, default=[3000, 10_000, 30_000], help="numbers of synthetic vectors to fit"
    )
    parser.add_argument("--folds", action="store_true", help=f"fit {SHARED_CLIPS} vectors, one speaker left out")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure and compare."""
    import torch

    torch.set_num_threads(1)
    screen.machine()
    ratio = _describe(options.clips, screen)
    for name in options.corpora:
        _command(name, screen)
    _fits(options.fits, screen)
    if options.folds:
        _folds(screen)
    screen.result("baseline", "ratio", ratio)


def _describe(count: int, screen: Screen) -> float:
    from auricle import recipes
    from auricle.evaluation import scoring
    from auricle.models.load import build_model

    recipe: Recipe = recipes.load("baseline")
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time() + _children()
        os.environ["AURICLE_CACHE"] = scratch
        prepared = prepare(read(corpus("esc10"), recipe), recipe, lambda done, total: None)
        decoding = (time.process_time() + _children() - start) / len(prepared.usable)
        ids = [clip.id for clip in prepared.usable][:: max(1, len(prepared.usable) // count)][:count]
        audio, rate = prepared.audio(ids), prepared.store.settings.sample_rate
        model = build_model(prepared.recipe, prepared.labels)
        longer = {seconds * rate: np.flatnonzero(audio.lengths > seconds * rate).tolist() for seconds in (1, 2, 4)}
        waves = [audio.get(number)[0] / np.float32(32_768) for number in range(len(ids))]
        works: dict[str, Callable[[], object]] = {
            "whole clips": lambda: list(scoring.embed_windows(model, audio, batch_seconds=60.0)),
            "with centers": lambda: list(scoring.embed_with_centers(model, audio, longer, batch_seconds=60.0)),
            "librosa": lambda: [_librosa(wave, rate) for wave in waves],
        }
        seconds = {name: median(times) for name, times in _alternating(works).items()}
    total = float(audio.lengths.sum()) / rate
    costs = {name: 1000 * CLIP_SECONDS * value / total for name, value in seconds.items()}
    costs["decoding and inspection"] = 1000 * decoding
    costs["all in"] = costs["with centers"] + costs["decoding and inspection"]
    screen.say(f"Of one core, for a clip of {CLIP_SECONDS:g} s at {rate / 1000:g} kHz ({len(ids)} clips of ESC-10):")
    screen.table([["", "ms"], *([name, f"{value:.1f}"] for name, value in costs.items())])
    screen.record("clip", **{name.replace(" ", "_"): value for name, value in costs.items()})
    return costs["librosa"] / costs["whole clips"]


def _alternating(works: dict[str, Callable[[], object]], rounds: int = 3) -> dict[str, list[float]]:
    """Processor seconds of each work, in turn; the first round, in which everything is loaded, does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number, (name, work) in itertools.product(range(rounds + 1), works.items()):
        start = time.process_time()
        work()
        if number:
            times[name].append(time.process_time() - start)
    return times


def _librosa(wave: np.ndarray, rate: int) -> np.ndarray:
    import librosa

    hop, size = round(0.010 * rate), 2 ** math.ceil(math.log2(0.025 * rate))
    spectrum = np.abs(librosa.stft(wave, n_fft=size, hop_length=hop))
    mfcc = librosa.feature.mfcc(
        S=librosa.power_to_db(librosa.feature.melspectrogram(S=spectrum**2, sr=rate)), n_mfcc=20
    )
    rows = [
        mfcc,
        librosa.feature.delta(mfcc, mode="nearest"),
        librosa.feature.spectral_contrast(S=spectrum, sr=rate),
        librosa.feature.spectral_centroid(S=spectrum, sr=rate),
        librosa.feature.spectral_bandwidth(S=spectrum, sr=rate),
        librosa.feature.spectral_rolloff(S=spectrum, sr=rate),
        librosa.feature.zero_crossing_rate(wave, frame_length=size, hop_length=hop),
        librosa.yin(wave, fmin=60.0, fmax=500.0, sr=rate, frame_length=round(0.06 * rate), hop_length=hop)[None],
    ]
    return np.concatenate([statistic for row in rows for statistic in (row.mean(1), row.std(1))])


def _command(name: str, screen: Screen) -> None:
    with tempfile.TemporaryDirectory() as out:
        start, processor = time.perf_counter(), _children()
        os.environ["AURICLE_CACHE"] = f"{out}/cache"
        command("train", str(corpus(name)), "--recipe", "baseline", "--out", f"{out}/run")
        wall, processor = time.perf_counter() - start, _children() - processor
    screen.say(f"{name}: `train --recipe baseline` takes {wall:.1f} s, {processor:.1f} s of one core.")
    screen.record("command", corpus=name, seconds=wall, processor_seconds=processor)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _synthetic(clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of classes that overlap, each of four clouds in forty dimensions of all."""
    random = np.random.default_rng(0)
    cloud = random.integers(0, 4 * CLASSES, clips)
    centers, mixing = random.normal(size=(4 * CLASSES, 40)), random.normal(size=(40, FEATURES)).astype(np.float32)
    hidden = (centers[cloud] + 1.2 * random.normal(size=(clips, 40))).astype(np.float32)
    vectors = hidden @ mixing
    for row in vectors:
        row += random.standard_normal(FEATURES, np.float32)
    return vectors, cloud % CLASSES


def _fits(sizes: list[int], screen: Screen) -> None:
    from auricle.models.features.ridge_layer import RidgeLayer

    seconds = {}
    for clips in sizes:
        vectors, labels = _synthetic(clips)
        layer, start = RidgeLayer([FEATURES // 9] * 9, CLASSES, 0), time.process_time()
        layer.take(layer.fitted(vectors, labels, None, class_weighted=True, max_support=6000, seed=0))
        seconds[clips] = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        screen.say(f"Fitting {clips:,} vectors: {seconds[clips]:.1f} s of one core; peak so far {peak:.2f} GB.")
        screen.record("fit", clips=clips, seconds=seconds[clips], peak_gb=peak)
    large = [clips for clips in sizes if clips > 6000]
    if len(large) > 1:
        slope = np.polyfit(np.log(large), np.log([seconds[clips] for clips in large]), 1)[0]
        screen.say(f"Above 6,000 the time grows with the number of vectors to the power of {slope:.2f}.")


def _folds(screen: Screen) -> None:
    from auricle.models.features.ridge import FactoredRidge, fit_ridge

    vectors, labels = _synthetic(SHARED_CLIPS)
    speakers = np.random.default_rng(1).integers(0, SPEAKERS, SHARED_CLIPS)
    start = time.process_time()
    sizes = [FEATURES // 9] * 9
    shared = FactoredRidge.of(vectors, labels, sizes=sizes, classes=CLASSES, class_weighted=True)
    for speaker in range(SPEAKERS):
        rows = np.flatnonzero(speakers != speaker)
        shared.fit(rows, speakers[rows], 0).classifier(directions=True)
    together = time.process_time() - start
    start, rows = time.process_time(), np.flatnonzero(speakers != 0)
    fit_ridge(
        vectors[rows],
        labels[rows],
        speakers[rows],
        sizes=sizes,
        classes=CLASSES,
        class_weighted=True,
        max_support=6000,
        seed=0,
    ).classifier(directions=True)
    alone = SPEAKERS * (time.process_time() - start)
    screen.say(
        f"Leaving each of {SPEAKERS} speakers out of {SHARED_CLIPS:,} vectors: {together:.1f} s of one core from one "
        f"factorisation, {alone:.0f} s fitted one by one ({alone / together:.1f} times)."
    )
    screen.record("folds", together=together, alone=alone)
