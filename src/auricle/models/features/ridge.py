"""Two ridge classifiers, fitted in closed form and joined into one set of logits.

In: training vectors, labels and groups (numpy). Out: a RidgeClassifier. A linear and a Gaussian ridge classifier are
fitted to the same standardised vectors. The predictions of each for held-out groups follow exactly from its fit,
without refitting, and decide its weight: so the softmax of the logits is calibrated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from auricle.errors import DataError

# Standardised features are clipped here: one outlier must not decide a clip.
CLIP_LIMIT = 5.0
# Chosen once on three corpora (speech emotion, spoken digits, everyday sounds); all are flat within a factor of two.
LINEAR_RIDGE = 0.3
KERNEL_RIDGE = 0.03
KERNEL_WIDTH = 0.5
INNER_FOLDS = 10
# A larger weight of a classifier would turn chance agreement in a small corpus into certainty.
MAX_WEIGHT = 30.0
# For comparing clips by cosine: the number of damped directions, of clips to estimate them from, and the variance from
# which on they are damped.
WITHIN_CLASS_RANK, WITHIN_CLASS_CLIPS, WITHIN_CLASS_FLOOR = 128, 1000, 0.3


@dataclass(frozen=True)
class RidgeClassifier:
    """logits = x @ linear_weights + rbf_kernel(x, support_vectors) @ kernel_weights + bias, of the clipped x = (vector
    - mean) * scale.

    within_class_directions (rank, features) are those in which clips of one class differ; within_class_damping (rank,)
    is the share of each that is removed before clips are compared.
    """

    mean: np.ndarray
    scale: np.ndarray
    linear_weights: np.ndarray
    support_vectors: np.ndarray
    kernel_weights: np.ndarray
    kernel_width: np.ndarray
    bias: np.ndarray
    within_class_directions: np.ndarray
    within_class_damping: np.ndarray


def rbf_kernel(left: Tensor, right: Tensor, sizes: Sequence[int], width: float | Tensor) -> Tensor:
    """Average a Gaussian kernel over the parts of the vectors: (a, features), (b, features) → (a, b) within [0, 1].

    With a kernel per kind of feature, of widths `sizes`, a clip can be near another in rhythm but not in timbre.
    """
    total = left.new_zeros(left.shape[0], right.shape[0])
    for a, b in zip(torch.split(left, list(sizes), 1), torch.split(right, list(sizes), 1), strict=True):
        # In place: for thousands of clips each such matrix takes hundreds of megabytes.
        distance = (a @ b.T).mul_(-2.0)
        distance += a.square().sum(1)[:, None]
        distance += b.square().sum(1)[None, :]
        total += distance.clamp_min_(0.0).mul_(-width / a.shape[1]).exp_()
    return total.div_(len(sizes))


@dataclass(frozen=True)
class LinearClassifier:
    """logits = clip((vector - mean) * scale) @ weights + bias, with the limit CLIP_LIMIT."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class RidgeFit:
    """Dual weights (clips, classes) of both classifiers for the standardised clips, and the factors of the two.

    loss: the log-loss in nats of the clips, each predicted without its group; held_out (2, clips, classes) are these
    predictions of both; clip_weights (clips,).
    """

    standard: Tensor
    labels: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    used: int
    linear: Tensor
    kernel: Tensor
    bias: np.ndarray
    factors: np.ndarray
    loss: float
    held_out: np.ndarray
    clip_weights: np.ndarray

    def classifier(self) -> RidgeClassifier:
        """Both classifiers, weighed."""
        directions, damping = within_class_directions(self.standard, self.labels)
        return RidgeClassifier(
            mean=self.mean,
            scale=self.scale,
            linear_weights=self._linear_weights(self.factors[0]),
            support_vectors=self.standard.numpy(),
            kernel_weights=self.factors[1] * self.kernel.numpy(),
            kernel_width=np.array(KERNEL_WIDTH),
            bias=self.bias,
            within_class_directions=directions.numpy(),
            within_class_damping=damping.numpy(),
        )

    def linear_classifier(self) -> LinearClassifier:
        """The linear classifier alone, with the factor that is best without the other."""
        factors, _ = ensemble_weights(self.held_out[:1], self.bias, self.labels, self.clip_weights)
        return LinearClassifier(self.mean, self.scale, self._linear_weights(factors[0]), self.bias)

    def _linear_weights(self, factor: float) -> np.ndarray:
        weights: np.ndarray = factor / self.used * (self.standard.T @ self.linear).numpy()
        return weights


def fit_ridge(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    sizes: Sequence[int],
    classes: int,
    class_weighted: bool,
    max_support: int,
    seed: int,
) -> RidgeFit:
    """Fit both classifiers and weigh them.

    vectors (clips, features), labels (clips,) ints below `classes`, groups (clips,) or None. Above `max_support` clips
    a stratified sample of that many is used: the cost grows with the cube. Raises DataError for fewer than two classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"The training clips hold {len(present)} class. A classifier needs two or more: check the split."
        )
    if len(labels) > max_support:
        rows = subsample(labels, max_support, seed)
        vectors, labels, groups = vectors[rows], labels[rows], None if groups is None else groups[rows]
    weights = 1.0 / np.bincount(labels)[labels] if class_weighted else np.ones(len(labels))
    weights /= weights.mean()
    mean, deviation = vectors.mean(0), vectors.std(0)
    # A constant feature (an empty band, say) carries no information; a tiny change of it must not be amplified.
    scale = np.where(deviation > 1e-4, 1.0 / np.maximum(deviation, 1e-4), 0.0)
    standard = torch.as_tensor(np.clip((vectors - mean) * scale, -CLIP_LIMIT, CLIP_LIMIT), dtype=torch.float64)
    used = max(1, int((scale > 0).sum()))
    one_hot = np.where(np.arange(classes) == labels[:, None], 1.0, 0.0)
    prior = (weights[:, None] * one_hot).sum(0) / weights.sum()
    bias = np.log(prior.clip(1e-6))
    folds = inner_folds(labels, groups, seed)
    targets, clip_weights = torch.as_tensor(one_hot - prior), torch.as_tensor(weights)
    # Neither Gram matrix gets a name: each is freed before the next one is made.
    linear, linear_held_out = fit_kernel_ridge(
        (standard @ standard.T).div_(used), targets, clip_weights, LINEAR_RIDGE, folds
    )
    # Next to the ridge single precision is ample, and the exponentials cost a third.
    single = standard.float()
    kernel, kernel_held_out = fit_kernel_ridge(
        rbf_kernel(single, single, sizes, KERNEL_WIDTH).double(), targets, clip_weights, KERNEL_RIDGE, folds
    )
    scores = np.stack([linear_held_out.numpy(), kernel_held_out.numpy()])
    factors, loss = ensemble_weights(scores, bias, labels, weights)
    return RidgeFit(standard, labels, mean, scale, used, linear, kernel, bias, factors, loss, scores, weights)


def within_class_directions(standard: Tensor, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """The directions in which clips of one class differ most, (rank, features), and the damping of each, (rank,).

    Damping a direction in proportion to its excess of within-class variance over the floor is within-class covariance
    normalisation (Hatch et al. 2006) with shrinkage. Few clips have few directions: the others are damped by 0.
    """
    rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), WITHIN_CLASS_CLIPS)).astype(int))
    standard, labels = standard[rows], labels[rows]
    parts = [standard[labels == label] for label in np.unique(labels)]
    centred = torch.cat([part - part.mean(0) for part in parts])
    variances, vectors = torch.linalg.eigh(centred @ centred.T / len(centred))
    variances, vectors = variances.flip(0)[:WITHIN_CLASS_RANK].clamp_min(0.0), vectors.flip(1)[:, :WITHIN_CLASS_RANK]
    lengths = (variances * len(centred)).sqrt().clamp_min(1e-9)
    directions = standard.new_zeros(WITHIN_CLASS_RANK, standard.shape[1])
    damping = standard.new_zeros(WITHIN_CLASS_RANK)
    directions[: len(variances)] = (centred.T @ vectors / lengths).T
    damping[: len(variances)] = 1.0 - (WITHIN_CLASS_FLOOR / (variances + WITHIN_CLASS_FLOOR)).sqrt()
    return directions, damping


def fit_kernel_ridge(
    gram: Tensor, targets: Tensor, weights: Tensor, ridge: float, folds: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Fit weighted kernel ridge regression: dual weights (clips, classes) and held-out predictions (clips, classes).

    The Gram matrix is overwritten: it, its factor and its inverse share one piece of memory. With
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


def subsample(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sample `size` row numbers, in order: stratified, or not where a class has a single clip."""
    has_singles = np.bincount(labels)[labels].min() < 2
    rows, _ = train_test_split(
        np.arange(len(labels)), train_size=size, random_state=seed, stratify=None if has_singles else labels
    )
    return np.sort(rows)


def inner_folds(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
    """Folds for the inner validation: one per group, or random ones where a class is in one group only."""
    if groups is not None:
        _, number = np.unique(groups, return_inverse=True)
        if all(len(np.unique(number[labels == label])) > 1 for label in np.unique(labels)):
            return [np.flatnonzero(number == group) for group in range(number.max() + 1)]
    _, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        return [np.array([clip]) for clip in range(len(labels))]
    splitter = StratifiedKFold(min(INNER_FOLDS, int(counts.min())), shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(labels, labels)]


def ensemble_weights(
    scores: np.ndarray, bias: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, float]:
    """The non-negative weight of each classifier that minimises the log-loss of held-out clips, and that loss: convex.

    scores (classifiers, clips, classes), bias (classes,), labels and weights (clips,).
    """
    clips = np.arange(len(labels))

    def loss(factors: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.tensordot(factors, scores, 1) + bias
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        value = -(weights * np.log(probabilities[clips, labels].clip(1e-12))).mean()
        probabilities[clips, labels] -= 1.0
        return float(value), (scores * probabilities * weights[:, None]).sum((1, 2)) / len(labels)

    best = minimize(loss, np.full(len(scores), 5.0), jac=True, bounds=[(0.0, MAX_WEIGHT)] * len(scores))
    return best.x, float(best.fun)
