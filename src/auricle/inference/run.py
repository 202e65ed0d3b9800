"""The verbs of Python: inspect a corpus, train a classifier, and use the run that training wrote.

Settings are named like the options of the command line. A notebook shows progress, `verbose=True` prints it.
"""

import html
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle import recipes
from auricle.audio.recordings import recordings
from auricle.corpus import split_kinds
from auricle.corpus.read import check_location
from auricle.errors import RunError, UsageError, unknown
from auricle.evaluation import evaluate as evaluation
from auricle.evaluation.compare import METRIC
from auricle.evaluation.evaluate import Evaluation
from auricle.evaluation.report import Report
from auricle.inference import classifier as classifiers
from auricle.inference.classifier import Classifier, Prediction, file_name
from auricle.models import device as devices
from auricle.models import registration
from auricle.models.quiet import quiet_libraries
from auricle.preparation.inspection import Inspection
from auricle.recipe import Recipe
from auricle.recipes import NAMED_SETTINGS
from auricle.run_folder import RunFolder, new_run_folder
from auricle.training import grouping
from auricle.training.probes import choose_recipe
from auricle.training.progress import Epoch, ProgressReporter
from auricle.training.run import check_folder
from auricle.training.run import run as train_run

if TYPE_CHECKING:
    from auricle.training.audition import Audition

# Messages and updates of the progress in a notebook.
_SHOWN_MESSAGES = 6
_MIN_SECONDS = 0.2


@dataclass(frozen=True)
class Run:
    """A finished run, as `train` returns it: open it again with `auricle.Run("runs/first")`. Raises RunError."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not RunFolder(self.path).report.is_file():
            raise RunError(
                f"There is no finished run at '{self.path}': it has no report.json. `auricle.train` writes one; an "
                "interrupted one continues with `resume=True`."
            )

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def report(self) -> Report:
        """The evidence: metrics with intervals, audit, errors."""
        return Report.load(RunFolder(self.path).report)

    @cached_property
    def recipe(self) -> Recipe:
        """Everything that decided the run."""
        return recipes.load(RunFolder(self.path).recipe)

    @cached_property
    def classifier(self) -> Classifier:
        """The trained model, loaded when it is first used."""
        with quiet_libraries():
            return classifiers.load(self.path)

    def predict(self, *files: str | Path) -> list[Prediction]:
        """Classify files, folders, archives or globs, in order; a bad file gets a Prediction with `error`."""
        return list(self.classifier.predict(recordings([file_name(file) for file in files])))

    def evaluate(self, data: str | Path | None = None) -> Evaluation:
        """Measure the model on other labelled recordings, or again on the run's own test clips."""
        return evaluate(self, data)

    def __str__(self) -> str:
        return f"{self.path}: {self.report.verdict}"

    def _repr_html_(self) -> str:
        return self.report.summary_html(RunFolder(self.path).report_page)


def inspect(
    data: str | Path, recipe: str | Path | Recipe = recipes.DEFAULT, *, verbose: bool = False, **settings: Any
) -> Inspection:
    """Report what is in a corpus, what is wrong with it and how it would be split; nothing is trained.

    `settings` are those of `train`. Raises UsageError, DataError.
    """
    resolved = resolve(recipe, settings)
    check_location(data, resolved.data.reader)
    return grouping.inspect(data, resolved, _reporter(verbose).progress)


def train(
    data: str | Path,
    recipe: str | Path | Recipe | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    verbose: bool = False,
    **settings: Any,
) -> Run:
    """Train a classifier and measure it; `out` is the run folder, by default runs/DATA-RECIPE.

    Without a `recipe`, `probe` trains where a cached encoder is better on held-out training clips, else `sound`.

    `settings` change the recipe: by the names of the command line's options (label, group, split, folds, epochs,
    batch_size, learning_rate, checkpoint, seed, corrections …), as `train__crop_seconds=3`, or as
    `train={"crop_seconds": 3}`. `resume` continues an interrupted run in `out`. Raises UsageError, DataError, RunError.
    """
    resolved, reporter = resolve(recipe or recipes.DEFAULT, settings), _reporter(verbose)
    check_location(data, resolved.data.reader)
    if resume and out is None:
        raise UsageError("resume received no run folder. Name the run to continue: out=RUN.")
    folder = None if out is None else Path(out)
    with quiet_libraries(), devices.use(device):
        if recipe is None:
            check_folder(folder, resume)
            alternative = recipes.alternative((), _values(settings))
            resolved = choose_recipe(data, resolved, alternative, reporter, folder if resume else None)
        folder = folder or new_run_folder(data, resolved.name)
        train_run(data, resolved, folder, reporter, resume=resume)
    return Run(folder)


def audition(
    data: str | Path,
    encoders: Sequence[str] = (),
    *,
    clips: int | None = None,
    metric: str = METRIC,
    device: str = "auto",
    verbose: bool = False,
    **settings: Any,
) -> "Audition":
    """Compare frozen encoders on a corpus, and name the one to train with; by default the cached of the catalogue.

    `encoders` are named as a checkpoint is; of a corpus of more than `clips`, by default 3000, a stratified sample is
    used; `metric` decides which is the best. `settings` are those of `train`. Raises UsageError, DataError.
    """
    resolved = resolve("probe", settings)
    check_location(data, resolved.data.reader)
    if isinstance(encoders, str):
        raise UsageError(f"encoders received '{encoders}'. Write a list: encoders=['{encoders}'].")
    # It imports torch, which inspecting does without.
    from auricle.training.audition import audition as compare_encoders

    with quiet_libraries(), devices.use(device):
        return compare_encoders(data, encoders, resolved, _reporter(verbose), max_clips=clips, metric=metric)


def evaluate(run: str | os.PathLike[str], data: str | Path | None = None) -> Evaluation:
    """Measure a run again, or on other labelled recordings. Raises RunError, DataError."""
    with quiet_libraries():
        return evaluation.evaluate(Path(run), None if data is None else str(data), lambda done, total: None)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a finished run folder. Raises RunError for anything else."""
    return Run(Path(folder))


def resolve(recipe: str | Path | Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with settings applied and its family's options checked. Raises UsageError."""
    resolved = recipes.load(recipe, (), _values(settings))
    split_kinds.check_kind(resolved.data)
    registration.parse_options(resolved)
    return resolved


def _values(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings by name or recipe key, as `recipes.load` takes them. Raises UsageError for an unknown one."""
    sections = [name for name in Recipe.model_fields if name != "name"]
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name in NAMED_SETTINGS:
            values[name] = str(value) if isinstance(value, Path) else value
        elif name in sections and isinstance(value, Mapping):
            values |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif "__" in name:
            values[name.replace("__", ".")] = value
        else:
            known = unknown("setting", name, [*NAMED_SETTINGS, *sections])
            raise UsageError(f"{known} Any recipe key works as section__key=value, such as train__crop_seconds=3.")
    return values


def _reporter(verbose: bool) -> ProgressReporter:
    """What shows progress: a bar in a notebook, lines with `verbose`, nothing otherwise."""
    # IPython is asked only where it runs already; a Jupyter kernel's shell has a kernel.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        shown = _NotebookProgress()
        return ProgressReporter(shown.message, shown.progress, shown.epoch)
    return ProgressReporter(print) if verbose else ProgressReporter()


class _NotebookProgress:
    """One output with the latest messages, a bar and the latest epoch; replaced at most a few times a second."""

    def __init__(self) -> None:
        from IPython.display import display

        self._messages: list[str] = []
        self._bar = ""
        self._shown = 0.0
        show: Any = display  # untyped
        self._output: Any = show(self, display_id=True)

    def message(self, text: str) -> None:
        self._messages.append(text)
        self._bar = ""
        self._update()

    def progress(self, done: int, total: int) -> None:
        self._bar = f"<progress value='{done}' max='{total}'></progress> {done} of {total}" if done < total else ""
        if not self._bar or time.monotonic() - self._shown > _MIN_SECONDS:
            self._update()

    def epoch(self, fold: str, epoch: Epoch) -> None:
        """One line for the latest epoch of a fold, under a bar of all its epochs."""
        accuracy = f", validation accuracy {epoch.valid['accuracy']:.3f}" if epoch.valid else ""
        named = f"{html.escape(fold)}: " if fold else ""
        self._bar = (
            f"<progress value='{epoch.epoch}' max='{epoch.epochs}'></progress> "
            f"{named}epoch {epoch.epoch} of {epoch.epochs}, loss {epoch.loss:.3f}{accuracy}"
        )
        self._update()

    def _repr_html_(self) -> str:
        lines = [html.escape(message) for message in self._messages[-_SHOWN_MESSAGES:]]
        return "<br>".join([*lines, self._bar] if self._bar else lines) or "…"

    def _update(self) -> None:
        self._shown = time.monotonic()
        self._output.update(self)
