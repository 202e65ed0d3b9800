"""The speech-emotion tutorial's fine-tuning as it was written: the reference of the benchmark `finetune`.

In: paths of recordings and class indices. Out: a model with fine-tuned top layers and head, and the seconds of each
stage. librosa reads each clip in `datasets.map`, whose rows come back as Python lists; batches are
padded to their longest clip; in every epoch all clips go through all layers. Three simplifications make it faster than
the original: `map` passes arrays to Arrow as they are, nothing is saved during training, and backpropagation stops at
the lowest trained layer.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import librosa
import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Plan:
    """The hyperparameters that both sides share, and two variants of the tutorial.

    With `to_waveform`, gradients flow back to the waveform, as in transformers when only weights are frozen.
    """

    epochs: int
    batch_size: int
    accumulation: int
    learning_rate: float
    top: int
    bf16: bool = False
    to_waveform: bool = False


@dataclass(frozen=True)
class Part:
    """Clips and the class of each."""

    paths: Sequence[str]
    labels: Sequence[int]


@dataclass(frozen=True)
class Finetuned:
    """The seconds of each stage, the optimiser steps, and the accuracy of the last epoch."""

    seconds: Mapping[str, float]
    steps: int
    accuracy: float


class PadBatch:
    """The collator: pads to the batch's longest clip, with the mask that the checkpoint's preprocessor specifies."""

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.extractor.pad(
            [{"input_values": row["input_values"]} for row in rows], padding=True, return_tensors="pt"
        )
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def prepare(part: Part, extractor: Any, cache: Path) -> datasets.Dataset:
    """Read every clip at 16 kHz, normalise it, and write it to an Arrow file."""

    def load(row: Mapping[str, Any]) -> dict[str, Any]:
        samples = librosa.load(row["path"], sr=SAMPLE_RATE)[0]
        return {"input_values": extractor(samples, sampling_rate=SAMPLE_RATE).input_values[0]}

    rows = datasets.Dataset.from_dict({"path": list(part.paths), "labels": list(part.labels)})
    return rows.map(load, remove_columns=["path"], cache_file_name=str(cache))


def build(checkpoint: Path, classes: int, plan: Plan) -> PreTrainedModel:
    """Open a HuBERT-like checkpoint with a new head, and freeze all below its top layers."""
    model: PreTrainedModel = AutoModelForAudioClassification.from_pretrained(checkpoint, num_labels=classes)
    if not plan.to_waveform:
        model.freeze_feature_encoder()
    for weight in model.base_model.parameters():
        weight.requires_grad = False
    for layer in model.base_model.encoder.layers[-plan.top :]:
        for weight in layer.parameters():
            weight.requires_grad = True
    return model


class EvaluationClock(TrainerCallback):
    """Separates training time from evaluation time."""

    def __init__(self) -> None:
        self.training = 0.0
        self._start = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.training += time.perf_counter() - self._start


def finetune(
    checkpoint: Path, train_part: Part, valid_part: Part, classes: int, plan: Plan, scratch: Path
) -> Finetuned:
    """Prepare, train with an evaluation after each epoch, and save the model at the end."""
    datasets.disable_progress_bars()
    start = time.perf_counter()
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    train_data = prepare(train_part, extractor, scratch / "train.arrow")
    valid_data = prepare(valid_part, extractor, scratch / "valid.arrow")
    prepared = time.perf_counter()
    clock = EvaluationClock()
    trainer = Trainer(
        model=build(checkpoint, classes, plan),
        args=arguments(plan, scratch / "checkpoints"),
        train_dataset=train_data,
        eval_dataset=valid_data,
        data_collator=PadBatch(extractor),
        compute_metrics=lambda result: {"accuracy": float(np.mean(result.predictions.argmax(-1) == result.label_ids))},
        callbacks=[clock],
    )
    opened = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    trainer.save_model(str(scratch / "model"))
    saved = time.perf_counter()
    return Finetuned(
        seconds={
            "prepare": prepared - start,
            "open": opened - prepared,
            "train": clock.training,
            "evaluate": trained - opened - clock.training,
            "save": saved - trained,
        },
        steps=trainer.state.global_step,
        accuracy=next(line["eval_accuracy"] for line in reversed(trainer.state.log_history) if "eval_accuracy" in line),
    )


def arguments(plan: Plan, folder: Path) -> TrainingArguments:
    """The tutorial's settings, with the plan's numbers."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=plan.learning_rate,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        bf16=plan.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
