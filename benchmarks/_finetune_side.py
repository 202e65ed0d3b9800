"""One side of the fine-tuning benchmark, in its own process, so that its memory and threads are its own.

`python -m benchmarks._finetune_side SIDE TASK` reads a SideTask as JSON and prints a SideResult as JSON, its last
line. Imports are not timed. `ours` trains one fold as `auricle train` does, without the baseline and the report, which
the tutorial does not make; it runs first, and `reference` trains on the clips of its split.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from auricle import recipes
from auricle.corpus.splits import Fold
from auricle.errors import AuricleError, DataError
from auricle.models.device import is_bf16
from auricle.models.load import save_model
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.run_folder import RunFolder
from auricle.training.finetune import FineTuning
from auricle.training.fold import FoldData
from auricle.training.progress import Epoch, ProgressReporter
from auricle.training.run import resolve
from benchmarks import _reference_emotion as reference

PARTS = ("train", "valid", "test")
SAVE_STAGE = "save"


@dataclass(frozen=True)
class SideTask:
    """The work of one side. `settings` change the recipe; `parts` are files and classes, empty until they are known."""

    data: str
    checkpoint: str
    scratch: str
    top: int
    settings: tuple[str, ...]
    parts: dict[str, dict[str, list[Any]]]
    reference_bf16: bool = False
    reference_to_waveform: bool = False


@dataclass(frozen=True)
class SideResult:
    """Seconds by stage, the clips of each part and their samples, for counting operations."""

    seconds: dict[str, float]
    steps: int
    accuracy: float
    precision: str
    parts: dict[str, dict[str, list[Any]]]

    @property
    def compared_seconds(self) -> float:
        """Seconds of what both sides do: from the recordings to the trained model, evaluations included."""
        return sum(value for stage, value in self.seconds.items() if stage != SAVE_STAGE)


def ours(task: SideTask) -> SideResult:
    """Prepare and train one fold as `auricle train` does. The stage `evaluate` includes saving checkpoints.

    Raises DataError for a split without validation clips.
    """
    scratch = Path(task.scratch)
    os.environ["AURICLE_CACHE"] = str(scratch / "cache")
    epochs: list[Epoch] = []
    reporter = ProgressReporter(epoch=lambda _, epoch: epochs.append(epoch))
    start = time.perf_counter()
    recipe = resolve(recipes.load("emotion-reference", task.settings))
    prepared = prepare(read(task.data, recipe), recipe, reporter.progress)
    fold = prepared.split.folds[0]
    prepared = replace(prepared, split=replace(prepared.split, folds=(fold,)))
    if not fold.valid:
        raise DataError(
            "The split has no validation clips, which each epoch needs for its evaluation. Use more clips: --clips 120."
        )
    prepared_at = time.perf_counter()
    tuning = FineTuning.prepare(prepared, reporter)
    opened_at = time.perf_counter()
    folder = scratch / "fold"
    folder.mkdir()
    trained = tuning.train(FoldData(prepared, fold, RunFolder(folder), reporter))
    trained_at = time.perf_counter()
    save_model(trained.model, folder / "model")
    frozen = tuning.frozen_seconds
    training = sum(epoch.seconds for epoch in epochs)
    return SideResult(
        seconds={
            "prepare": prepared_at - start,
            "open": opened_at - prepared_at - frozen,
            "frozen layers": frozen,
            "train": training,
            "evaluate": trained_at - opened_at - training,
            SAVE_STAGE: time.perf_counter() - trained_at,
        },
        steps=trained.summary.steps,
        accuracy=epochs[-1].valid["accuracy"],
        precision="bf16" if is_bf16(recipe.train.precision) else "float32",
        parts=parts_of(prepared, fold),
    )


def parts_of(prepared: PreparedCorpus, fold: Fold) -> dict[str, dict[str, list[Any]]]:
    """Each part's files, classes and lengths in samples."""
    sources = {clip.id: clip.source for clip in prepared.usable}
    return {
        name: {
            "paths": [sources[id] for id in ids],
            "labels": prepared.classes(ids).tolist(),
            "samples": [prepared.store.frames(prepared.positions[id]) for id in ids],
        }
        for name, ids in zip(PARTS, (fold.train, fold.valid, fold.test), strict=True)
    }


def theirs(task: SideTask) -> SideResult:
    """Fine-tune as the tutorial does, on the clips and with the hyperparameters of our side."""
    settings = recipes.load("emotion-reference", task.settings).train
    plan = reference.Plan(
        settings.epochs,
        settings.batch_size,
        settings.gradient_accumulation_steps,
        settings.learning_rate,
        task.top,
        task.reference_bf16,
        task.reference_to_waveform,
    )
    train_part, valid_part = (
        reference.Part(task.parts[name]["paths"], task.parts[name]["labels"]) for name in PARTS[:2]
    )
    classes = 1 + max(label for part in task.parts.values() for label in part["labels"])
    result = reference.finetune(Path(task.checkpoint), train_part, valid_part, classes, plan, Path(task.scratch))
    precision = "bf16" if task.reference_bf16 else "float32"
    return SideResult(dict(result.seconds), result.steps, result.accuracy, precision, task.parts)


SIDES = {"ours": ours, "reference": theirs}


def main(side: str, task: str) -> int:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        result = SIDES[side](SideTask(**json.loads(task)))
    except AuricleError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8")))
