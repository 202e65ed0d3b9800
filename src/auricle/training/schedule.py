"""Steps, rate and batch of a fine-tuning that begins from the probe: what the recipe leaves open follows its clips.

In: the train section of a recipe, and the number of training clips. Out: a Schedule, in which nothing is open.
"""

import math

from auricle.recipe import Train

# The learning rate was chosen on validation clips of EmoDB. The other numbers were not measured: some
# hundreds of steps for two layers above a head that is fitted already, each clip seen a few times at least.
STEPS = 300
MIN_EPOCHS, MAX_EPOCHS = 3, 20
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


def schedule(train: Train, clips: int) -> Schedule:
    """Fill in what the recipe leaves open, for so many training clips; what it gives stays."""
    batch = min(MAX_BATCH, max(MIN_BATCH, 2 ** round(math.log2(max(clips, 1) / STEPS_AN_EPOCH))))
    accumulation = train.gradient_accumulation_steps
    size = train.batch_size or min(CLIPS_AT_A_TIME, max(1, batch // (accumulation or 1)))
    accumulation = accumulation or max(1, batch // size)
    batch = size * accumulation
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, round(STEPS * batch / max(clips, 1))))
    rate = LEARNING_RATE * math.sqrt(batch / LEARNING_RATE_BATCH)
    filled = {
        "epochs": train.epochs or epochs,
        "batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": train.learning_rate or rate,
    }
    return Schedule(**{**train.model_dump(), **filled})
