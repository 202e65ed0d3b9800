"""Accuracy of the recipes on real recordings: `auricle train`, and the metrics of its report.

NAME is a recipe and a corpus, such as sound-esc10. ESC-10 is evaluated on its own five folds, LibriSpeech's speakers on
five random ones, the other corpora by leaving one speaker out, so that no model is tested on a speaker that it was
trained on.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from auricle import recipes
from auricle.errors import UsageError
from auricle.training.progress import ProgressReporter
from auricle.training.run import run as run_recipe
from benchmarks._environment import CORPORA, Screen, corpus

SPLITS = {
    "esc10": "predefined",
    "emodb": "leave-one-group-out",
    "fsdd": "leave-one-group-out",
    "librispeech10": "folds",
}
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="NAME", help=f"RECIPE-CORPUS, the corpus one of {', '.join(CORPORA)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")
    parser.add_argument("--out", type=Path, help="keep the run folder here (default: delete it)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train and evaluate; print value, interval, baseline and seconds per fold."""
    recipe_name, _, corpus_name = options.case.rpartition("-")
    if not recipe_name or corpus_name not in CORPORA:
        raise UsageError(
            f"accuracy received '{options.case}'. Write RECIPE-CORPUS, the recipe one of {', '.join(recipes.names())} "
            f"and the corpus one of {', '.join(CORPORA)}; for example sound-esc10."
        )
    recipe = recipes.load(recipe_name, [f"data.split={SPLITS[corpus_name]}", *options.set])
    data = corpus(corpus_name)
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch) / "run"
        start = time.perf_counter()
        report = run_recipe(data, recipe, out, ProgressReporter(message=screen.say))
        wall = time.perf_counter() - start
        seconds = {
            done.parent.name: json.loads(done.read_text(encoding="utf-8"))["seconds"]
            for done in sorted(out.glob("folds/*/trained.json"))
        }
    rows: list[tuple[str, ...]] = [("metric", "value", "low", "high", "baseline", "majority")]
    for name in METRICS:
        metric = asdict(report.metrics[name])
        shown = (metric["value"], metric["low"], metric["high"])
        baseline, majority = report.baseline.metrics[name].value, report.majority[name]
        rows.append((name, *(f"{value:.3f}" for value in (*shown, baseline, majority))))
        screen.record("accuracy", case=options.case, metric=name, **metric, baseline=baseline, majority=majority)
    screen.say(f"95 % intervals over {report.interval.description}; {report.test_clips} clips:")
    screen.table(rows)
    screen.say("Training, seconds per fold: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    screen.say(f"`auricle train` took {wall:.0f} s, with preparation and final model.")
    screen.record("cost", case=options.case, fold_seconds=seconds, run_seconds=wall)
    screen.result(f"accuracy {options.case}", "value", report.metrics["accuracy"].value)
