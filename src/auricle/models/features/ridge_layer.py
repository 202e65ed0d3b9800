"""The classifier of closed-form models as a layer: standardisation, a linear and a Gaussian ridge classifier.

In: embeddings (batch, size). Out: logits, and vectors to be compared by cosine. `fit` needs no gradient.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.features.landmarks import LANDMARKS, fit_on_landmarks
from auricle.models.features.ridge import CLIP_LIMIT, WITHIN_CLASS_RANK, RidgeFit, fit_ridge, rbf_kernel
from auricle.models.features.vectors import Vectors


class RidgeLayer(nn.Module):
    """The arrays of a RidgeClassifier: `part_sizes` are the widths of the kinds of features, `support` its clips."""

    mean: Tensor
    scale: Tensor
    support_vectors: Tensor
    kernel_width: Tensor
    within_class_directions: Tensor
    within_class_damping: Tensor

    def __init__(self, part_sizes: Sequence[int], classes: int, support: int) -> None:
        super().__init__()
        self.part_sizes, self.classes = list(part_sizes), classes
        # Whether fits estimate what `vectors` needs, a third of their time.
        self.has_vectors = True
        size = sum(part_sizes)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("support_vectors", torch.zeros(support, size))
        self.register_buffer("kernel_width", torch.ones(()))
        self.register_buffer("within_class_directions", torch.zeros(WITHIN_CLASS_RANK, size))
        self.register_buffer("within_class_damping", torch.zeros(WITHIN_CLASS_RANK))
        # transformers reads a model's dtype from its parameters.
        self.linear_weights = nn.Parameter(torch.zeros(size, classes), requires_grad=False)
        self.kernel_weights = nn.Parameter(torch.zeros(support, classes), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(classes), requires_grad=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        # Squared distances lose digits in single precision, enough to move a logit by 1e-4 from batch to batch.
        standard = self._standardize(embeddings).double()
        kernel = rbf_kernel(standard, self.support_vectors.double(), self.part_sizes, self.kernel_width)
        logits = standard @ self.linear_weights.double() + kernel @ self.kernel_weights.double() + self.bias
        return logits.to(embeddings.dtype)

    def vectors(self, embeddings: Tensor) -> Tensor:
        """Vectors (batch, size) of length 1, normalised within classes."""
        standard, directions = self._standardize(embeddings), self.within_class_directions
        normalized = standard - (standard @ directions.T * self.within_class_damping) @ directions
        return F.normalize(normalized.float(), dim=-1)

    def _standardize(self, embeddings: Tensor) -> Tensor:
        return ((embeddings - self.mean) * self.scale).clamp(-CLIP_LIMIT, CLIP_LIMIT)

    def fitted(
        self,
        embeddings: Vectors,
        labels: np.ndarray,
        groups: np.ndarray | None,
        *,
        class_weighted: bool,
        max_support: int,
        seed: int,
    ) -> RidgeFit:
        """The fit to (clips, size): above `max_support` clips on landmarks; arguments and errors as `fit_ridge`."""
        fit = partial(fit_ridge, max_support=max_support)
        if len(labels) > max_support:
            fit = partial(fit_on_landmarks, landmarks=min(LANDMARKS, max_support))
        return fit(
            embeddings,
            labels,
            groups,
            sizes=self.part_sizes,
            classes=self.classes,
            class_weighted=class_weighted,
            seed=seed,
        )

    def take(self, fitted: RidgeFit) -> None:
        """Take the classifier of a fit."""
        for name, array in vars(fitted.classifier(directions=self.has_vectors)).items():
            value = torch.as_tensor(array, dtype=torch.float32, device=self.mean.device)
            is_weight = isinstance(getattr(self, name), nn.Parameter)
            setattr(self, name, nn.Parameter(value, requires_grad=False) if is_weight else value)
