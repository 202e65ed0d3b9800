"""Few training clips: a frozen encoder compared with the instant baseline, from five clips per class on.

Emotions of EmoDB and digits of FSDD with a speech encoder, ESC-10 with one for everyday sounds. Each draw divides the
speakers or source recordings into training and test ones, and samples training clips per class; all models get the
same clips. What is embedded does not depend on the draw and is computed once. With --finetune the speech encoder is
fine-tuned from there too, as the recipe `emotion` does. The last line is the least gain of balanced accuracy at the
fewest clips.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from auricle import recipes
from auricle.corpus.splits import Fold, split_validation
from auricle.evaluation.metrics import compute_metrics, evaluate_logits
from auricle.models.load import build_model
from auricle.models.quiet import quiet_libraries
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
from auricle.training.closed_form import embed_clips, fit
from auricle.training.cross_validation import prepare_training
from auricle.training.fold import FoldData, Scorer
from auricle.training.progress import ProgressReporter
from auricle.training.run import resolve
from benchmarks._environment import Screen, corpus

METRIC = "balanced_accuracy"
NAMES = ("baseline", "probe", "emotion")
# The share of the groups that are test groups.
TEST_SHARE = 1 / 3


@dataclass(frozen=True)
class Draw:
    """The ids of the training clips, and of the test clips, which are of other groups."""

    train: list[str]
    test: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--speech", default="whisper-tiny.en", metavar="MODEL", help="encoder for EmoDB and FSDD")
    parser.add_argument("--sounds", default="mn04", metavar="MODEL", help="encoder for ESC-10")
    parser.add_argument("--per-class", type=int, nargs="+", default=[5, 10, 20, 50], metavar="N")
    parser.add_argument("--finetune", action="store_true", help="the recipe emotion on EmoDB and FSDD too")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="of groups and training clips (default: 5)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure both models on every corpus; print means and ranges over the draws."""
    screen.machine()
    heading = ("corpus", "clips per class", *NAMES, "probe - baseline", "range", "emotion - probe", "range")
    rows: list[tuple[str, ...]] = [heading]
    least = []
    for name, checkpoint in (("emodb", options.speech), ("fsdd", options.speech), ("esc10", options.sounds)):
        probe, baseline = recipes.load("probe", values={"checkpoint": checkpoint}), recipes.load("baseline")
        prepared = _prepared(name, baseline)
        draws = {size: list(draws_of(prepared, size, options.draws)) for size in sorted(options.per_class)}
        with quiet_libraries():
            found = {"baseline": measure(prepared, draws), "probe": measure(_prepared(name, resolve(probe)), draws)}
            if options.finetune and name != "esc10":
                emotion = resolve(recipes.load("emotion", values={"checkpoint": checkpoint}))
                found["emotion"] = measure_tuned(_prepared(name, emotion), draws)
        for size, drawn in draws.items():
            used = np.mean([len(draw.train) for draw in drawn]) / len(prepared.labels)
            scores = {model: values[size] for model, values in found.items()}
            gains = [scores["probe"] - scores["baseline"]]
            if "emotion" in scores:
                gains.append(scores["emotion"] - scores["probe"])
            means = (f"{scores[model].mean():.3f}" if model in scores else "" for model in NAMES)
            clips = f"{size}" if used > size - 0.5 else f"{size} or all, {used:.0f} on average"
            differences = [text for gain in gains for text in _shown(gain)]
            rows.append((name, clips, *means, *differences, *[""] * (4 - len(differences))))
            values = {model: score.tolist() for model, score in scores.items()}
            screen.record("lowdata", corpus=name, per_class=size, used=used, **values)
        least.append(float(np.mean(found["probe"][min(draws)] - found["baseline"][min(draws)])))
    screen.say(f"Balanced accuracy, mean over {options.draws} draws; differences with their range over the draws:")
    screen.table(rows)
    screen.result("lowdata", "gain", min(least))


def _prepared(name: str, recipe: Recipe) -> PreparedCorpus:
    return prepare(read(corpus(name), recipe), recipe, lambda done, total: None)


def draws_of(prepared: PreparedCorpus, per_class: int, count: int) -> Iterator[Draw]:
    """Divide the groups and sample training clips, `count` times; of a class with fewer than `per_class`, all."""
    ids = np.array([clip.id for clip in prepared.usable])
    splitter = GroupShuffleSplit(count, test_size=TEST_SHARE, random_state=0)
    for seed, (train, test) in enumerate(splitter.split(ids, groups=prepared.groups(ids))):
        order = ids[np.random.default_rng(seed).permutation(train)]
        classes = prepared.classes(order)
        chosen = [id for label in np.unique(classes) for id in order[classes == label][:per_class]]
        yield Draw([str(id) for id in chosen], [str(id) for id in ids[test]])


def measure(prepared: PreparedCorpus, draws: dict[int, list[Draw]]) -> dict[int, np.ndarray]:
    """The metric of each draw, (draws,) for each size, of models fitted to embeddings that are computed once."""
    model = build_model(prepared.recipe, prepared.labels)
    embeddings = embed_clips(prepared, model)

    def one(draw: Draw) -> float:
        fit(model.fit, embeddings, prepared, draw.train)
        logits = embeddings.used_by(model).logits(model, draw.test)
        return compute_metrics(evaluate_logits(prepared.classes(draw.test), logits))[METRIC]

    return {size: np.array([one(draw) for draw in drawn]) for size, drawn in draws.items()}


def measure_tuned(prepared: PreparedCorpus, draws: dict[int, list[Draw]]) -> dict[int, np.ndarray]:
    """The metric of each draw, likewise, of models that are fine-tuned; a share of the training groups validates."""
    clip_of = {clip.id: clip for clip in prepared.usable}
    folds = []
    for size, drawn in draws.items():
        for number, draw in enumerate(drawn):
            clips = [clip_of[id] for id in draw.train]
            parts = split_validation(clips, prepared.recipe.data, prepared.audit.duplicate_groups)
            ids = (tuple(clip.id for clip in part) for part in parts)
            folds.append(Fold(f"{size} {number}", *ids, tuple(draw.test)))
    prepared = replace(prepared, split=replace(prepared.split, folds=tuple(folds)))
    train = prepare_training(prepared, ProgressReporter())
    scores = []
    for fold in folds:
        with tempfile.TemporaryDirectory() as scratch:
            trained = train(FoldData(prepared, fold, RunFolder(Path(scratch)), ProgressReporter()))
        logits = Scorer(trained.model, prepared, trained.embeddings).clips(fold.test)
        scores.append(compute_metrics(evaluate_logits(prepared.classes(fold.test), logits))[METRIC])
    return dict(zip(draws, np.array(scores).reshape(len(draws), -1), strict=True))


def _shown(values: np.ndarray) -> tuple[str, str]:
    return f"{values.mean():.3f}", f"{values.min():.3f} to {values.max():.3f}"
