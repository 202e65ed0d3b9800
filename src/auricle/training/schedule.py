"""How long training lasts: what the recipe leaves open follows the clips, and a flat validation ends it early.

In: the train section of a recipe, and the number of training clips. Out: a Schedule, in which nothing is open, and for
warmup-stable-decay the learning rate of each step.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from auricle.recipe import Train


class Length(NamedTuple):
    """How many epochs: about so many steps, within limits."""

    steps: int
    min_epochs: int
    max_epochs: int

    def epochs(self, steps_an_epoch: float) -> int:
        """The epochs of a corpus with so many steps in each."""
        return min(self.max_epochs, max(self.min_epochs, round(self.steps / steps_an_epoch)))


# Not measured: some hundreds of steps for two layers above a head that is fitted already, each clip seen a few times.
FROM_PROBE = Length(300, 3, 20)
# Of a network that begins from noise. The most was chosen on ESC-10 and EmoDB; the steps were tried on FSDD alone,
# where 26 epochs give .904 and 60 gave .907; the least was not measured.
FROM_NOISE = Length(4000, 10, 60)
# The learning rate was chosen on validation clips of EmoDB, the other numbers were not.
# An epoch has about so many steps, within batches that average noise and batches that fit in memory.
STEPS_AN_EPOCH, MIN_BATCH, MAX_BATCH = 25, 8, 64
# Clips that are in memory at a time; larger batches are accumulated.
CLIPS_AT_A_TIME = 16
# For a batch of 16; Adam's rate grows with the root of the batch (Malladi et al. 2022).
LEARNING_RATE, LEARNING_RATE_BATCH = 3e-5, 16


class Schedule(Train):
    """A train section whose steps, rate and batch are numbers."""

    epochs: int
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float


def schedule(train: Train, clips: int, length: Length = FROM_PROBE) -> Schedule:
    """Fill in what the recipe leaves open, for so many training clips; what it gives stays."""
    batch = min(MAX_BATCH, max(MIN_BATCH, 2 ** round(math.log2(max(clips, 1) / STEPS_AN_EPOCH))))
    accumulation = train.gradient_accumulation_steps
    size = train.batch_size or min(CLIPS_AT_A_TIME, max(1, batch // (accumulation or 1)))
    accumulation = accumulation or max(1, batch // size)
    batch = size * accumulation
    rate = LEARNING_RATE * math.sqrt(batch / LEARNING_RATE_BATCH)
    filled = {
        "epochs": train.epochs or length.epochs(max(clips, 1) / batch),
        "batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": train.learning_rate or rate,
    }
    return Schedule(**{**train.model_dump(), **filled})


# Warmup-stable-decay (Hu et al. 2024): the share of all epochs in which the rate falls. None of these was tuned.
DECAY_SHARE, MIN_DECAY_EPOCHS = 0.3, 2
# Validation is flat after about so many steps without a better epoch, two epochs at least.
FLAT_STEPS, MIN_FLAT_EPOCHS = 100, 2
# A better epoch gains so much balanced accuracy, or so much of the log loss that guessing has.
BETTER_SCORE, BETTER_LOSS = 0.01, 0.02


class StableDecay:
    """The learning rate of each step, as a share of its peak: it rises, stays, and falls to zero.

    The fall takes the last DECAY_SHARE of the planned epochs, or begins after the epoch at which validation was flat.
    """

    def __init__(self, train: Schedule, steps: int) -> None:
        self.steps_an_epoch = max(1.0, steps / train.epochs)
        self.epochs, self.warmup_ratio = train.epochs, train.warmup_ratio
        self.patience = train.early_stopping_patience or max(
            MIN_FLAT_EPOCHS, math.ceil(FLAT_STEPS / self.steps_an_epoch)
        )
        self.flat_epoch: int | None = None

    @property
    def decay(self) -> tuple[int, int]:
        """The epochs after which the fall begins and ends."""
        planned = self.epochs - max(1, round(DECAY_SHARE * self.epochs))
        if self.flat_epoch is None or self.flat_epoch >= planned:
            return planned, self.epochs
        falling = max(MIN_DECAY_EPOCHS, math.ceil(self.flat_epoch * DECAY_SHARE / (1 - DECAY_SHARE)))
        return self.flat_epoch, min(self.epochs, self.flat_epoch + falling)

    def watch(self, losses: Sequence[float], scores: Sequence[float], classes: int) -> None:
        """Find the epoch at which validation was flat, from the log loss and balanced accuracy of all epochs so far."""
        best_loss, best_score, since = math.inf, -math.inf, 0
        self.flat_epoch = None
        for epoch, (loss, score) in enumerate(zip(losses, scores, strict=True), start=1):
            gained = loss < best_loss - BETTER_LOSS * math.log(classes) or score > best_score + BETTER_SCORE
            since = 0 if gained else since + 1
            if gained:
                best_loss, best_score = min(loss, best_loss), max(score, best_score)
            # The rate is at its peak only after the warm-up.
            if since >= self.patience and epoch >= self.warmup_ratio * self.epochs:
                self.flat_epoch = epoch
                return

    def __call__(self, step: int) -> float:
        begin, end = (epoch * self.steps_an_epoch for epoch in self.decay)
        rise = self.warmup_ratio * self.epochs * self.steps_an_epoch
        # A step has the rate of its own middle.
        share = min(1.0, (step + 0.5) / rise) if rise else 1.0
        return share * min(1.0, max(0.0, (end - step - 0.5) / (end - begin)))
