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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, TrainingArguments

from auricle.errors import RunError
from auricle.evaluation import scoring
from auricle.models import device, ranks, registration
from auricle.models.layers.front_end import LogMel
from auricle.models.load import build_model
from auricle.models.runtime import ModelInfo
from auricle.models.torch_runtime import device_of
from auricle.parallel import reuse_freed_memory
from auricle.preparation.batches import build
from auricle.preparation.prepare import LabelledClips, PreparedCorpus
from auricle.preparation.windows import by_length, cut_clips
from auricle.recipe import Augment, Recipe
from auricle.run_folder import RunFolder
from auricle.training import followers, tracking
from auricle.training.closed_form import fit
from auricle.training.embeddings import embed_clips
from auricle.training.fold import FoldData, FoldTrainer, TrainedFold, TrainingSummary, calibrate
from auricle.training.frozen_features import ClipView, CropPlan, FrozenFeatures, log_mel_part, padded
from auricle.training.loop import AVERAGE_FILE, SELECTION_METRIC, AudioTrainer
from auricle.training.progress import Epoch, ProgressReporter
from auricle.training.schedule import FROM_NOISE, FROM_PROBE, Schedule, schedule
from auricle.training.task import TrainingTask, frozen_feature_task, waveform_task

NORMALIZATION_CLIPS = 1000
_log = logging.getLogger(__name__)


def gradient_trainer(corpus: PreparedCorpus, reporter: ProgressReporter) -> FoldTrainer:
    """Train a fresh network on each fold, all weights by gradient, from log-mel that all folds share; its ensemble
    member is fitted last, to embeddings that they share, too.
    """
    member = build_model(corpus.recipe, corpus.labels).ensemble_member
    ids = needed_ids(corpus)
    positions = {id: number for number, id in enumerate(ids)}
    features = log_mel_features(corpus, ids, reporter)
    embeddings = embed_clips(corpus, member) if member is not None else None

    def train_network(data: FoldData) -> TrainedFold:
        recipe, fold = data.recipe, data.fold
        model = build_model(recipe, data.corpus.labels)
        with tracking.tracked(recipe, data.folder.path):
            task = waveform_task(model, recipe, data.train, data.validation)
            if features is None:
                fit_normalization(model, data.train, recipe.evaluate.batch_seconds)
                used = task
            else:
                learnt, validated = ([positions[id] for id in part] for part in (fold.train, fold.valid))
                fit_normalization_to_rows(model, features, learnt)
                parts = ((learnt, task.clips.labels), (validated, data.validation.labels))
                used = frozen_feature_task(model, recipe, None, features, *parts)
            summary = train(model, recipe, used, data.folder, data.report_epoch)
        if embeddings is not None and task.validation is not None:
            # The temperature needs a member that was not fitted to the validation clips; the final one is.
            fit(model.fit_ensemble_member, embeddings, data.corpus, fold.train)
        trained = calibrate(data, model, summary, task.validation)
        if embeddings is not None:
            fit(model.fit_ensemble_member, embeddings, data.corpus, (*fold.train, *fold.valid))
        return trained

    return train_network


def train(
    model: PreTrainedModel, recipe: Recipe, task: TrainingTask, folder: RunFolder, on_epoch: Callable[[Epoch], None]
) -> TrainingSummary:
    """Train in place and leave the model with the weights of the chosen epoch.

    Training resumes from the newest complete checkpoint. On out-of-memory the batch halves and the accumulation
    doubles, so the effective batch stays. Raises RunError when a single clip does not fit. Of several ranks each trains
    on its part of every batch.
    """
    with followers.helped(model, recipe, task, folder):
        return _train(model, recipe, task, folder, on_epoch)


def _train(
    model: PreTrainedModel, recipe: Recipe, task: TrainingTask, folder: RunFolder, on_epoch: Callable[[Epoch], None]
) -> TrainingSummary:
    start = time.perf_counter()
    # Every step allocates the same large tensors.
    reuse_freed_memory()
    is_fine_tuned = registration.family(recipe.model.family).TRAINING == "fine_tuning"
    settings = schedule(recipe.train, len(task.clips), FROM_PROBE if is_fine_tuned else FROM_NOISE)
    # The memory layout in which convolutions train fastest; the saved weights have the usual one.
    model.to(memory_format=torch.channels_last)
    batch_size, accumulation = settings.batch_size, settings.gradient_accumulation_steps
    model.augment = recipe.augment
    model.label_smoothing = recipe.train.label_smoothing_factor
    is_weighted = recipe.train.class_balance == "loss"
    model.class_weights = class_weights(task.clips.labels, model.config.num_labels) if is_weighted else None
    initial = {name: value.clone() for name, value in task.trained_model.state_dict().items()}
    while True:
        try:
            arguments = _arguments(settings, folder, batch_size, accumulation, task.validation is not None)
            trainer = AudioTrainer(arguments, task, settings, folder, on_epoch)
            checkpoint = last_checkpoint(folder.checkpoints) if ranks.number() == 0 else None
            trainer.resume(ranks.broadcast(checkpoint))
            break
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if ranks.count() > 1:
                raise RunError(
                    f"A part of {-(-batch_size // ranks.count())} clips does not fit into memory. Choose a smaller "
                    "--batch-size, or more processes."
                ) from error
            if batch_size == 1:
                raise RunError(
                    "There is too little memory for one clip at a time. Set train.crop_seconds lower, or choose a "
                    "smaller model."
                ) from error
            batch_size, accumulation = -(-batch_size // 2), accumulation * 2
            _log.warning("Out of memory: retrying with batches of %d, accumulated %d times.", batch_size, accumulation)
            task.trained_model.load_state_dict(initial)
    chosen_epoch = _load_chosen(trainer)
    if chosen_epoch == 0:
        task.trained_model.load_state_dict(initial)
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
    positions = _evenly_spaced(len(clips))
    windows = cut_clips(clips.audio.lengths[positions], None)
    batches = by_length(windows, ModelInfo.of_model(model).batch_samples(batch_seconds))
    values = (build([clips.audio.get(int(positions[one.clip])) for one in batch]) for batch in batches)
    on = device_of(model)
    model.fit_normalization((audio.to(on), None if mask is None else mask.to(on)) for audio, mask in values)


def fit_normalization_to_rows(model: PreTrainedModel, features: FrozenFeatures, clips: Sequence[int]) -> None:
    """The same from the log-mel of clips, by their positions in the features."""
    chosen = [clips[position] for position in _evenly_spaced(len(clips))]
    rows = (features.read(ClipView(clip, 0, int(features.lengths[clip]))) for clip in chosen)
    batches = (padded([view], device_of(model)) for view in rows)
    model.fit_normalization_to_rows((batch["rows"], batch["frames"]) for batch in batches)


def log_mel_features(corpus: PreparedCorpus, ids: Sequence[str], reporter: ProgressReporter) -> FrozenFeatures | None:
    """The log-mel of these clips; None, with a message, where it has to be computed in every step."""
    model, audio = build_model(corpus.recipe, corpus.labels).eval(), corpus.audio(ids)
    if not isinstance(model.front_end, LogMel):
        return None
    if corpus.recipe.augment.noise_fraction:
        reporter.message("Log-mel is computed in every step, because augment.noise_fraction changes waveforms.")
        return None
    features = FrozenFeatures(
        log_mel_part(model.front_end),
        audio.lengths,
        scoring.windows_of(model.config, audio.lengths),
        range(len(ids)),
        CropPlan(None, Augment(), 1, 0),
        folder=corpus.store.folder,
        identity=" ".join([corpus.store.folder.name, *ids]),
    )
    size = f"{math.ceil(features.bytes / 1e6):,} MB"
    if not features.fits_on_disk():
        reporter.message(f"Log-mel is computed in every step: caching it takes {size}, and the disk has less free.")
        return None
    reporter.message(f"Log-mel is computed once for {len(ids)} clips: {size} in {features.folder}.")
    features.compute(audio, reporter.progress)
    return features


def needed_ids(corpus: PreparedCorpus) -> list[str]:
    """The clips that the folds train on or validate with, and of several folds all."""
    folds = corpus.split.folds
    needed = {*folds[0].train, *folds[0].valid} if len(folds) == 1 else None
    return [clip.id for clip in corpus.usable if needed is None or clip.id in needed]


def _evenly_spaced(clips: int) -> np.ndarray:
    return np.unique(np.linspace(0, clips - 1, min(clips, NORMALIZATION_CLIPS)).astype(int))


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


def _arguments(
    settings: Schedule, folder: RunFolder, batch_size: int, accumulation: int, is_validated: bool
) -> TrainingArguments:
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
        save_strategy="epoch" if ranks.number() == 0 else "no",
        save_total_limit=2,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        load_best_model_at_end=is_validated and settings.load_best_model_at_end and ranks.number() == 0,
        metric_for_best_model=SELECTION_METRIC if is_validated else None,
        greater_is_better=True,
        bf16=device.is_bf16(settings.precision),
        seed=settings.seed,
        use_cpu=on.type == "cpu",
        report_to=[] if settings.report_to in ("none", "tensorboard") or ranks.number() else [settings.report_to],
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


def _load_chosen(trainer: AudioTrainer) -> int:
    """Leave the model with the weights of the chosen epoch; returns its number, 0 where none beat the start."""
    steps_an_epoch = max(1, round(trainer.state.global_step / (trainer.state.epoch or 1)))
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    if best is None and trainer.task.to_beat is not None:
        return 0
    if best is None:
        trainer.use_average()
        return math.ceil(trainer.state.global_step / steps_an_epoch)
    average = Path(best) / AVERAGE_FILE
    if average.is_file():
        trainer.model.load_state_dict(load_file(average), strict=False)
    return math.ceil((trainer.state.best_global_step or 0) / steps_an_epoch)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
