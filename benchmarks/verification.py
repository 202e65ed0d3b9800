"""Telling whether two recordings are of one speaker, of speakers that nothing was ever trained on.

A recipe is trained on the speakers of EmoDB; each pair of LibriSpeech clips is a trial. Beside it the same cosines of
MFCC statistics (mean and deviation of 20 coefficients by librosa), plain and standardised by the same training clips.
Intervals draw whole speakers. The last line is how many times the error rate of the better MFCC vectors is ours.
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import librosa
import numpy as np

from auricle import recipes
from auricle.evaluation.intervals import Interval
from auricle.training.progress import ProgressReporter
from auricle.training.run import run as run_recipe
from auricle.voices import error_rates, trials
from benchmarks._figures import Screen, corpus

SAMPLE_RATE, COEFFICIENTS = 16_000, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="baseline", help="the recipe that is trained (default: baseline)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train, hear all pairs, and print the equal error rates with their intervals."""
    learnt, judged = corpus("emodb"), corpus("librispeech10")
    settings = ["data.label=speaker", f"audio.sample_rate={SAMPLE_RATE}", *options.set]
    files = sorted(judged.glob("*/*.flac"))
    pairs = list(itertools.combinations(files, 2))
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        out, listed = Path(scratch) / "run", Path(scratch) / "trials.txt"
        names = {path: path.relative_to(judged).as_posix() for path in files}
        listed.write_text(
            "".join(f"{int(one.parent == other.parent)}\t{names[one]}\t{names[other]}\n" for one, other in pairs),
            encoding="utf-8",
        )
        run_recipe(learnt, recipes.load(options.recipe, settings), out, ProgressReporter(message=screen.say))
        ours = trials.judge(out, listed, lambda *_: None, root=judged)
        asked = error_rates.read(listed)
    cosine = ours["metrics"]["cosine"]
    found = {f"auricle, recipe {options.recipe}": {name: Interval(**figure) for name, figure in cosine.items()}}
    plain = np.stack([_statistics(judged / name) for name in asked.files])
    train = np.stack([_statistics(path) for path in sorted(learnt.glob("*.wav"))])
    speakers = error_rates.speakers(asked)
    standard = (plain - train.mean(0)) / train.std(0)
    for side, vectors in (("MFCC statistics", plain), ("MFCC statistics, standardised", standard)):
        found[side] = _judged(vectors, asked, speakers)
    heard = len(set(speakers or ()))
    screen.say(f"{len(asked)} trials, {int(asked.target.sum())} of one speaker; intervals over {heard} speakers.")
    rows: list[tuple[str, ...]] = [("vectors", "EER", "low", "high", "minDCF 0.05")]
    for side, figures in found.items():
        eer = figures["eer"]
        rows.append(
            (side, *(f"{value:.3f}" for value in (eer.value, eer.low, eer.high, figures["min_dcf_0.05"].value)))
        )
        screen.record("verification", side=side, eer=eer.value, low=eer.low, high=eer.high)
    screen.table(rows)
    our, *theirs = (figures["eer"].value for figures in found.values())
    screen.verdict("verification", "ratio", min(theirs) / our)


def _statistics(path: Path) -> np.ndarray:
    samples, rate = librosa.load(path, sr=SAMPLE_RATE)
    coefficients = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=COEFFICIENTS)
    return np.concatenate([coefficients.mean(1), coefficients.std(1)])


def _judged(vectors: np.ndarray, asked: error_rates.Trials, speakers: Sequence[str] | None) -> dict[str, Interval]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return error_rates.measured((unit[asked.left] * unit[asked.right]).sum(1), asked, speakers)[0]
