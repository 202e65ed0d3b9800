"""The speech-emotion tutorial's fine-tuning as it was written, to be measured against.

In: paths of recordings and class numbers. Out: a model of which the top layers and the head were trained, and the
seconds of each stage. librosa reads each clip in `datasets.map`, whose rows come back as Python lists; batches are
padded to their longest clip; in every epoch all clips go through all layers. Three kindnesses: `map` hands its arrays
to Arrow as they are, nothing is saved during training, and gradients end where training does.
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
    """How long and how fast to train: what both sides of a comparison share, and two ways of the tutorial's side.

    With `to_waveform`, gradients run down to the waveform, as they do in transformers when weights alone are frozen.
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
    """What came of it: seconds of each stage, optimiser steps, and the accuracy of the last epoch."""

    seconds: Mapping[str, float]
    steps: int
    accuracy: float


class PadBatch:
    """The collator: pads to the batch's longest clip, with the mask that the checkpoint's preprocessor asks for."""

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.extractor.pad(
            [{"input_values": row["input_values"]} for row in rows], padding=True, return_tensors="pt"
        )
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def prepare(part: Part, extractor: Any, cache: Path) -> datasets.Dataset:
    """Read every clip at 16 kHz, normalise it, and keep it in an Arrow file."""

    def load(row: Mapping[str, Any]) -> dict[str, Any]:
        samples = librosa.load(row["path"], sr=SAMPLE_RATE)[0]
        return {"input_values": extractor(samples, sampling_rate=SAMPLE_RATE).input_values[0]}

    named = datasets.Dataset.from_dict({"path": list(part.paths), "labels": list(part.labels)})
    return named.map(load, remove_columns=["path"], cache_file_name=str(cache))


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
    """Tells the time of training apart from that of evaluation."""

    def __init__(self) -> None:
        self.training = 0.0
        self._start = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.training += time.perf_counter() - self._start


def finetune(checkpoint: Path, learn: Part, choose: Part, classes: int, plan: Plan, scratch: Path) -> Finetuned:
    """Prepare, train with an evaluation after each epoch, and save the model at the end."""
    datasets.disable_progress_bars()
    start = time.perf_counter()
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    learned = prepare(learn, extractor, scratch / "learn.arrow")
    chosen = prepare(choose, extractor, scratch / "choose.arrow")
    prepared = time.perf_counter()
    clock = EvaluationClock()
    trainer = Trainer(
        model=build(checkpoint, classes, plan),
        args=arguments(plan, scratch / "checkpoints"),
        train_dataset=learned,
        eval_dataset=chosen,
        data_collator=PadBatch(extractor),
        compute_metrics=lambda found: {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))},
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
