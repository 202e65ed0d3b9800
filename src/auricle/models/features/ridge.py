"""Two ridge classifiers, fitted in closed form and joined into one set of logits.

In: training vectors, labels and groups (numpy). Out: `Machine`, the arrays that the baseline keeps. A linear machine
and a Gaussian one are fitted to the same standardised vectors. What each would say of groups it has not heard follows
exactly from its fit, without refitting, and decides its weight: so the softmax of the logits is a fair probability.
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
# Chosen once on three corpora (speech emotion, spoken digits, everyday sounds); all are flat within a factor of two.
LINEAR_RIDGE = 0.3
KERNEL_RIDGE = 0.03
KERNEL_WIDTH = 0.5
INNER_FOLDS = 10
# Logits beyond this many times a machine's score would call a small corpus' luck certainty.
MOST_WEIGHT = 30.0
# For comparing clips by angle: how many directions are damped, found among how many clips, and from which variance on.
WITHIN_RANK, WITHIN_CLIPS, WITHIN_FLOOR = 128, 1000, 0.3


@dataclass(frozen=True)
class Machine:
    """What answers: (clamped (vector - mean) * scale) @ linear + likeness(to support) @ kernel + bias.

    within (rank, features) are the directions in which clips of one class differ, and damping (rank,) by which share
    each is left out when clips are compared.
    """

    mean: np.ndarray
    scale: np.ndarray
    linear: np.ndarray
    support: np.ndarray
    kernel: np.ndarray
    width: np.ndarray
    bias: np.ndarray
    within: np.ndarray
    damping: np.ndarray


def rbf_kernel(left: Tensor, right: Tensor, sizes: Sequence[int], width: float | Tensor) -> Tensor:
    """Average a Gaussian kernel over the parts of the vectors: (a, features), (b, features) → (a, b) within [0, 1].

    A kernel for each kind of feature, rather than one for all, lets a clip be near another in rhythm but not in
    timbre. `sizes` are the widths of the parts.
    """
    total = left.new_zeros(left.shape[0], right.shape[0])
    for ours, theirs in zip(torch.split(left, list(sizes), 1), torch.split(right, list(sizes), 1), strict=True):
        # In place: of thousands of clips each such table takes hundreds of megabytes.
        distance = (ours @ theirs.T).mul_(-2.0)
        distance += ours.square().sum(1)[:, None]
        distance += theirs.square().sum(1)[None, :]
        total += distance.clamp_min_(0.0).mul_(-width / ours.shape[1]).exp_()
    return total.div_(len(sizes))


def fit(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    sizes: Sequence[int],
    classes: int,
    class_weighted: bool,
    max_support: int,
    seed: int,
) -> Machine:
    """Fit both machines and weigh them.

    vectors (clips, features), labels (clips,) ints below `classes`, groups (clips,) or None. Above `max_support` clips
    a stratified draw of that many is used: the cost grows with the cube. Raises DataError for fewer than two classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"The training clips hold {len(present)} class. A classifier needs two or more: check the split."
        )
    if len(labels) > max_support:
        keep = drawn(labels, max_support, seed)
        vectors, labels, groups = vectors[keep], labels[keep], None if groups is None else groups[keep]
    weights = 1.0 / np.bincount(labels)[labels] if class_weighted else np.ones(len(labels))
    weights /= weights.mean()
    mean, deviation = vectors.mean(0), vectors.std(0)
    # A feature that never changes (an empty band, say) carries nothing; a hair's change of it must not be blown up.
    scale = np.where(deviation > 1e-4, 1.0 / np.maximum(deviation, 1e-4), 0.0)
    standard = torch.as_tensor(np.clip((vectors - mean) * scale, -LIMIT, LIMIT), dtype=torch.float64)
    used = max(1, int((scale > 0).sum()))
    hits = np.where(np.arange(classes) == labels[:, None], 1.0, 0.0)
    prior = (weights[:, None] * hits).sum(0) / weights.sum()
    bias = np.log(prior.clip(1e-6))
    folds = inner_folds(labels, groups, seed)
    targets, each = torch.as_tensor(hits - prior), torch.as_tensor(weights)
    linear, linear_held_out = solve((standard @ standard.T).div_(used), targets, each, LINEAR_RIDGE, folds)
    # Single precision is ample beside the ridge, and the exponentials cost a third.
    single = standard.float()
    kernel, kernel_held_out = solve(
        rbf_kernel(single, single, sizes, KERNEL_WIDTH).double(), targets, each, KERNEL_RIDGE, folds
    )
    directions, damping = differences_within(standard, labels)
    share = blend(np.stack([linear_held_out.numpy(), kernel_held_out.numpy()]), bias, labels, weights)
    return Machine(
        mean=mean,
        scale=scale,
        linear=share[0] / used * (standard.T @ linear).numpy(),
        support=standard.numpy(),
        kernel=share[1] * kernel.numpy(),
        width=np.array(KERNEL_WIDTH),
        bias=bias,
        within=directions.numpy(),
        damping=damping.numpy(),
    )


def differences_within(standard: Tensor, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Find in which directions clips of one class differ most: (rank, features) and each one's damping (rank,).

    Leaving a direction out as far as its variance within classes stands above the floor is within-class covariance
    normalisation (Hatch et al. 2006) with shrinkage. Few clips have few directions: the others are damped by 0.
    """
    places = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), WITHIN_CLIPS)).astype(int))
    kept, own = standard[places], labels[places]
    centred = torch.cat([part - part.mean(0) for label in np.unique(own) if len(part := kept[own == label])])
    variances, vectors = torch.linalg.eigh(centred @ centred.T / len(centred))
    variances, vectors = variances.flip(0)[:WITHIN_RANK].clamp_min(0.0), vectors.flip(1)[:, :WITHIN_RANK]
    lengths = (variances * len(centred)).sqrt().clamp_min(1e-9)
    directions, damping = standard.new_zeros(WITHIN_RANK, standard.shape[1]), standard.new_zeros(WITHIN_RANK)
    directions[: len(variances)] = (centred.T @ vectors / lengths).T
    damping[: len(variances)] = 1.0 - (WITHIN_FLOOR / (variances + WITHIN_FLOOR)).sqrt()
    return directions, damping


def solve(
    gram: Tensor, targets: Tensor, weights: Tensor, ridge: float, folds: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Solve weighted kernel ridge regression: dual weights (clips, classes) and held-out predictions (clips, classes).

    The gram matrix is used up: it, its factor and its inverse are one piece of memory after the other. With
    C = (G + ridge)^-1 and a = C t, leaving fold f out makes its residual C_ff^-1 a_f (Rifkin and Lippert 2007).
    """
    root = weights.sqrt()[:, None]
    gram.mul_(root).mul_(root.T).diagonal().add_(ridge)
    torch.linalg.cholesky_ex(gram, check_errors=True, out=(gram, torch.empty(0, dtype=torch.int32)))
    inverse = torch.cholesky_inverse(gram, out=gram)
    dual = inverse @ (targets * root)
    held_out = torch.zeros_like(targets)
    for fold in map(torch.as_tensor, folds):
        block = torch.linalg.cholesky(inverse[fold[:, None], fold])
        held_out[fold] = targets[fold] - torch.cholesky_solve(dual[fold], block) / root[fold]
    return dual * root, held_out


def drawn(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw `size` places, in order: stratified, or plainly where a class has a single clip."""
    few = np.bincount(labels)[labels].min() < 2
    keep, _ = train_test_split(
        np.arange(len(labels)), train_size=size, random_state=seed, stratify=None if few else labels
    )
    return np.sort(keep)


def inner_folds(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
    """Divide the training clips for validation inside them: each group a fold, or random folds where groups fail.

    They fail where a class lives in one group alone: with that group held out, nothing would be left to know it by.
    """
    if groups is not None:
        _, number = np.unique(groups, return_inverse=True)
        if all(len(np.unique(number[labels == label])) > 1 for label in np.unique(labels)):
            return [np.flatnonzero(number == group) for group in range(number.max() + 1)]
    _, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        return [np.array([clip]) for clip in range(len(labels))]
    splitter = StratifiedKFold(min(INNER_FOLDS, int(counts.min())), shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(labels, labels)]


def blend(scores: np.ndarray, bias: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Find how much of each machine makes the likeliest logits for held-out clips: (machines,), none below 0.

    scores (machines, clips, classes), bias (classes,), labels and weights (clips,). The loss is convex.
    """
    clips = np.arange(len(labels))

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.tensordot(shares, scores, 1) + bias
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        value = -(weights * np.log(chances[clips, labels].clip(1e-12))).mean()
        chances[clips, labels] -= 1.0
        return float(value), (scores * chances * weights[:, None]).sum((1, 2)) / len(labels)

    found = minimize(loss, np.full(len(scores), 5.0), jac=True, bounds=[(0.0, MOST_WEIGHT)] * len(scores))
    shares: np.ndarray = found.x
    return shares
