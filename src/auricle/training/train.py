"""Find the weights of one fold's model with `transformers.Trainer`.

In: a fresh model, training and validation clips, the recipe. Out: the chosen epoch's weights in the model,
checkpoints and history.jsonl in the fold's folder. Every random draw of a step follows from the seed and the step's
number, so a run that was killed and resumed ends in the same weights as one that was not.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments

from auricle.errors import RunError
from auricle.models import device
from auricle.preparation.batches import EpochBatches, build
from auricle.preparation.prepare import LabelledClips
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
from auricle.training import tracking
from auricle.training.fold import TrainingSummary
from auricle.training.loop import AVERAGE_FILE, SELECTION_METRIC, AudioTrainer, ProgressCallback
from auricle.training.progress import Epoch
from auricle.training.task import TrainingTask

NORMALIZATION_CLIPS = 1000
_log = logging.getLogger(__name__)


def train(
    model: PreTrainedModel, recipe: Recipe, task: TrainingTask, folder: RunFolder, on_epoch: Callable[[Epoch], None]
) -> TrainingSummary:
    """Train in place and leave the model with the weights of the chosen epoch.

    Training resumes from the newest complete checkpoint. On out-of-memory the batch halves and the accumulation
    doubles, so the effective batch stays. Raises RunError when a single clip does not fit.
    """
    start = time.perf_counter()
    # The memory layout in which convolutions train fastest; the saved weights have the usual one.
    model.to(memory_format=torch.channels_last)
    batch_size, accumulation = recipe.train.batch_size, recipe.train.gradient_accumulation_steps
    initial = {name: value.clone() for name, value in task.trained_model.state_dict().items()}
    while True:
        try:
            trainer = _trainer(model, recipe, task, folder, on_epoch, batch_size, accumulation)
            checkpoint = last_checkpoint(folder.checkpoints)
            _truncate_history(folder.history, checkpoint)
            if checkpoint and trainer.average is not None:
                trainer.average.load(checkpoint)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            break
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise RunError(
                    "There is too little memory for one clip at a time. Set train.crop_seconds lower, or choose a "
                    "smaller model."
                ) from error
            batch_size, accumulation = -(-batch_size // 2), accumulation * 2
            _log.warning("Out of memory: retrying with batches of %d, accumulated %d times.", batch_size, accumulation)
            task.trained_model.load_state_dict(initial)
    chosen_epoch = _load_chosen(trainer, recipe, task.validation is not None)
    # Training in bf16 leaves its cast around the model's forward; from here on it computes as its folder will.
    trainer.accelerator.unwrap_model(task.trained_model, keep_fp32_wrapper=False)
    model.to(memory_format=torch.contiguous_format)
    return TrainingSummary(
        epochs=math.ceil(trainer.state.epoch or 0),
        chosen_epoch=chosen_epoch,
        steps=trainer.state.global_step,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        seconds=time.perf_counter() - start,
        clips_per_second=trainer.progress.clips_per_second,
    )


def fit_normalization(model: PreTrainedModel, clips: LabelledClips, batch_seconds: float) -> None:
    """Fit the front end's statistics to at most NORMALIZATION_CLIPS evenly spaced training clips."""
    positions = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), NORMALIZATION_CLIPS)).astype(int))
    size = max(1, round(batch_seconds / 8))
    batches = (
        build([clips.audio.get(int(position)) for position in positions[first : first + size]])
        for first in range(0, len(positions), size)
    )
    model.fit_normalization(batches)


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Weights inverse to class frequency, 1 on average over the clips: (classes,) float32."""
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint: trainer_state.json is written last. Incomplete ones are deleted."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in newest_first:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(path)
    return None


def _trainer(
    model: PreTrainedModel,
    recipe: Recipe,
    task: TrainingTask,
    folder: RunFolder,
    on_epoch: Callable[[Epoch], None],
    batch_size: int,
    accumulation: int,
) -> AudioTrainer:
    settings = recipe.train
    model.augment = recipe.augment
    model.label_smoothing = settings.label_smoothing_factor
    classes = model.config.num_labels
    model.class_weights = class_weights(task.labels, classes) if settings.class_balance == "loss" else None
    balanced = settings.class_balance == "sampling"
    trainer = AudioTrainer(
        args=_arguments(recipe, folder, batch_size, accumulation, task.validation is not None),
        task=task,
        batches=EpochBatches(task.lengths, task.labels, batch_size, settings.seed, balanced),
        recipe=recipe,
        progress=ProgressCallback(len(task.labels), settings.epochs, folder.history, on_epoch),
    )
    if settings.early_stopping_patience is not None and task.validation is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=settings.early_stopping_patience))
    return trainer


def _arguments(
    recipe: Recipe, folder: RunFolder, batch_size: int, accumulation: int, is_validated: bool
) -> TrainingArguments:
    settings = recipe.train
    on = device.current()
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="epoch" if is_validated else "no",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        load_best_model_at_end=is_validated and settings.load_best_model_at_end,
        metric_for_best_model=SELECTION_METRIC if is_validated else None,
        greater_is_better=True,
        bf16=device.is_bf16(settings.precision),
        seed=settings.seed,
        use_cpu=on.type == "cpu",
        report_to=[] if settings.report_to == "none" else [settings.report_to],
        run_name=tracking.run_name(folder.path),
        project=tracking.PROJECT,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=on.type == "cuda",
    )
    if on.index is not None:
        # Trainer takes every GPU that it sees. One that is named is taken alone.
        torch.cuda.set_device(on)
        arguments._n_gpu = 1
        arguments.__dict__["_setup_devices"] = on
    return arguments


def _load_chosen(trainer: AudioTrainer, recipe: Recipe, is_validated: bool) -> int:
    """Leave the model with the weights of the chosen epoch; returns its number, counted from 1."""
    steps_an_epoch = max(1, trainer.state.max_steps // recipe.train.epochs)
    best = trainer.state.best_model_checkpoint if is_validated and recipe.train.load_best_model_at_end else None
    if best is None:
        trainer.use_average()
        return math.ceil(trainer.state.global_step / steps_an_epoch)
    average = Path(best) / AVERAGE_FILE
    if average.is_file():
        trainer.model.load_state_dict(load_file(average), strict=False)
    return math.ceil((trainer.state.best_global_step or 0) / steps_an_epoch)


def _truncate_history(path: Path, checkpoint: Path | None) -> None:
    """Drop the epochs after the checkpoint that training resumes from: they will run again."""
    if not path.is_file():
        return
    epoch = 0.0
    if checkpoint is not None:
        epoch = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["epoch"]
    lines = path.read_text(encoding="utf-8").splitlines()
    complete = [line for line in lines if _epoch_of(line) <= round(epoch)]
    path.write_text("".join(f"{line}\n" for line in complete), encoding="utf-8")


def _epoch_of(line: str) -> float:
    """The epoch of a line of history; a line that a kill cut off counts as one to drop."""
    try:
        return float(json.loads(line)["epoch"])
    except (json.JSONDecodeError, KeyError):
        return math.inf


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
