"""From an embedding to one logit per class, and what training makes of it.

In: (batch, width). Out: (batch, classes). A head's forward needs no labels; its loss takes soft targets, because mixed
clips and smoothed labels have them.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Softmax(nn.Module):
    """A linear layer and cross-entropy."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, embedding: Tensor) -> Tensor:
        logits: Tensor = self.linear(embedding)
        return logits

    def loss(self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of logits (batch, classes) against soft targets (batch, classes) of weight 1.

        class_weights (classes,) should average 1 over the training clips, so that the step size keeps its meaning.
        """
        return F.cross_entropy(logits, targets, weight=class_weights)


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn labels (batch,) into (batch, classes): the label keeps 1 - smoothing, all classes share the rest."""
    return F.one_hot(labels, classes).float() * (1.0 - smoothing) + smoothing / classes
