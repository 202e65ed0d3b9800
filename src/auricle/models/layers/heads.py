"""From an embedding to one logit per class, and what training makes of it.

In: (batch, width). Out: (batch, classes). A head's forward needs no labels; its loss takes soft targets, because mixed
clips and smoothed labels have them. Margins are in the loss alone, so what a model answers knows nothing of them.
"""

import math
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(pydantic.BaseModel):
    """How embeddings become logits. `margin`, `scale` and `warmup`, the share of training in which the margin rises
    from 0, are those of the two heads with a margin.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kind: Literal["softmax", "am-softmax", "aam-softmax"] = "softmax"
    margin: float = pydantic.Field(0.3, ge=0, lt=1.5)
    scale: float = pydantic.Field(15.0, gt=0)
    warmup: float = pydantic.Field(0.0, ge=0, lt=1)


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

    @torch.no_grad()
    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits by a temperature for good."""
        for weight in (self.linear.weight, self.linear.bias):
            weight.div_(temperature)


class MarginSoftmax(nn.Module):
    """Cosines between the embedding and one direction per class, times a scale; training asks for a margin besides.

    am-softmax (Wang et al. 2018) takes the margin from the target's cosine, aam-softmax (Deng et al. 2019) adds it, in
    radians, to the target's angle. With margin 0 both are the normalised softmax. `progress` is the share of training
    that is done, which a margin with a warm-up waits for.
    """

    def __init__(self, width: int, classes: int, options: Head) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        self.options = options
        self.progress = 1.0
        self.reset()

    def reset(self) -> None:
        """Draw the directions anew."""
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
        """Mean cross-entropy with the margin on the targets' logits; soft targets take their share of it."""
        margin, scale = self.margin, self.options.scale
        if self.options.kind == "am-softmax":
            return F.cross_entropy(logits - scale * margin * targets, targets, weight=class_weights)
        cosine = (logits / scale).clamp(-1.0, 1.0)
        sine = (1.0 - cosine.square()).clamp_min(1e-12).sqrt()
        turned = cosine * math.cos(margin) - sine * math.sin(margin)
        # Beyond a half turn the cosine would rise again: from there on it falls in a straight line.
        turned = torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
        return F.cross_entropy(torch.lerp(logits, scale * turned, targets), targets, weight=class_weights)

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits by a temperature for good."""
        self.options = self.options.model_copy(update={"scale": self.options.scale / temperature})


def make(options: Head, width: int, classes: int) -> Softmax | MarginSoftmax:
    """The head that the options ask for."""
    return Softmax(width, classes) if options.kind == "softmax" else MarginSoftmax(width, classes, options)


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn labels (batch,) into (batch, classes): the label keeps 1 - smoothing, all classes share the rest."""
    return F.one_hot(labels, classes).float() * (1.0 - smoothing) + smoothing / classes


def joined(ours: Tensor, theirs: Tensor) -> Tensor:
    """Give two judges one vote each: the mean of their log-probabilities (Kittler et al. 1998, product rule)."""
    return (ours.float().log_softmax(-1) + theirs.log_softmax(-1)) / 2
