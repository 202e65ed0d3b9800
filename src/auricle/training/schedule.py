"""How the learning rate moves: one-cycle, cosine or linear, all with a warm-up share."""

import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
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
