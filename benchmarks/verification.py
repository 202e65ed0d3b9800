"""Speaker verification on speakers outside all training data.

A recipe is trained on the speakers of EmoDB; each pair of LibriSpeech clips is a trial. It is compared with cosines of
MFCC statistics (mean and deviation of 20 coefficients by librosa), plain and standardised by the same training clips.
Intervals resample whole speakers. The last line is the EER of the better MFCC statistics divided by ours.
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
from auricle.voices.error_rates import Trials, error_rate_intervals
from auricle.voices.trials import evaluate_trials, read_trials, speakers_of
from benchmarks._environment import Screen, corpus

SAMPLE_RATE, COEFFICIENTS = 16_000, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="baseline", help="the recipe that is trained (default: baseline)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train, score all pairs, and print the equal error rates with their intervals."""
    train_data, test_data = corpus("emodb"), corpus("librispeech10")
    settings = ["data.label=speaker", f"audio.sample_rate={SAMPLE_RATE}", *options.set]
    files = sorted(test_data.glob("*/*.flac"))
    pairs = list(itertools.combinations(files, 2))
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        out, trial_file = Path(scratch) / "run", Path(scratch) / "trials.txt"
        names = {path: path.relative_to(test_data).as_posix() for path in files}
        trial_file.write_text(
            "".join(f"{int(one.parent == other.parent)}\t{names[one]}\t{names[other]}\n" for one, other in pairs),
            encoding="utf-8",
        )
        run_recipe(train_data, recipes.load(options.recipe, settings), out, ProgressReporter(message=screen.say))
        ours = evaluate_trials(out, trial_file, lambda *_: None, root=test_data)
        trials = read_trials(trial_file)
    results = {f"auricle, recipe {options.recipe}": ours.metrics["cosine"]}
    plain = np.stack([_statistics(test_data / name) for name in trials.files])
    train = np.stack([_statistics(path) for path in sorted(train_data.glob("*.wav"))])
    speakers = speakers_of(trials) or ()
    standard = (plain - train.mean(0)) / train.std(0)
    for side, vectors in (("MFCC statistics", plain), ("MFCC statistics, standardised", standard)):
        results[side] = _error_rates(vectors, trials, speakers)
    screen.say(
        f"{len(trials)} trials, {int(trials.target.sum())} target trials; intervals over {len(set(speakers))} speakers."
    )
    rows: list[tuple[str, ...]] = [("vectors", "EER", "low", "high", "minDCF 0.05")]
    for side, figures in results.items():
        eer = figures["eer"]
        rows.append(
            (side, *(f"{value:.3f}" for value in (eer.value, eer.low, eer.high, figures["min_dcf_0.05"].value)))
        )
        screen.record("verification", side=side, eer=eer.value, low=eer.low, high=eer.high)
    screen.table(rows)
    our_eer, *mfcc_eers = (figures["eer"].value for figures in results.values())
    screen.result("verification", "ratio", min(mfcc_eers) / our_eer)


def _statistics(path: Path) -> np.ndarray:
    samples, rate = librosa.load(path, sr=SAMPLE_RATE)
    coefficients = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=COEFFICIENTS)
    return np.concatenate([coefficients.mean(1), coefficients.std(1)])


def _error_rates(vectors: np.ndarray, trials: Trials, speakers: Sequence[str]) -> dict[str, Interval]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = (unit[trials.left] * unit[trials.right]).sum(1)
    return error_rate_intervals(scores, trials, speakers)[0]
