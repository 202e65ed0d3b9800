"""The ridge classifiers of more clips than can be fitted exactly: in time and memory that grow with their number.

In: training vectors, labels and groups (numpy). Out: a RidgeFit. Every clip counts; the Gaussian classifier is a sum of
kernels at a sample of them, the landmarks (subset of regressors, Smola and Schoelkopf 2000), the linear one is the same
as the exact one. Clips are read in blocks, of which only sums of products stay in memory.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from auricle.models.features import ridge
from auricle.models.features.ridge import Problem, RidgeFit, rbf_kernel, standardize
from auricle.models.features.vectors import Vectors

# On 12,000 half-second clips of ESC-10 so many give the log-loss of the exact fit and half a point less accuracy.
LANDMARKS = 3000
BLOCK_CLIPS = 1024
INNER_FOLDS = 5
# Added to the diagonal of the landmarks' kernel, which is 1: two of them may be the same sound, such as silence.
JITTER = 1e-3

Features = Callable[[np.ndarray], Tensor]


def fit_on_landmarks(
    vectors: Vectors,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    sizes: Sequence[int],
    classes: int,
    class_weighted: bool,
    landmarks: int,
    seed: int,
) -> RidgeFit:
    """Fit both classifiers to all clips, the Gaussian one at so many `landmarks`; other arguments as `fit_ridge`.

    The cost grows with the clips times the squares of landmarks and features. Raises DataError for fewer than two
    classes.
    """
    problem = Problem.of(labels, classes, ridge.clip_weights(labels, class_weighted))
    mean, scale = _standardization(vectors)
    used, folds = ridge.used_features(scale), _folds(labels, groups, seed)
    support = standardize(vectors[ridge.subsample(labels, landmarks, seed)], mean, scale)
    single = support.float()

    def linear_features(rows: np.ndarray) -> Tensor:
        return standardize(vectors[rows], mean, scale).div_(used**0.5)

    def kernel_features(rows: np.ndarray) -> Tensor:
        return rbf_kernel(standardize(vectors[rows], mean, scale).float(), single, sizes, ridge.KERNEL_WIDTH).double()

    ridges = ridge.LINEAR_RIDGE * torch.eye(len(mean), dtype=torch.float64)
    linear, linear_held_out = solve(linear_features, problem, ridges, folds)
    among = rbf_kernel(single, single, sizes, ridge.KERNEL_WIDTH).double()
    among.diagonal().add_(JITTER)
    # What of a clip no sum of landmarks can say counts as noise, as it would be in the exact fit.
    seen = torch.linalg.solve_triangular(
        torch.linalg.cholesky(among), kernel_features(ridge.sample_rows(len(labels))).T, upper=False
    )
    unseen = 1.0 - float(seen.square().sum(0).mean())
    kernel, kernel_held_out = solve(kernel_features, problem, among.mul_(ridge.KERNEL_RIDGE + unseen), folds)
    return ridge.weighed(
        problem,
        np.stack([linear_held_out.numpy(), kernel_held_out.numpy()]),
        mean=mean,
        scale=scale,
        linear=linear.div_(used**0.5),
        support=support,
        kernel=kernel,
        sample=standardize(vectors[ridge.sample_rows(len(labels))], mean, scale),
    )


def solve(features: Features, problem: Problem, penalty: Tensor, folds: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Weights (features, classes) with the least weighted squared error plus penalty, and predictions without a fold.

    `features` gives those (rows, features) of some rows; penalty (features, features) is overwritten. The normal
    matrices of the folds are summed once: those of all others are a difference.
    """
    sums = [_normal_equations(features, problem, fold, len(penalty)) for fold in folds]
    matrix, right = penalty, torch.stack([fold_right for _, fold_right in sums]).sum(0)
    for fold_matrix, _ in sums:
        matrix += fold_matrix
    held_out = torch.zeros_like(problem.targets)
    # Each fold's matrix gives its memory to what is computed with it, and is then freed.
    while sums:
        fold, (fold_matrix, fold_right) = folds[len(sums) - 1], sums.pop()
        weights = torch.cholesky_solve(right - fold_right, _factor(torch.sub(matrix, fold_matrix, out=fold_matrix)))
        del fold_matrix
        for rows in _blocks(fold):
            held_out[torch.as_tensor(rows)] = features(rows) @ weights
    return torch.cholesky_solve(right, _factor(matrix)), held_out


def _normal_equations(features: Features, problem: Problem, fold: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    matrix = torch.zeros(size, size, dtype=torch.float64)
    right = torch.zeros(size, problem.targets.shape[1], dtype=torch.float64)
    for rows in _blocks(fold):
        values = features(rows)
        weighted = values * torch.as_tensor(problem.weights[rows])[:, None]
        matrix.addmm_(values.T, weighted)
        right.addmm_(weighted.T, problem.targets[torch.as_tensor(rows)])
    return matrix, right


def _factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor of a matrix, in its memory."""
    torch.linalg.cholesky_ex(matrix, check_errors=True, out=(matrix, torch.empty(0, dtype=torch.int32)))
    return matrix


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK_CLIPS] for start in range(0, len(rows), BLOCK_CLIPS)]


def _standardization(vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """As `ridge.standardization`, in blocks and double precision: of so many clips single loses digits."""
    blocks = _blocks(np.arange(len(vectors)))
    mean = sum(vectors[rows].sum(0, dtype=np.float64) for rows in blocks) / len(vectors)
    variance = sum(np.square(vectors[rows] - mean).sum(0) for rows in blocks) / len(vectors)
    deviation = np.sqrt(variance)
    return np.asarray(mean), np.where(deviation > 1e-4, 1.0 / np.maximum(deviation, 1e-4), 0.0)


def _folds(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
    """Five folds for the inner validation, of whole groups where these do not coincide with classes."""
    from sklearn.model_selection import GroupKFold

    inner = ridge.inner_folds(labels, groups, seed)
    number = np.empty(len(labels), int)
    for fold, rows in enumerate(inner):
        number[rows] = fold
    count = min(INNER_FOLDS, len(inner))
    return [test for _, test in GroupKFold(count).split(labels, labels, number)]
