"""Learning rate schedules: one-cycle, cosine or linear, all with warm-up."""

import bisect
import math
from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from auricle.recipe import Train


def make(optimizer: torch.optim.Optimizer, train: Train, steps: int) -> LRScheduler:
    """Build the recipe's schedule for so many optimiser steps.

    One-cycle rises and falls linearly and moves the momentum against the rate (Smith, 2018).
    """
    if train.lr_scheduler_type == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(
            optimizer,
            max_lr=rates,
            total_steps=max(steps, 2),
            pct_start=train.warmup_ratio or 1e-3,
            anneal_strategy="linear",
        )
    return LambdaLR(optimizer, lambda step: _shape(train, (step + 0.5) / steps))


def staged(
    optimizer: torch.optim.Optimizer, train: Train, steps: int, starts: Sequence[int], rates: Sequence[float]
) -> LRScheduler:
    """Build a schedule that restarts in every stage.

    Stage i runs from epoch starts[i] (counted from 0) to the next one's and multiplies every group's own rate by
    rates[i]. One-cycle is linear here, without its momentum.
    """
    bounds = [round(steps * start / train.epochs) for start in [*starts, train.epochs]]

    def factor(step: int) -> float:
        stage = min(bisect.bisect_right(bounds, step) - 1, len(rates) - 1)
        length = max(1, bounds[stage + 1] - bounds[stage])
        return rates[stage] * _shape(train, (step + 0.5 - bounds[stage]) / length)

    return LambdaLR(optimizer, factor)


def _shape(train: Train, progress: float) -> float:
    """The share of the full rate at a progress from 0 to 1.

    A step has the rate of its own middle, so that even the single step of a short training has a rate above zero.
    """
    progress = min(progress, 1.0)
    if progress < train.warmup_ratio:
        return progress / train.warmup_ratio
    rest = (progress - train.warmup_ratio) / (1 - train.warmup_ratio)
    return (1 + math.cos(math.pi * rest)) / 2 if train.lr_scheduler_type == "cosine" else 1 - rest
