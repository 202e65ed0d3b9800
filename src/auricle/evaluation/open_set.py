"""When a model had better say "unknown": how sure it is of an answer, and how sure it must be.

In: logits of known clips, and of impostors: clips of classes that it never learnt, or its own mistakes. Out: the
threshold that accepts a stated share of impostors, how well the two are told apart, and the accuracy at every share of
clips that is answered. A clip is accepted by the greatest probability after temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from auricle.evaluation.scoring import Scores, softmax
from auricle.recipe import Recipe

FALSE_ACCEPT = 0.05
# A clip is no surer of itself for being heard in other company: logits may differ by so much from batch to batch.
HAIR = 1e-4
COVERAGE = tuple(step / 10 for step in range(1, 11))


@dataclass(frozen=True)
class OutOfSetScores:
    """What fold models say of clips whose class they never learnt: logits (clips, classes), one row per clip and fold.

    `classes` are the clips' own; `folds` names the model that was asked.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str | None, ...]
    folds: tuple[str, ...]
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write one row per clip as Parquet."""
        table = pa.table(
            {
                "id": list(self.ids),
                "fold": list(self.folds),
                "group": pa.array(self.groups, pa.string()),
                "label": list(self.classes),
                "logits": list(self.logits.astype(np.float32)),
            }
        )
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "OutOfSetScores":
        """Read what `save` wrote."""
        columns = pq.read_table(path).to_pydict()
        return cls(
            tuple(columns["id"]),
            tuple(columns["label"]),
            tuple(columns["group"]),
            tuple(columns["fold"]),
            np.array(columns["logits"], dtype=np.float32),
        )


def join(parts: Sequence[OutOfSetScores]) -> OutOfSetScores:
    """What several models say, one after the other."""
    return OutOfSetScores(
        tuple(id for part in parts for id in part.ids),
        tuple(name for part in parts for name in part.classes),
        tuple(group for part in parts for group in part.groups),
        tuple(fold for part in parts for fold in part.folds),
        np.concatenate([part.logits for part in parts]),
    )


@dataclass(frozen=True)
class Covered:
    """The accuracy on the share `coverage` of test clips that the model is surest of, and its certainty of the last."""

    coverage: float
    clips: int
    accuracy: float
    confidence: float


def wanted(recipe: Recipe) -> float | None:
    """The share of impostors that may be accepted; None where the recipe asks for no threshold."""
    if recipe.evaluate.max_false_accept_rate is None and recipe.data.held_out_classes:
        return FALSE_ACCEPT
    return recipe.evaluate.max_false_accept_rate


def certainty(logits: np.ndarray) -> np.ndarray:
    """How sure a model is of its answers: logits (clips, classes) → (clips,) float64."""
    return np.asarray(softmax(logits).max(1))


def threshold(impostors: np.ndarray, target: float) -> float | None:
    """The least certainty to be accepted, such that no more than the share `target` of impostors (clips,) are.

    It is their (1 - target) quantile, a hair above the greatest that must be refused; None without impostors.
    """
    if not len(impostors):
        return None
    order = np.sort(impostors)[::-1]
    # 0.07 * 100 is 7.000000000000001 in floating point, and 0.29 * 100 is 28.999999999999996.
    accepted = int(target * len(order) + 1e-9)
    refused = order[accepted]
    room = float(np.min(order[order > refused], initial=1.0)) - refused
    return float(max(refused + min(HAIR, room / 2), np.nextafter(refused, np.inf)))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """How often a known clip scores above an unknown one, ties counting half: (clips,) each, at least one."""
    return Ranked.of(known, unknown).area(np.ones(len(known)), np.ones(len(unknown)))


@dataclass(frozen=True)
class Ranked:
    """Known and unknown clips on one scale: the rank of each, and how many ranks there are; ties share one."""

    known: np.ndarray
    unknown: np.ndarray
    ranks: int

    @classmethod
    def of(cls, known: np.ndarray, unknown: np.ndarray) -> "Ranked":
        """Rank the scores of known and unknown clips together."""
        levels, place = np.unique(np.concatenate([known, unknown]), return_inverse=True)
        return cls(place[: len(known)], place[len(known) :], len(levels))

    def wins(self, known_weight: np.ndarray, unknown_weight: np.ndarray) -> float:
        """Pairs in which the known clip scores above the unknown one, each clip counting its weight."""
        above = np.bincount(self.known, known_weight, self.ranks)
        below = np.bincount(self.unknown, unknown_weight, self.ranks)
        return float(above @ (np.cumsum(below) - below / 2))

    def area(self, known_weight: np.ndarray, unknown_weight: np.ndarray) -> float:
        """The share of pairs that is won: the area under the ROC curve."""
        return self.wins(known_weight, unknown_weight) / float(known_weight.sum() * unknown_weight.sum())


def coverage(scores: Scores) -> list[Covered]:
    """Accuracy on the clips that the model is surest of, for ever larger shares of them."""
    sure = certainty(scores.logits)
    order = np.argsort(-sure, kind="stable")
    right = (scores.predicted == scores.truth)[order]
    rows = []
    for share in COVERAGE:
        clips = max(1, round(share * len(scores)))
        rows.append(Covered(share, clips, float(right[:clips].mean()), float(sure[order[clips - 1]])))
    return rows
