"""How the learning rate moves: one-cycle, cosine or linear, all with a warm-up share."""

import bisect
import math
from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import get_scheduler

from auricle.recipe import Train


def make(optimizer: torch.optim.Optimizer, train: Train, steps: int) -> LRScheduler:
    """Build the recipe's schedule for so many optimiser steps.

    One-cycle rises and falls linearly and moves the momentum against the rate (Smith, 2018).
    """
    if train.schedule == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(
            optimizer, max_lr=rates, total_steps=max(steps, 2), pct_start=train.warmup or 1e-3, anneal_strategy="linear"
        )
    scheduler: LRScheduler = get_scheduler(
        train.schedule, optimizer, num_warmup_steps=round(train.warmup * steps), num_training_steps=steps
    )
    return scheduler


def staged(
    optimizer: torch.optim.Optimizer, train: Train, steps: int, starts: Sequence[int], rates: Sequence[float]
) -> LRScheduler:
    """Build a schedule that begins anew in every stage.

    Stage i runs from epoch starts[i] (counted from 0) to the next one's and multiplies every group's own rate by
    rates[i]. One-cycle is linear here, without its momentum.
    """
    bounds = [round(steps * start / train.epochs) for start in [*starts, train.epochs]]

    def factor(step: int) -> float:
        stage = min(bisect.bisect_right(bounds, step) - 1, len(rates) - 1)
        length = max(1, bounds[stage + 1] - bounds[stage])
        return rates[stage] * _shape(train, (step - bounds[stage]) / length)

    return LambdaLR(optimizer, factor)


def _shape(train: Train, progress: float) -> float:
    """The share of the full rate at a progress from 0 to 1."""
    if progress < train.warmup:
        return progress / train.warmup
    rest = (progress - train.warmup) / (1 - train.warmup)
    return (1 + math.cos(math.pi * rest)) / 2 if train.schedule == "cosine" else 1 - rest
