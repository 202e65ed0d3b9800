"""Few training clips: a frozen encoder compared with the instant baseline, from five clips per class on.

Emotions of EmoDB and digits of FSDD with a speech encoder, ESC-10 with one for everyday sounds. Each draw divides the
speakers or source recordings into training and test ones, and samples training clips per class; both models get the
same clips. What is embedded does not depend on the draw and is computed once. The last line is the least gain of
balanced accuracy at the fewest clips.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from auricle import recipes
from auricle.evaluation.metrics import compute_metrics, evaluate_logits
from auricle.models.load import build_model
from auricle.models.quiet import quiet_libraries
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.recipe import Recipe
from auricle.training.closed_form import embed_clips, fit
from auricle.training.run import resolve
from benchmarks._environment import Screen, corpus

METRIC = "balanced_accuracy"
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
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="of groups and training clips (default: 5)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Measure both models on every corpus; print means and ranges over the draws."""
    screen.machine()
    heading = ("corpus", "clips per class", "baseline", "range", "frozen encoder", "range", "gain", "range")
    rows: list[tuple[str, ...]] = [heading]
    least = []
    for name, checkpoint in (("emodb", options.speech), ("fsdd", options.speech), ("esc10", options.sounds)):
        probe, baseline = recipes.load("probe", values={"checkpoint": checkpoint}), recipes.load("baseline")
        prepared = _prepared(name, baseline)
        draws = {size: list(draws_of(prepared, size, options.draws)) for size in sorted(options.per_class)}
        before = measure(prepared, draws)
        with quiet_libraries():
            after = measure(_prepared(name, resolve(probe)), draws)
        for size, drawn in draws.items():
            used = np.mean([len(draw.train) for draw in drawn]) / len(prepared.labels)
            gain = after[size] - before[size]
            values = (text for part in (before[size], after[size], gain) for text in _shown(part))
            rows.append((name, f"{size}" if used > size - 0.5 else f"{size} or all, {used:.0f} on average", *values))
            scores = {"baseline": before[size].tolist(), "probe": after[size].tolist()}
            screen.record("lowdata", corpus=name, per_class=size, used=used, **scores)
        least.append(float(np.mean(after[min(draws)] - before[min(draws)])))
    screen.say(f"Balanced accuracy, mean and range over {options.draws} draws, one model each:")
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
        logits = replace(embeddings, values=model.used(embeddings.values)).logits(model, draw.test)
        return compute_metrics(evaluate_logits(prepared.classes(draw.test), logits))[METRIC]

    return {size: np.array([one(draw) for draw in drawn]) for size, drawn in draws.items()}


def _shown(values: np.ndarray) -> tuple[str, str]:
    return f"{values.mean():.3f}", f"{values.min():.3f} to {values.max():.3f}"
