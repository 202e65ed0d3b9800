"""The last layer, from an embedding to one logit per class, and its loss.

In: (batch, size). Out: (batch, classes). A head's forward needs no labels; its loss takes soft targets, because mixup
and label smoothing make them. Margins are part of the loss alone, so logits do not depend on them.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.options import HeadOptions


class Softmax(nn.Module):
    """A linear layer and cross-entropy."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, classes)

    def forward(self, embedding: Tensor) -> Tensor:
        return cast(Tensor, self.linear(embedding))

    def loss(self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy against soft targets (batch, classes); class_weights (classes,) average 1 over clips."""
        return F.cross_entropy(logits, targets, weight=class_weights)

    @torch.no_grad()
    def apply_temperature(self, temperature: float) -> None:
        """Divide all future logits by a temperature."""
        for weight in (self.linear.weight, self.linear.bias):
            weight.div_(temperature)


class MarginSoftmax(nn.Module):
    """Cosines between the embedding and one direction per class, times a scale; the loss adds a margin.

    am-softmax (Wang et al. 2018) takes the margin from the target's cosine, aam-softmax (Deng et al. 2019) adds it, in
    radians, to its angle. `progress` is the share of training that is done; `warmup` needs it.
    """

    def __init__(self, size: int, classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, size))
        self.options = options
        self.progress = 1.0
        self.reset()

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    @property
    def margin(self) -> float:
        """The margin at this point of training."""
        warmup = self.options.warmup
        return self.options.margin * (min(1.0, self.progress / warmup) if warmup else 1.0)

    def forward(self, embedding: Tensor) -> Tensor:
        # Under bf16 autocast a cosine near 1 would have steps of 0.004.
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = F.linear(F.normalize(embedding.float(), dim=-1), F.normalize(self.weight.float(), dim=-1))
        return cosine * self.options.scale

    def loss(self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy with the margin on the targets' logits; in proportion to soft targets."""
        margin, scale = self.margin, self.options.scale
        if self.options.kind == "am-softmax":
            return F.cross_entropy(logits - scale * margin * targets, targets, weight=class_weights)
        cosine = (logits / scale).clamp(-1.0, 1.0)
        sine = (1.0 - cosine.square()).clamp_min(1e-12).sqrt()
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        # Beyond an angle of pi the cosine would rise again: from there on it falls linearly.
        shifted = torch.where(cosine > -math.cos(margin), shifted, cosine - margin * math.sin(margin))
        return F.cross_entropy(torch.lerp(logits, scale * shifted, targets), targets, weight=class_weights)

    def apply_temperature(self, temperature: float) -> None:
        """Divide all future logits by a temperature."""
        self.options = self.options.model_copy(update={"scale": self.options.scale / temperature})


def build_head(options: HeadOptions, size: int, classes: int) -> Softmax | MarginSoftmax:
    return Softmax(size, classes) if options.kind == "softmax" else MarginSoftmax(size, classes, options)


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn labels (batch,) into (batch, classes): the label keeps 1 - smoothing, all classes share the rest."""
    return F.one_hot(labels, classes).float() * (1.0 - smoothing) + smoothing / classes
