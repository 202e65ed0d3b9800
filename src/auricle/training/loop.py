"""Where our training differs from `Trainer`'s: its batches, its validation, its seeds, its averaged weights.

Before each step the global generator is seeded from the run's seed and the step's number: nothing random depends on
what happened before, so a resumed run repeats the steps of one that was never interrupted.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from auricle.models.layers.heads import MarginSoftmax
from auricle.preparation.batches import EpochBatches
from auricle.recipe import Recipe
from auricle.training import schedule
from auricle.training.freezing import PartiallyFrozenModel
from auricle.training.progress import Epoch
from auricle.training.task import TrainingTask

AVERAGE_FILE = "average.safetensors"
# The best epoch has the best metric of the recipe, and between equals the lower loss.
SELECTION_METRIC = "selection_metric"
TIE_WEIGHT = 1e-6


class ProgressCallback(TrainerCallback):
    """Times the epochs and passes each one on, to history.jsonl and to `on_epoch`."""

    def __init__(self, clips: int, epochs: int, path: Path, on_epoch: Callable[[Epoch], None]) -> None:
        self.clips = clips
        self.epochs = epochs
        self.path = path
        self.on_epoch = on_epoch
        self.trained_seconds = 0.0
        self.trained_epochs = 0
        self._began = self._start = time.perf_counter()
        self._first = 0
        self._logged: dict[str, float] = {}

    @property
    def clips_per_second(self) -> float:
        return self.clips * self.trained_epochs / self.trained_seconds if self.trained_seconds else 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()
        self._first = round(state.epoch or 0)

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
        elapsed = time.perf_counter() - self._began
        epoch = Epoch(
            epoch=done,
            epochs=self.epochs,
            loss=self._logged["loss"],
            learning_rate=self._logged["learning_rate"],
            valid=valid,
            seconds=self._logged["seconds"],
            clips_per_second=self.clips / self._logged["seconds"],
            seconds_left=elapsed / max(1, done - self._first) * (self.epochs - done),
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")
        self.on_epoch(epoch)


class StageCallback(TrainerCallback):
    """Lets a PartiallyFrozenModel train what the stage of each epoch trains."""

    def __init__(self, model: PartiallyFrozenModel) -> None:
        self.model = model

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.model.begin(1 + int(state.epoch or 0))


class MarginWarmup(TrainerCallback):
    """Gives heads with a margin the progress of training: the margin may rise in its first part."""

    def __init__(self, model: nn.Module) -> None:
        self.heads = [module for module in model.modules() if isinstance(module, MarginSoftmax)]

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

    def load(self, checkpoint: Path) -> None:
        """Load the average from a checkpoint."""
        self.weights = load_file(checkpoint / AVERAGE_FILE)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **_: Any
    ) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        current = model.state_dict()
        with torch.no_grad():
            for name, value in self.weights.items():
                value.lerp_(current[name].to(value.device), 1 - decay)


def _selection_metric(metrics: dict[str, float], name: str) -> float:
    """The number that is largest in the best epoch."""
    if name == "log_loss":
        return -metrics[name]
    return metrics[name] - TIE_WEIGHT * metrics["log_loss"]


class AudioTrainer(Trainer):
    """`Trainer` with our batches, schedule and validation."""

    def __init__(
        self,
        *,
        args: TrainingArguments,
        task: TrainingTask,
        batches: EpochBatches,
        recipe: Recipe,
        progress: ProgressCallback,
    ) -> None:
        optimizer = None
        if recipe.train.optimizer == "adam":
            optimizer = (torch.optim.Adam, {"lr": recipe.train.learning_rate, "fused": True})
        self.lr_scheduler: Any
        self.optimizer: Any
        self.control: TrainerControl
        super().__init__(
            model=task.trained_model,
            args=args,
            train_dataset=task.clips,
            eval_dataset=task.clips if task.validation else None,
            data_collator=task.collate,
            callbacks=[progress],
            optimizer_cls_and_kwargs=optimizer,
        )
        self.remove_callback(PrinterCallback)
        self.progress = progress
        self.batches = batches
        self.settings = recipe.train
        self.task = task
        self.average = WeightAverage(task.trained_model, recipe.train.ema_decay) if recipe.train.ema_decay else None
        if self.average is not None:
            self.add_callback(self.average)
        self.add_callback(MarginWarmup(task.trained_model))
        if isinstance(task.trained_model, PartiallyFrozenModel):
            self.add_callback(StageCallback(task.trained_model))
        self._step = -1
        self._part = 0

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
            optimizer = optimizer or self.optimizer
            plan = self.task.plan
            if plan is not None and plan.is_staged(self.settings.learning_rate):
                starts = [stage.first_epoch - 1 for stage in plan.stages]
                rates = [stage.learning_rate / self.settings.learning_rate for stage in plan.stages]
                self.lr_scheduler = schedule.staged(optimizer, self.settings, num_training_steps, starts, rates)
            else:
                self.lr_scheduler = schedule.make(optimizer, self.settings, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self._part = self._part + 1 if self._step == self.state.global_step else 0
        self._step = self.state.global_step
        words = np.random.SeedSequence(
            [self.settings.seed, self._step, self._part, self.args.process_index]
        ).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]))
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate with the averaged weights where there are any."""
        validation = self.task.validation
        assert validation is not None, "Trainer evaluates only when a validation part was given"
        raw = {name: value.clone() for name, value in self.model.state_dict().items()} if self.average else None
        self.use_average()
        found = validation.metrics()
        if raw is not None:
            self.model.load_state_dict(raw)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        metrics[f"eval_{SELECTION_METRIC}"] = _selection_metric(found, self.settings.metric_for_best_model)
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
