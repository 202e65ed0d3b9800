"""Find the weights of one fold's model with `transformers.Trainer`.

In: a fresh model, training and validation clips, the recipe. Out: the chosen epoch's weights in the model,
checkpoints and history.jsonl in the fold's folder. Every random draw of a step follows from the seed and the step's
number, so a run that was killed and resumed ends in the same weights as one that was not.
"""

import importlib.util
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments

from auricle.errors import MissingExtra, RunError
from auricle.models import precision
from auricle.preparation.batches import EpochBatches, build
from auricle.recipe import Recipe, Train
from auricle.training import tracking
from auricle.training.loop import AVERAGE_FILE, CHOICE, AudioTrainer, Epoch, ProgressCallback
from auricle.training.task import LabelledClips, TrainingTask

CALIBRATION_CLIPS = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What training did. `chosen` is the epoch whose weights were kept, counted from 1; `seconds` is this session's.

    `temperature` is what the logits of the finished model are divided by.
    """

    epochs: int
    chosen: int
    steps: int
    batch_size: int
    accumulation: int
    seconds: float = field(compare=False)
    clips_per_second: float = field(compare=False)
    temperature: float = 1.0


def train(
    model: PreTrainedModel, recipe: Recipe, course: TrainingTask, folder: Path, on_epoch: Callable[[Epoch], None]
) -> Trained:
    """Train the course's learner in place and leave the model with the chosen weights.

    Checkpoints that are whole are taken up again. On out-of-memory the batch halves and the accumulation doubles, so
    the effective batch stays. Raises RunError when a single clip does not fit.
    """
    start = time.perf_counter()
    # The layout that convolutions learn fastest in; the saved weights have the usual one again.
    model.to(memory_format=torch.channels_last)
    batch_size, accumulation = recipe.train.batch_size, recipe.train.gradient_accumulation_steps
    fresh = {name: value.clone() for name, value in course.learner.state_dict().items()}
    while True:
        try:
            trainer = _trainer(model, recipe, course, folder, on_epoch, batch_size, accumulation)
            checkpoint = last_checkpoint(folder / "checkpoints")
            _truncate_history(folder / "history.jsonl", checkpoint)
            if checkpoint and trainer.average is not None:
                trainer.average.load(checkpoint)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            break
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if batch_size == 1:
                raise RunError(
                    "Memory does not suffice for one clip at a time. Set train.crop_seconds lower, or take a smaller "
                    "model."
                ) from error
            batch_size, accumulation = -(-batch_size // 2), accumulation * 2
            _log.warning("Out of memory: going on with batches of %d, accumulated %d times.", batch_size, accumulation)
            course.learner.load_state_dict(fresh)
    chosen = _keep_chosen(trainer, recipe, course.validate is not None)
    # Training in bf16 leaves its cast around the model's forward; from here on it answers as its folder will.
    trainer.accelerator.unwrap_model(course.learner, keep_fp32_wrapper=False)
    model.to(memory_format=torch.contiguous_format)
    return Trained(
        epochs=math.ceil(trainer.state.epoch or 0),
        chosen=chosen,
        steps=trainer.state.global_step,
        batch_size=batch_size,
        accumulation=accumulation,
        seconds=time.perf_counter() - start,
        clips_per_second=trainer.watch.clips_per_second,
    )


def fit_normalization(model: PreTrainedModel, learn: LabelledClips, batch_seconds: float) -> None:
    """Let the front end take its statistics from at most CALIBRATION_CLIPS evenly spaced training clips."""
    places = np.unique(np.linspace(0, len(learn) - 1, min(len(learn), CALIBRATION_CLIPS)).astype(int))
    size = max(1, round(batch_seconds / 8))
    batches = (
        build([learn.sounds.get(int(place)) for place in places[first : first + size]])
        for first in range(0, len(places), size)
    )
    model.fit_normalization(batches)


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Weights inverse to class frequency, 1 on average over the clips: (classes,) float32."""
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. trainer_state.json is written last, so one that can be read vouches for the rest."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(path)
    return None


def _trainer(
    model: PreTrainedModel,
    recipe: Recipe,
    course: TrainingTask,
    folder: Path,
    on_epoch: Callable[[Epoch], None],
    batch_size: int,
    accumulation: int,
) -> AudioTrainer:
    settings = recipe.train
    model.augment = recipe.augment
    model.label_smoothing = settings.label_smoothing_factor
    classes = model.config.num_labels
    model.class_weights = class_weights(course.labels, classes) if settings.class_balance == "loss" else None
    balanced = settings.class_balance == "sampling"
    trainer = AudioTrainer(
        args=_arguments(recipe, folder, batch_size, accumulation, course.validate is not None),
        course=course,
        batches=EpochBatches(course.lengths, course.labels, batch_size, settings.seed, balanced),
        recipe=recipe,
        watch=ProgressCallback(len(course.labels), settings.epochs, folder / "history.jsonl", on_epoch),
    )
    if settings.early_stopping_patience is not None and course.validate is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=settings.early_stopping_patience))
    return trainer


def _arguments(recipe: Recipe, folder: Path, batch_size: int, accumulation: int, validated: bool) -> TrainingArguments:
    settings = recipe.train
    best = validated and settings.load_best_model_at_end
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="epoch" if validated else "no",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        load_best_model_at_end=best,
        metric_for_best_model=CHOICE if validated else None,
        greater_is_better=True,
        bf16=precision.is_bf16(settings.precision),
        seed=settings.seed,
        use_cpu=not torch.accelerator.is_available(),
        report_to=[] if settings.report_to == "none" else [settings.report_to],
        run_name=tracking.run_name(folder),
        project=tracking.PROJECT,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def check_tracker(train: Train) -> None:
    """Raise MissingExtra when the tracker that a recipe names is not installed, before any work is done."""
    if train.report_to != "none" and importlib.util.find_spec(train.report_to) is None:
        raise MissingExtra(f"Tracking with {train.report_to}", "track")


def _keep_chosen(trainer: AudioTrainer, recipe: Recipe, validated: bool) -> int:
    """Leave the model with the weights of the chosen epoch; returns its number, counted from 1."""
    steps_an_epoch = max(1, trainer.state.max_steps // recipe.train.epochs)
    best = trainer.state.best_model_checkpoint if validated and recipe.train.load_best_model_at_end else None
    if best is None:
        trainer.use_average()
        return math.ceil(trainer.state.global_step / steps_an_epoch)
    average = Path(best) / AVERAGE_FILE
    if average.is_file():
        trainer.model.load_state_dict(load_file(average), strict=False)
    return math.ceil((trainer.state.best_global_step or 0) / steps_an_epoch)


def _truncate_history(path: Path, checkpoint: Path | None) -> None:
    """Drop the epochs after the checkpoint that training goes on from: they will be run again."""
    if not path.is_file():
        return
    epoch = 0.0
    if checkpoint is not None:
        epoch = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["epoch"]
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _epoch_of(line) <= round(epoch)]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _epoch_of(line: str) -> float:
    """The epoch of a history line; a line cut off by a kill counts as one to be dropped."""
    try:
        return float(json.loads(line)["epoch"])
    except (json.JSONDecodeError, KeyError):
        return math.inf


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
