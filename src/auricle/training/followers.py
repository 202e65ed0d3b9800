"""Training in several processes: the first does all that a command does, the others only lend it their gradients.

Each step's batch is divided among them and the gradients are summed, so that the weights are those of one process with
the same batches. The first rank hands over, for every model that it trains, the model and its clips in a Job; all ranks
then run the same `train`. Validation, checkpoints, reports and messages are the first rank's alone.
"""

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auricle.errors import RunError
from auricle.models import ranks
from auricle.models.load import load_model, save_model
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
from auricle.training.fold import Validation
from auricle.training.freezing import PartiallyFrozenModel, Plan
from auricle.training.task import TrainingTask

# Whether the others are in the middle of a training.
_training = False


@dataclass(frozen=True)
class Job:
    """What a rank needs to train as the first does; `labels` and `top_k` are of the validation clips, if any.

    `fixed` are the names of the model's weights that no training changes, which no model folder holds.
    """

    recipe: Recipe
    plan: Plan | None
    fixed: frozenset[str]
    clips: Any
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    labels: np.ndarray | None
    top_k: int
    to_beat: float | None

    def task(self, model: Any) -> TrainingTask:
        """The task, without what only the first rank needs."""
        for name, weight in model.named_parameters():
            weight.requires_grad_(name not in self.fixed)
        trained = model if self.plan is None else PartiallyFrozenModel(model, self.plan)
        validation = None if self.labels is None else Validation(self.labels, self.top_k, _never)
        return TrainingTask(trained, self.clips, self.collate, validation, self.to_beat)


@contextlib.contextmanager
def helped(model: Any, recipe: Recipe, task: TrainingTask, folder: RunFolder) -> Iterator[None]:
    """Within the block, in which this rank trains the model, the others train it, too."""
    global _training
    if ranks.count() == 1 or ranks.number():
        yield
        return
    trained, validation = task.trained_model, task.validation
    plan, fixed = None, frozenset(name for name, weight in model.named_parameters() if not weight.requires_grad)
    if isinstance(trained, PartiallyFrozenModel):
        plan, fixed = trained.plan, frozenset(f"network.{name}" for name in trained.fixed)
    labels, top_k = (None, 1) if validation is None else (validation.labels, validation.top_k)
    job = Job(recipe, plan, fixed, task.clips, task.collate, labels, top_k, task.to_beat)
    shared = folder.path / ".ranks"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    _training = True
    try:
        save_model(model, shared)
        ranks.broadcast((str(shared), job))
        ranks.meet()
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    yield
    _training = False


def follow() -> None:
    """What every rank but the first does: train what it hands over, until it has no more. Raises RunError."""
    from auricle.training.train import train

    ranks.join()
    try:
        while (given := ranks.broadcast()) is not None:
            folder, job = given
            model = load_model(Path(folder), "float32")
            ranks.meet()
            with tempfile.TemporaryDirectory() as scratch:
                train(model, job.recipe, job.task(model), RunFolder(Path(scratch)), lambda _: None)
    finally:
        ranks.leave()


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Meet the other ranks, and let them go after the block. Where one of them ends, the block ends with a RunError."""
    if ranks.started() == 1:
        yield
        return

    def stop(*_: object) -> None:
        raise RunError(
            "This training received the signal to stop, as happens when another process of it ended. Completed epochs "
            "are saved: run the same command again with --resume."
        )

    before = signal.signal(signal.SIGTERM, stop)
    ranks.join()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if not _training:
            # The others wait for a model. In the middle of a training they notice that the connection ends.
            ranks.broadcast()
        ranks.leave()


def _never() -> np.ndarray:
    raise AssertionError("the first rank validates")
