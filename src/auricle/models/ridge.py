"""Two ridge classifiers, fitted in closed form and joined into one set of logits.

In: training vectors, labels, groups (numpy). Out: `Machine`, the arrays that the baseline keeps. A linear and a Gaussian
kernel machine are fitted to the same standardised vectors; together they beat either. What they say of a group they have not
heard follows exactly from the fit itself (no refitting), and sets the weight of each in the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from auricle.errors import DataError

# Standardised features are cut here: one odd value must not decide a clip.
LIMIT = 5.0
LINEAR_RIDGE = 0.3
KERNEL_RIDGE = 0.1
KERNEL_WIDTH = 0.6
INNER_FOLDS = 10


@dataclass(frozen=True)
class Machine:
    """What `Model.classify` needs: standardise, then linear + Gaussian kernel + bias."""

    mean: np.ndarray
    scale: np.ndarray
    linear: np.ndarray
    support: np.ndarray
    kernel: np.ndarray
    width: np.ndarray
    bias: np.ndarray


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Give squared distances: (a, features), (b, features) → (a, b)."""
    squares = left.square().sum(-1)[:, None] + right.square().sum(-1)[None, :]
    return (squares - 2.0 * left @ right.T).clamp_min(0.0)


def fit(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    classes: int,
    class_weighted: bool,
    max_support: int,
    seed: int,
) -> Machine:
    """Fit both machines and weigh them.

    vectors (clips, features), labels (clips,) ints below `classes`, groups (clips,) or None. Above `max_support` clips
    a stratified draw of that many is used: cost grows with the cube. Raises DataError for fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise DataError(f"The training clips hold {len(np.unique(labels))} class; a classifier needs at least two.")
    if len(labels) > max_support:
        keep, _ = train_test_split(np.arange(len(labels)), train_size=max_support, random_state=seed, stratify=labels)
        vectors, labels, groups = vectors[keep], labels[keep], None if groups is None else groups[keep]
    counts = np.bincount(labels, minlength=classes)
    weights = 1.0 / counts[labels] if class_weighted else np.ones(len(labels))
    weights /= weights.mean()
    mean, deviation = vectors.mean(0), vectors.std(0)
    scale = np.where(deviation > 1e-5, 1.0 / np.maximum(deviation, 1e-5), 0.0)
    standard = torch.as_tensor(np.clip((vectors - mean) * scale, -LIMIT, LIMIT), dtype=torch.float64)
    used = max(1, int((scale > 0).sum()))
    targets = np.where(np.arange(classes) == labels[:, None], 1.0, 0.0)
    centre = (weights[:, None] * targets).sum(0) / weights.sum()
    folds = inner_folds(labels, groups, seed)
    solved = [
        solve(gram, torch.as_tensor(targets - centre), torch.as_tensor(weights), ridge, folds)
        for gram, ridge in (
            (standard @ standard.T / used, LINEAR_RIDGE),
            (torch.exp(-KERNEL_WIDTH / used * distances(standard, standard)), KERNEL_RIDGE),
        )
    ]
    (linear, kernel), held_out = zip(*solved, strict=True)
    share = blend([scores.numpy() for scores in held_out], labels, weights)
    return Machine(
        mean=mean,
        scale=scale,
        linear=share[0] * (standard.T @ linear).numpy() / used,
        support=standard.numpy(),
        kernel=share[1] * kernel.numpy(),
        width=np.array(KERNEL_WIDTH / used),
        bias=np.zeros(classes),
    )


def solve(
    gram: Tensor, targets: Tensor, weights: Tensor, ridge: float, folds: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Solve weighted kernel ridge regression: dual weights (clips, classes) and held-out predictions (clips, classes).

    With C = (G + ridge)^-1 and a = C t, leaving fold f out changes its residual to C_ff^-1 a_f (Rifkin and Lippert 2007).
    """
    root = weights.sqrt()[:, None]
    system = gram * root * root.T
    system.diagonal().add_(ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
    dual = inverse @ (targets * root)
    held_out = torch.zeros_like(targets)
    for fold in map(torch.as_tensor, folds):
        block = torch.linalg.cholesky(inverse[fold][:, fold])
        held_out[fold] = targets[fold] - torch.cholesky_solve(dual[fold], block) / root[fold]
    return dual * root, held_out


def inner_folds(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
    """Divide the training clips for validation inside them: by group where there are several, else at random."""
    if groups is not None and len(np.unique(groups)) > 1:
        _, number = np.unique(groups, return_inverse=True)
        folds = [np.flatnonzero(number == group) for group in range(number.max() + 1)]
        # A class that lives in one group alone cannot be held out: nothing would be left to know it by.
        if all(len(np.unique(number[labels == label])) > 1 for label in np.unique(labels)):
            return folds
    parts = min(INNER_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    if parts < 2:
        return [np.array([clip]) for clip in range(len(labels))]
    splitter = StratifiedKFold(parts, shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(labels, labels)]


def blend(held_out: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Find the factors, at least 0, that make the sum of the machines the likeliest logits for held-out clips."""

    scores = np.stack(held_out)

    def loss(factors: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.tensordot(factors, scores, 1)
        logits -= logits.max(1, keepdims=True)
        chances = np.exp(logits)
        chances /= chances.sum(1, keepdims=True)
        rows = np.arange(len(labels))
        value = -(weights * np.log(chances[rows, labels] + 1e-12)).mean()
        chances[rows, labels] -= 1.0
        return value, (scores * chances * weights[:, None]).sum((1, 2)) / len(labels)

    return minimize(loss, np.full(len(scores), 5.0), jac=True, bounds=[(0.0, 100.0)] * len(scores)).x
