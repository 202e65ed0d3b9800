"""Where our training differs from `Trainer`'s: batches, validation, seeds, averaged weights, schedules.

Before each step the global generator is seeded from the run's seed and the step's number: nothing random depends on
what happened before, so a resumed run repeats the steps of one that was never interrupted.
"""

import bisect
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from auricle.models import ranks
from auricle.models.layers.heads import MarginSoftmax
from auricle.preparation.batches import EpochBatches
from auricle.run_folder import RunFolder, write_text
from auricle.training import tracking
from auricle.training.freezing import PartiallyFrozenModel, Stage
from auricle.training.progress import Epoch
from auricle.training.schedule import Schedule, StableDecay
from auricle.training.task import TrainingTask

AVERAGE_FILE = "average.safetensors"
SELECTION_METRIC = "selection_metric"
TIE_WEIGHT = 1e-6


class ProgressCallback(TrainerCallback):
    """Times the epochs and passes each one on, to history.jsonl and to `on_epoch`."""

    def __init__(self, clips: int, epochs: int, path: Path, on_epoch: Callable[[Epoch], None]) -> None:
        self.clips, self.epochs, self.path, self.on_epoch = clips, epochs, path, on_epoch
        self.trained_seconds = 0.0
        self.trained_epochs = 0
        self._began = self._start = time.perf_counter()
        self._first = 0
        self._lines: list[str] = []
        self._logged: dict[str, float] = {}

    @property
    def clips_per_second(self) -> float:
        return self.clips * self.trained_epochs / self.trained_seconds if self.trained_seconds else 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()
        self._first = round(state.epoch or 0)
        if self.path.is_file():
            # The epochs after the checkpoint that training resumes from will run again.
            lines = self.path.read_text(encoding="utf-8").splitlines()
            self._lines = [line for line in lines if json.loads(line)["epoch"] <= self._first]

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" not in logs:
            return
        self._logged = {**logs, "seconds": time.perf_counter() - self._start}
        self.trained_seconds += self._logged["seconds"]
        self.trained_epochs += 1
        if args.eval_strategy == "no":
            self._emit(state, None)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        skipped = (f"eval_{SELECTION_METRIC}", "epoch")
        self._emit(state, {name.removeprefix("eval_"): value for name, value in metrics.items() if name not in skipped})

    def _emit(self, state: TrainerState, valid: dict[str, float] | None) -> None:
        done = round(state.epoch or 0)
        seconds, elapsed = self._logged["seconds"], time.perf_counter() - self._began
        epoch = Epoch(
            epoch=done,
            epochs=self.epochs,
            loss=self._logged["loss"],
            learning_rate=self._logged["learning_rate"],
            valid=valid,
            seconds=seconds,
            clips_per_second=self.clips / seconds,
            seconds_left=elapsed / max(1, done - self._first) * (self.epochs - done),
        )
        self._lines.append(json.dumps(asdict(epoch)))
        write_text(self.path, "".join(f"{line}\n" for line in self._lines))
        self.on_epoch(epoch)


class ModelProgress(TrainerCallback):
    """Gives the model the progress of training: margins rise in its first part, stages begin with their epochs."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.heads = [module for module in model.modules() if isinstance(module, MarginSoftmax)]

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if isinstance(self.model, PartiallyFrozenModel):
            self.model.begin(1 + int(state.epoch or 0))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        for head in self.heads:
            head.progress = state.global_step / max(1, state.max_steps)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for head in self.heads:
            head.progress = 1.0


class WeightAverage(TrainerCallback):
    """The exponential moving average of all floating-point weights and statistics, warmed up over the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {
            name: value.detach().clone() for name, value in model.state_dict().items() if value.is_floating_point()
        }

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **_: Any
    ) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        current = model.state_dict()
        with torch.no_grad():
            for name, value in self.weights.items():
                value.lerp_(current[name].to(value.device), 1 - decay)


class FlatValidation(TrainerCallback):
    """Lets the learning rate fall once validation is flat, and stops where it has fallen to zero.

    All follows from the epochs in the trainer's state, so a resumed training decides as one that was not interrupted.
    """

    def __init__(self, schedule: Callable[[], StableDecay], settings: Schedule, classes: int) -> None:
        self.schedule, self.settings, self.classes = schedule, settings, classes

    def has_ended(self, state: TrainerState, rate: StableDecay | None = None) -> bool:
        """Whether the rate, watched over the epochs so far, has fallen to zero."""
        rate = rate or StableDecay(self.settings, state.max_steps)
        epochs = [line for line in state.log_history if "eval_log_loss" in line]
        losses, scores = ([line[f"eval_{name}"] for line in epochs] for name in ("log_loss", "balanced_accuracy"))
        rate.watch(losses, scores, self.classes)
        return len(epochs) >= rate.decay[1]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop |= self.has_ended(state, self.schedule())


class StartingPoint(TrainerCallback):
    """Makes what training starts from the best model so far; a resumed training knows it already."""

    def __init__(self, goodness: float) -> None:
        self.goodness = goodness

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.best_metric is None:
            state.best_metric = self.goodness


class StopWhenFlat(TrainerCallback):
    """Ends training after so many epochs without a better one than training itself has had.

    What training starts from does not count: a linear head may begin below the probe and pass it while it still gains.
    """

    def __init__(self, patience: int, metric: str) -> None:
        self.patience, self.metric = patience, metric

    def has_ended(self, state: TrainerState) -> bool:
        """Whether none of the last `patience` epochs was better than those before."""
        logged = ({name.removeprefix("eval_"): value for name, value in entry.items()} for entry in state.log_history)
        values = [selection(found, self.metric) for found in logged if self.metric in found]
        return bool(values) and len(values) - 1 - int(np.argmax(values)) >= self.patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop |= self.has_ended(state)


def goodness(metrics: dict[str, float], name: str) -> float:
    """A validation metric, so that more is better."""
    return -metrics[name] if name == "log_loss" else metrics[name]


def selection(metrics: dict[str, float], name: str) -> float:
    """The number that is largest in the best epoch: the metric, and between equals the lower loss."""
    return goodness(metrics, name) - (0.0 if name == "log_loss" else TIE_WEIGHT * metrics["log_loss"])


class AudioTrainer(Trainer):
    """`Trainer` with our batches, schedule and validation."""

    def __init__(
        self,
        args: TrainingArguments,
        task: TrainingTask,
        settings: Schedule,
        folder: RunFolder,
        on_epoch: Callable[[Epoch], None],
    ) -> None:
        model, clips = task.trained_model, task.clips
        self.lr_scheduler: Any
        self.optimizer: Any
        self.control: TrainerControl
        self.settings = settings
        self.task = task
        self.batches = EpochBatches(
            clips.lengths,
            clips.labels,
            args.per_device_train_batch_size,
            settings.seed,
            balanced=settings.class_balance == "sampling",
            part=(ranks.number(), ranks.count()),
        )
        self.progress = ProgressCallback(len(clips), settings.epochs, folder.history, on_epoch)
        self.average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        callbacks: list[Any] = [self.progress, ModelProgress(model)]
        if self.average is not None:
            callbacks.append(self.average)
        if settings.report_to == "tensorboard" and ranks.number() == 0:
            callbacks.append(tracking.tensorboard_callback(folder.path))
        if task.to_beat is not None:
            callbacks.append(StartingPoint(task.to_beat))
        self.early_end: FlatValidation | StopWhenFlat | None = None
        if settings.lr_scheduler_type == "warmup-stable-decay" and task.validation is not None:
            classes = int(clips.labels.max()) + 1
            self.early_end = FlatValidation(lambda: self.lr_scheduler.lr_lambdas[0], settings, classes)
        elif settings.early_stopping_patience is not None and task.validation is not None:
            self.early_end = StopWhenFlat(settings.early_stopping_patience, settings.metric_for_best_model)
        if self.early_end is not None:
            callbacks.append(self.early_end)
        optimizer = None
        if settings.optimizer == "adam":
            optimizer = (torch.optim.Adam, {"lr": settings.learning_rate, "fused": True})
        super().__init__(
            model=model,
            args=args,
            train_dataset=clips,
            eval_dataset=clips if task.validation else None,
            data_collator=task.collate,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=optimizer,
        )
        self.remove_callback(PrinterCallback)
        self._step = -1
        self._part = 0

    def resume(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint if there is one; one at which training ended early is the end again."""
        if checkpoint is not None and self.average is not None:
            self.average.weights = load_file(checkpoint / AVERAGE_FILE)
        if checkpoint is not None and self.early_end is not None:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if self.early_end.has_ended(state):
                self.args.num_train_epochs = round(state.epoch or 0)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.task.collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, *_: Any, **__: Any) -> Any:
        """For a partially frozen model, one group of weights for each scale of the learning rate."""
        if self.optimizer is None and isinstance(self.model, PartiallyFrozenModel):
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = self.model.parameter_groups(
                set(self.get_decay_parameter_names(self.model)), self.args.weight_decay
            )
            for group in groups:
                group["lr"] = options["lr"] * group["scale"]
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer or super().create_optimizer()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            plan = self.model.plan if isinstance(self.model, PartiallyFrozenModel) else None
            stages = plan.stages if plan is not None and plan.is_staged(self.settings.learning_rate) else ()
            self.lr_scheduler = make_schedule(optimizer or self.optimizer, self.settings, num_training_steps, stages)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self._part = self._part + 1 if self._step == self.state.global_step else 0
        self._step = self.state.global_step
        seeds = [self.settings.seed, self._step, self._part, ranks.number()]
        words = np.random.SeedSequence(seeds).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]))
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if ranks.count() > 1:
            if self.accelerator.sync_gradients:
                ranks.sum_gradients([weight for weight in self.model.parameters() if weight.requires_grad])
            ranks.all_reduce(loss)
        return loss

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """The mean loss of a batch's clips; of several ranks this one's share of it, for its part of them."""
        loss = super().compute_loss(model, inputs, *arguments, **named)
        if ranks.count() == 1:
            return loss
        clips = len(inputs["labels"])
        return loss * (clips / float(ranks.all_reduce(torch.tensor(float(clips)))))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate with the averaged weights where there are any."""
        validation = self.task.validation
        assert validation is not None, "Trainer evaluates only when a validation part was given"
        raw = {name: value.clone() for name, value in self.model.state_dict().items()} if self.average else None
        self.use_average()
        found = ranks.broadcast(validation.metrics() if ranks.number() == 0 else None)
        if raw is not None:
            self.model.load_state_dict(raw)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        metrics[f"eval_{SELECTION_METRIC}"] = selection(found, self.settings.metric_for_best_model)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights and, where there is one, their average; trainer_state.json is written after both."""
        super().save_model(output_dir, _internal_call=_internal_call)
        if self.average is not None and self.args.should_save:
            weights = {name: value.contiguous() for name, value in self.average.weights.items()}
            save_file(weights, Path(output_dir or str(self.args.output_dir)) / AVERAGE_FILE)

    def use_average(self) -> None:
        """Put the averaged weights into the model, where there are any."""
        if self.average is not None:
            self.model.load_state_dict(self.average.weights, strict=False)


def make_schedule(
    optimizer: torch.optim.Optimizer, train: Schedule, steps: int, stages: Sequence[Stage] = ()
) -> LRScheduler:
    """Build the recipe's schedule for so many optimiser steps: with warm-up, and from the start again in every stage.

    One-cycle rises and falls linearly and moves the momentum against the rate (Smith, 2018); in stages it is linear
    without its momentum.
    """
    if train.lr_scheduler_type == "one-cycle" and not stages:
        rates, steps = [group["lr"] for group in optimizer.param_groups], max(steps, 2)
        rise = train.warmup_ratio or 1e-3
        if rise * steps == 1:
            # OneCycleLR would divide by the zero steps between the first and the peak.
            rise *= 1.001
        return OneCycleLR(optimizer, max_lr=rates, total_steps=steps, pct_start=rise, anneal_strategy="linear")
    if train.lr_scheduler_type == "warmup-stable-decay" and not stages:
        return LambdaLR(optimizer, StableDecay(train, steps))
    rates = [stage.learning_rate / train.learning_rate for stage in stages] or [1.0]
    starts = [stage.first_epoch - 1 for stage in stages] or [0]
    bounds = [round(steps * start / train.epochs) for start in [*starts, train.epochs]]

    def factor(step: int) -> float:
        stage = min(bisect.bisect_right(bounds, step) - 1, len(rates) - 1)
        # A step has the rate of its own middle, so that even the single step of a short stage has a rate above zero.
        progress = min((step + 0.5 - bounds[stage]) / max(1, bounds[stage + 1] - bounds[stage]), 1.0)
        if progress < train.warmup_ratio:
            return rates[stage] * (progress / train.warmup_ratio)
        rest = (progress - train.warmup_ratio) / (1 - train.warmup_ratio)
        is_cosine = train.lr_scheduler_type == "cosine"
        return rates[stage] * ((1 + math.cos(math.pi * rest)) / 2 if is_cosine else 1 - rest)

    return LambdaLR(optimizer, factor)
