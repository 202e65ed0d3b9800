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
from torch import Tensor

from auricle.errors import DataError
from auricle.models.features.vectors import Vectors

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
    """Weights of both classifiers before their factors: linear (features, classes), and kernel (support, classes).

    loss: the log-loss in nats of the clips, each predicted without its group; held_out (2, clips, classes) are these
    predictions of both; labels and clip_weights (clips,); sample: standardised clips for the directions within classes.
    """

    mean: np.ndarray
    scale: np.ndarray
    linear: Tensor
    support: Tensor
    kernel: Tensor
    bias: np.ndarray
    factors: np.ndarray
    loss: float
    held_out: np.ndarray
    labels: np.ndarray
    clip_weights: np.ndarray
    sample: Tensor

    def classifier(self, *, directions: bool) -> RidgeClassifier:
        """Both classifiers, weighed; without `directions` those within classes are zero, and take no time."""
        within, damping = self.sample.new_zeros(WITHIN_CLASS_RANK, self.sample.shape[1]), torch.zeros(WITHIN_CLASS_RANK)
        if directions:
            within, damping = within_class_directions(self.sample, self.labels[sample_rows(len(self.labels))])
        return RidgeClassifier(
            mean=self.mean,
            scale=self.scale,
            linear_weights=self.factors[0] * self.linear.numpy(),
            support_vectors=self.support.numpy(),
            kernel_weights=self.factors[1] * self.kernel.numpy(),
            kernel_width=np.array(KERNEL_WIDTH),
            bias=self.bias,
            within_class_directions=within.numpy(),
            within_class_damping=damping.numpy(),
        )

    def linear_classifier(self) -> LinearClassifier:
        """The linear classifier alone, with the factor that is best without the other."""
        factors, _ = ensemble_weights(self.held_out[:1], self.bias, self.labels, self.clip_weights)
        return LinearClassifier(self.mean, self.scale, factors[0] * self.linear.numpy(), self.bias)


@dataclass(frozen=True)
class Problem:
    """What clips are fitted to: labels and weights (clips,), targets (clips, classes) and the bias of the classes."""

    labels: np.ndarray
    weights: np.ndarray
    targets: Tensor
    bias: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, classes: int, weights: np.ndarray) -> "Problem":
        """Targets are the classes less their weighted shares. Raises DataError for fewer than two classes."""
        present = np.unique(labels)
        if len(present) < 2:
            raise DataError(
                f"The training clips hold {len(present)} class. A classifier needs two or more: check the split."
            )
        one_hot = np.where(np.arange(classes) == labels[:, None], 1.0, 0.0)
        prior = (weights[:, None] * one_hot).sum(0) / weights.sum()
        return cls(labels, weights, torch.as_tensor(one_hot - prior), np.log(prior.clip(1e-6)))


@dataclass(frozen=True)
class FactoredRidge:
    """Both ridge problems of some clips, each factored once, from which a fit to any part of the clips follows.

    standard (clips, features) float64, labels and weights (clips,); linear and kernel are the inverses (clips, clips)
    of the weighted Gram matrices with their ridges.
    """

    standard: Tensor
    labels: np.ndarray
    classes: int
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    linear: Tensor
    kernel: Tensor

    @classmethod
    def of(
        cls, vectors: np.ndarray, labels: np.ndarray, *, sizes: Sequence[int], classes: int, class_weighted: bool
    ) -> "FactoredRidge":
        """Standardise and factor clips; arguments as those of `fit_ridge`. The cost grows with their cube."""
        weights = clip_weights(labels, class_weighted)
        mean, scale = standardization(vectors)
        standard = standardize(vectors, mean, scale)
        root = torch.as_tensor(weights).sqrt()
        # Neither Gram matrix gets a name: its inverse takes its memory.
        linear = invert((standard @ standard.T).div_(used_features(scale)), root, LINEAR_RIDGE)
        # Next to the ridge single precision is ample, and the exponentials cost a third.
        single = standard.float()
        kernel = invert(rbf_kernel(single, single, sizes, KERNEL_WIDTH).double(), root, KERNEL_RIDGE)
        return cls(standard, labels, classes, mean, scale, weights, linear, kernel)

    def fit(self, rows: np.ndarray, groups: np.ndarray | None, seed: int) -> RidgeFit:
        """Fit both classifiers to the clips of some rows and weigh them; groups (rows,) or None.

        Mean, scale and weights stay those of all clips. Raises DataError for fewer than two classes.
        """
        problem = Problem.of(self.labels[rows], self.classes, self.weights[rows])
        folds = inner_folds(problem.labels, groups, seed)
        root = torch.as_tensor(self.weights).sqrt()
        linear, linear_held_out = solve_part(self.linear, problem.targets, root, rows, folds)
        kernel, kernel_held_out = solve_part(self.kernel, problem.targets, root, rows, folds)
        standard = self.standard if len(rows) == len(self.standard) else self.standard[rows]
        return weighed(
            problem,
            np.stack([linear_held_out.numpy(), kernel_held_out.numpy()]),
            mean=self.mean,
            scale=self.scale,
            linear=(standard.T @ linear).div_(used_features(self.scale)),
            support=standard,
            kernel=kernel,
            sample=standard[sample_rows(len(rows))],
        )


def weighed(
    problem: Problem,
    held_out: np.ndarray,
    *,
    mean: np.ndarray,
    scale: np.ndarray,
    linear: Tensor,
    support: Tensor,
    kernel: Tensor,
    sample: Tensor,
) -> RidgeFit:
    """Weigh both classifiers by their predictions for held-out clips, (2, clips, classes)."""
    factors, loss = ensemble_weights(held_out, problem.bias, problem.labels, problem.weights)
    return RidgeFit(
        mean,
        scale,
        linear,
        support,
        kernel,
        problem.bias,
        factors,
        loss,
        held_out,
        problem.labels,
        problem.weights,
        sample,
    )


def fit_ridge(
    vectors: Vectors,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    sizes: Sequence[int],
    classes: int,
    class_weighted: bool,
    max_support: int,
    seed: int,
) -> RidgeFit:
    """Fit both classifiers exactly and weigh them.

    vectors (clips, features), labels (clips,) ints below `classes`, groups (clips,) or None. Above `max_support` clips
    a stratified sample of that many is used: the cost grows with the cube. Raises DataError for fewer than two classes.
    """
    rows = np.arange(len(labels)) if len(labels) <= max_support else subsample(labels, max_support, seed)
    labels, groups = labels[rows], None if groups is None else groups[rows]
    Problem.of(labels, classes, np.ones(len(labels)))
    factored = FactoredRidge.of(vectors[rows], labels, sizes=sizes, classes=classes, class_weighted=class_weighted)
    return factored.fit(np.arange(len(labels)), groups, seed)


def clip_weights(labels: np.ndarray, class_weighted: bool) -> np.ndarray:
    """The weight of each clip (clips,), 1 on average; with class_weighted every class weighs the same."""
    weights = 1.0 / np.bincount(labels)[labels] if class_weighted else np.ones(len(labels))
    return np.asarray(weights / weights.mean())


def standardization(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of vectors (clips, features), and the inverse of their deviation: (features,) of each."""
    mean, deviation = vectors.mean(0), vectors.std(0)
    # A constant feature (an empty band, say) carries no information; a tiny change of it must not be amplified.
    return mean, np.where(deviation > 1e-4, 1.0 / np.maximum(deviation, 1e-4), 0.0)


def standardize(vectors: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
    """Standardised and clipped vectors (clips, features) float64."""
    return torch.as_tensor(np.clip((vectors - mean) * scale, -CLIP_LIMIT, CLIP_LIMIT), dtype=torch.float64)


def used_features(scale: np.ndarray) -> int:
    """How many features vary."""
    return max(1, int((scale > 0).sum()))


def sample_rows(clips: int) -> np.ndarray:
    """The rows of the clips, evenly spaced, from which the directions within classes are estimated."""
    return np.unique(np.linspace(0, clips - 1, min(clips, WITHIN_CLASS_CLIPS)).astype(int))


def within_class_directions(standard: Tensor, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """The directions in which clips of one class differ most, (rank, features), and the damping of each, (rank,).

    Damping a direction in proportion to its excess of within-class variance over the floor is within-class covariance
    normalisation (Hatch et al. 2006) with shrinkage. Few clips have few directions: the others are damped by 0.
    """
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


def invert(gram: Tensor, root: Tensor, ridge: float) -> Tensor:
    """Invert the Gram matrix (clips, clips), weighted by root (clips,) on both sides, plus the ridge.

    The Gram matrix is overwritten: it, its factor and its inverse share one piece of memory.
    """
    gram.mul_(root[:, None]).mul_(root).diagonal().add_(ridge)
    torch.linalg.cholesky_ex(gram, check_errors=True, out=(gram, torch.empty(0, dtype=torch.int32)))
    return torch.cholesky_inverse(gram, out=gram)


def solve_part(
    inverse: Tensor, targets: Tensor, root: Tensor, rows: np.ndarray, folds: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Fit some rows alone: dual weights (rows, classes), and predictions for each of `folds` of them without it.

    inverse C and root are those of all clips, targets (rows, classes). Leaving clips s out makes the inverse of the
    others C - C_s C_ss^-1 C_s'. With it, and a = C t, the residual of a fold f that is left out too is C_ff^-1 a_f
    (Rifkin and Lippert 2007).
    """
    kept, weight = torch.as_tensor(rows), root[torch.as_tensor(rows), None]
    left_out = torch.as_tensor(np.setdiff1d(np.arange(len(inverse)), rows))
    weighted = torch.zeros(len(inverse), targets.shape[1], dtype=targets.dtype)
    weighted[kept] = targets * weight
    everything = inverse @ weighted
    dual = everything[kept]
    # What leaving out takes from the inverse is across' @ across.
    factor = torch.linalg.cholesky(inverse[left_out[:, None], left_out])
    across = torch.linalg.solve_triangular(factor, inverse[left_out[:, None], kept], upper=False)
    dual -= across.T @ torch.linalg.solve_triangular(factor, everything[left_out], upper=False)
    held_out = torch.zeros_like(targets)
    for fold in map(torch.as_tensor, folds):
        block = inverse[kept[fold][:, None], kept[fold]] - across[:, fold].T @ across[:, fold]
        residual = torch.cholesky_solve(dual[fold], torch.linalg.cholesky(block))
        held_out[fold] = targets[fold] - residual / weight[fold]
    return dual * weight, held_out


def subsample(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sample `size` row numbers, in order: stratified, or not where a class has a single clip."""
    # scikit-learn takes a second to import, and few corpora need it here.
    from sklearn.model_selection import train_test_split

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
    from sklearn.model_selection import StratifiedKFold

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
