"""Experiment trackers: what the callbacks of `Trainer` do not log, at the end of a run.

In: trainings, each in its folder, and finally the Report. Out, in the recipe's tracker: a tracked run for each training
(fold, seed, final model) with its curves, and in that of the final model the test metrics, the confusion matrix and the
model folder. After cross-validation those metrics are the folds', whose models were not trained on their test clips. No
audio is uploaded, so report.html is not.
"""

import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from auricle.errors import RunError
from auricle.evaluation.report import Report
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder, write_json

PROJECT = "auricle"
# A training's folder inside the run folder: seeds/01, folds/03-name, or both.
_SUBFOLDER = re.compile(r"(?:/seeds/\d+)?(?:/folds/\d+(?:-[^/]+)?)?$")
_CELL_PIXELS = 12


def run_name(folder: Path) -> str:
    """The name of a training's tracked run: the run folder's name, with the seed and fold."""
    return f"{_run_folder(folder).name}{_subfolder(folder)}"


def finish(recipe: Recipe, folder: Path, report: Report) -> None:
    """Log the test metrics, the confusion matrix and the model folder of a finished run to the recipe's tracker.

    Raises RunError where the tracker is unavailable; the run folder is complete by then.
    """
    log = {"wandb": _log_wandb, "mlflow": _log_mlflow, "trackio": _log_trackio, "tensorboard": _log_tensorboard}
    if recipe.train.report_to != "none":
        log[recipe.train.report_to](recipe, folder.absolute(), report)


def tracked_metrics(report: Report) -> dict[str, float]:
    """Every metric on the test clips with its interval, and the baseline's, grouped by prefix as trackers expect."""
    values = {}
    for name, metric in report.metrics.items():
        values[f"test/{name}"] = metric.value
        values[f"test/{name}_low"] = metric.low
        values[f"test/{name}_high"] = metric.high
        values[f"baseline/{name}"] = report.baseline.metrics[name].value
        if report.probe is not None:
            values[f"probe/{name}"] = report.probe.metrics[name].value
    return values


def confusion_rows(report: Report) -> list[list[str | int]]:
    """The confusion matrix as rows of (label, predicted class, clips)."""
    return [
        [label, predicted, count]
        for label, row in zip(report.labels, report.confusion_matrix, strict=True)
        for predicted, count in zip(report.labels, row, strict=True)
    ]


@contextlib.contextmanager
def tracked(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Open a tracked run for the training inside; that of the run's own model stays open for its test metrics."""
    folder, tracker = folder.absolute(), recipe.train.report_to
    with contextlib.ExitStack() as around:
        if tracker == "wandb":
            _open_wandb(recipe, folder)
        elif tracker == "mlflow":
            _open_mlflow(folder)
        elif tracker == "trackio":
            # It prints to standard output, which is reserved for the JSON of `--json`.
            around.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
    if _subfolder(folder) and tracker == "wandb":
        import wandb

        wandb.finish()
    elif _subfolder(folder) and tracker == "mlflow":
        import mlflow

        mlflow.end_run()


def _open_wandb(recipe: Recipe, folder: Path) -> Any:
    """Start or resume the training's run; another open run is ended, since `Trainer` logs to the open one."""
    import wandb

    known = _known_run(folder)
    if wandb.run is not None:
        if wandb.run.id == known:
            return wandb.run
        wandb.finish()
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(folder),
            group=_run_folder(folder).name,
            id=known or secrets.token_hex(4),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(_run_folder(folder))),
            config={"recipe": recipe.model_dump()},
        )
    except wandb.errors.Error as error:
        raise RunError(
            f"Weights & Biases is unavailable: {error} Log in with `wandb login`, or set WANDB_MODE=offline and upload "
            "the run later with `wandb sync`."
        ) from error
    write_json(RunFolder(folder).tracked, {"id": run.id})
    return run


def _log_wandb(recipe: Recipe, folder: Path, report: Report) -> None:
    import wandb

    run = _open_wandb(recipe, folder)
    metrics = tracked_metrics(report)
    rows = wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=confusion_rows(report))
    fields = {name: name for name in ("Actual", "Predicted", "nPredictions")}
    chart = wandb.plot_table("wandb/confusion_matrix/v1", rows, fields, {"title": "Test clips"})
    run.log({"test/confusion": chart})
    run.summary.update(metrics)
    artifact = wandb.Artifact(_artifact(folder), type="model", metadata=metrics)
    artifact.add_dir(str(folder / "model"))
    run.log_artifact(artifact)
    wandb.finish()


def _open_mlflow(folder: Path) -> None:
    """Start or resume the training's run in the tracking store that MLflow's own settings name."""
    import mlflow

    known, active = _known_run(folder), mlflow.active_run()
    if active is not None and active.info.run_id == known:
        return
    try:
        mlflow.end_run()
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=run_name(folder))
    except mlflow.exceptions.MlflowException as error:
        raise RunError(
            f"MLflow is unavailable: {error} Its store is set by MLFLOW_TRACKING_URI; `train.report_to: none` trains "
            "without a tracker."
        ) from error
    write_json(RunFolder(folder).tracked, {"id": run.info.run_id})


def _log_mlflow(recipe: Recipe, folder: Path, report: Report) -> None:
    import mlflow

    _open_mlflow(folder)
    mlflow.log_metrics(tracked_metrics(report))
    mlflow.log_dict({"labels": report.labels, "confusion_matrix": report.confusion_matrix}, "confusion.json")
    mlflow.log_dict(recipe.model_dump(), "recipe.json")
    mlflow.log_artifacts(str(folder / "model"), "model")
    mlflow.end_run()


def _log_trackio(recipe: Recipe, folder: Path, report: Report) -> None:
    """Resume the run that `Trainer` started and ended, by the project and run name of its arguments."""
    import trackio

    with contextlib.redirect_stdout(sys.stderr):
        trackio.init(
            project=PROJECT,
            name=run_name(folder),
            group=_run_folder(folder).name,
            resume="allow",
            config={"recipe": recipe.model_dump()},
            embed=False,
        )
        rows = trackio.Table(columns=["actual", "predicted", "clips"], data=confusion_rows(report))
        trackio.log({**tracked_metrics(report), "test/confusion": rows})
        trackio.log_artifact(folder / "model", name=_artifact(folder), type="model")
        trackio.finish()


def _log_tensorboard(recipe: Recipe, folder: Path, report: Report) -> None:
    """TensorBoard stores no files: it gets the path of the model."""
    from torch.utils.tensorboard import SummaryWriter

    matrix = np.array(report.confusion_matrix, dtype=np.float64)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    lines = ["| label | " + " | ".join(report.labels) + " |", "|---" * (len(report.labels) + 1) + "|"]
    for label, row in zip(report.labels, report.confusion_matrix, strict=True):
        lines.append(f"| {label} | " + " | ".join(map(str, row)) + " |")
    with SummaryWriter(_tensorboard_folder(folder)) as writer:
        for name, value in tracked_metrics(report).items():
            writer.add_scalar(name, value, report.training.steps)
        writer.add_image("test/confusion", np.kron(1 - shares, np.ones((_CELL_PIXELS, _CELL_PIXELS)))[None])
        writer.add_text("test/confusion", "\n".join(lines))
        writer.add_text("model", str(folder / "model"))
        writer.add_text("recipe", f"```\n{json.dumps(recipe.model_dump(), indent=1)}\n```")


def tensorboard_callback(folder: Path) -> Any:
    """What writes the curves of a training to the folder of its test metrics."""
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = _tensorboard_folder(folder)
    return callback


def _tensorboard_folder(folder: Path) -> str:
    """RUN/tensorboard with a folder for each fold and seed, or the same inside TENSORBOARD_LOGGING_DIR."""
    if parent := os.environ.get("TENSORBOARD_LOGGING_DIR"):
        return str(Path(parent) / run_name(folder))
    return str(_run_folder(folder) / "tensorboard" / (_subfolder(folder).strip("/") or "run"))


def _artifact(folder: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", f"model-{run_name(folder)}")


def _subfolder(folder: Path) -> str:
    match = _SUBFOLDER.search(folder.as_posix())
    return match[0] if match else ""


def _run_folder(folder: Path) -> Path:
    return Path(folder.absolute().as_posix().removesuffix(_subfolder(folder)))


def _known_run(folder: Path) -> str | None:
    """The id of a training's run in the tracker, where it was started before."""
    path = RunFolder(folder).tracked
    return str(json.loads(path.read_text(encoding="utf-8"))["id"]) if path.is_file() else None
