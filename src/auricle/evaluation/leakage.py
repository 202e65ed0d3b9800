"""What a random split would be worth: whether a field of the corpus, such as the speaker, gives the class away.

In: vectors of clips, their classes, and fields of their names and tables. Out: for each field the accuracy of a linear
ridge classifier with the field's values on both sides of a split and with them kept together. Both come in closed form
from one fit. The first is measured with the same sizes: values are shuffled among the clips of each class. Torch and
scipy are imported when a fit is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from auricle.corpus.structure import Field
from auricle.evaluation.intervals import Interval, paired_difference, unit_mean

FOLDS = 10
REPEATS = 12
# Both tests must hold: over the field's values, and in standard deviations of values that were shuffled. Chosen on
# EmoDB with random fields; tests/test_grouping.py and `python -m benchmarks groups` check them on others.
SIGNIFICANCE, DEVIATIONS = 0.05, 4.0
# Fewer values are a condition, such as sex or device type, and no group to keep together.
MIN_GROUPS = 4
# A finer field is enough where it explains this share of a coarser one's leak: the speaker, not the accent.
EXPLAINED = 0.6


@dataclass(frozen=True)
class Leakage:
    """One field: accuracy with its values on both sides and kept together, and the difference over its values.

    `margin` is the loss of margin, a finer measure than accuracy; `leaks` whether it is beyond chance.
    """

    key: str
    description: str
    values: int
    random_accuracy: float
    grouped_accuracy: float
    difference: Interval
    margin: float
    leaks: bool


@dataclass(frozen=True)
class HeldOutFit:
    """A ridge classifier of all clips, from which predictions for any held-out clips follow (Rifkin and Lippert 2007).

    vectors (clips, features) float, labels (clips,) class numbers.
    """

    vectors: np.ndarray
    labels: np.ndarray

    @cached_property
    def _solved(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from auricle.models.features.ridge import CLIP_LIMIT, LINEAR_RIDGE

        deviation = self.vectors.std(0)
        scale = np.where(deviation > 1e-4, 1.0 / np.maximum(deviation, 1e-4), 0.0)
        standard = np.clip((self.vectors - self.vectors.mean(0)) * scale, -CLIP_LIMIT, CLIP_LIMIT).astype(np.float64)
        gram = standard @ standard.T / max(1, int((scale > 0).sum()))
        targets = np.eye(int(self.labels.max()) + 1)[self.labels]
        targets -= targets.mean(0)
        inverse = np.linalg.inv(gram + LINEAR_RIDGE * np.eye(len(gram)))
        return inverse, inverse @ targets, targets

    def margins(self, folds: np.ndarray) -> np.ndarray:
        """How far the true class leads for each clip (clips,) when its fold (clips,) is held out; above 0 is right."""
        inverse, dual, targets = self._solved
        predicted = np.empty_like(targets)
        for number in np.unique(folds):
            rows = np.flatnonzero(folds == number)
            predicted[rows] = targets[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
        clips = np.arange(len(self.labels))
        true = predicted[clips, self.labels]
        predicted[clips, self.labels] = -np.inf
        return np.asarray(true - predicted.max(1))


def measure(fit: HeldOutFit, field: Field, seed: int) -> Leakage:
    """Measure one field on the clips of a fit, in their order. A clip without a value is a value of its own."""
    # scipy.stats takes half a second to import.
    from scipy.special import stdtr

    random = np.random.default_rng(seed)
    names = [value or f"\0{number}" for number, value in enumerate(field.values)]
    values = np.unique(names, return_inverse=True)[1]
    together, apart = [], []
    for _ in range(REPEATS):
        together.append(fit.margins(_assign(values, fit.labels, random)))
        apart.append(fit.margins(_assign(_dealt_out(values, fit.labels, random), fit.labels, random)))
    grouped, mixed = np.array(together), np.array(apart)
    loss = unit_mean((mixed - grouped).mean(0), values)
    noise = max(float(mixed.mean(1).std(ddof=1)), 1e-9)
    changes = ((mixed > 0).astype(float) - (grouped > 0)).mean(0)
    difference = paired_difference(changes, values)
    return Leakage(
        key=field.key,
        description=field.description,
        values=len(field.counts),
        random_accuracy=float((mixed > 0).mean()),
        grouped_accuracy=float((grouped > 0).mean()),
        difference=difference if changes.any() else Interval(0.0, 0.0, 0.0),  # they agree on every clip
        margin=loss.value,
        leaks=bool(
            stdtr(loss.freedom, -loss.value / max(loss.error, 1e-12)) < SIGNIFICANCE
            and loss.value > DEVIATIONS * noise
            and difference.value > 0
        ),
    )


def choose_group(measured: Sequence[Leakage], fields: Sequence[Field]) -> Leakage | None:
    """The field to keep together: of those that leak, the one that explains the others; None where none does."""
    leaking = [
        (leakage, field)
        for leakage, field in zip(measured, fields, strict=True)
        if leakage.leaks and leakage.values >= MIN_GROUPS
    ]
    if not leaking:
        return None
    strongest, coarse = max(leaking, key=lambda pair: pair[0].margin)
    finer = [
        leakage
        for leakage, field in leaking
        if field.determines(coarse) and leakage.margin >= EXPLAINED * strongest.margin
    ]
    return max(finer, key=lambda leakage: leakage.values, default=strongest)


def _dealt_out(values: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same values in other clips of the same class."""
    dealt = values.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        dealt[rows] = values[random.permutation(rows)]
    return dealt


def _assign(values: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The fold of each clip (clips,): whole values, large ones first, each to where its classes are rarest."""
    units = int(values.max()) + 1
    folds = min(FOLDS, units)
    table = np.zeros((units, int(labels.max()) + 1))
    np.add.at(table, (values, labels), 1.0)
    shares = table / table.sum(0).clip(1)
    order = random.permutation(units)
    order = order[np.argsort(-table.sum(1)[order], kind="stable")]
    filled, fold_of = np.zeros((folds, table.shape[1])), np.empty(units, dtype=int)
    for unit in order:
        fold = int(np.argmin(filled @ shares[unit] + 1e-9 * random.random(folds)))
        fold_of[unit] = fold
        filled[fold] += shares[unit]
    return np.asarray(fold_of[values])
