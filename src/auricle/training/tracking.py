"""Experiment trackers: what `Trainer`'s own callbacks do not tell them, at the end of a run.

In: trainings, each in its folder, and at last the report. Out, in the recipe's tracker: a tracked run for each training
(fold, seed, kept model) with its curves, and in that of the kept model the test metrics, the confusion matrix and the
model folder. After folds those metrics are the folds', whose models never heard the clips that they were tested on.
Nothing that can be heard is sent: no report.html.
"""

import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auricle.errors import RunError
from auricle.recipe import Recipe

PROJECT = "auricle"
# What a training's folder is called below its run's: seeds/01, folds/03-name, or both.
_INNER = re.compile(r"(?:/seeds/\d+)?(?:/folds/\d+(?:-[^/]+)?)?$")
_CELL = 12


def run_name(folder: Path) -> str:
    """The name of a training's tracked run: its run folder's, and within that which fold and seed it is."""
    inner = _inner(folder)
    return f"{_root(folder).name}{inner}"


def finish(recipe: Recipe, folder: Path, report: Mapping[str, Any]) -> None:
    """Tell the recipe's tracker the test metrics, the confusion matrix and the model folder of a finished run.

    Raises RunError where the tracker cannot be told; the run folder is complete by then.
    """
    tell = {"wandb": _tell_wandb, "mlflow": _tell_mlflow, "trackio": _tell_trackio, "tensorboard": _tell_tensorboard}
    if recipe.train.report_to != "none":
        tell[recipe.train.report_to](recipe, folder.absolute(), report)


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Every metric on the test clips with its interval and the baseline's, named as trackers group them."""
    found = {}
    for name, figure in report["metrics"].items():
        found[f"test/{name}"] = float(figure["value"])
        found[f"test/{name}_low"] = float(figure["low"])
        found[f"test/{name}_high"] = float(figure["high"])
        found[f"baseline/{name}"] = float(report["baseline"]["metrics"][name]["value"])
    return found


def confusions(report: Mapping[str, Any]) -> list[list[Any]]:
    """The confusion matrix as rows of (true class, said class, clips)."""
    labels = report["labels"]
    return [
        [labels[true], labels[said], int(count)]
        for true, row in enumerate(report["confusion"])
        for said, count in enumerate(row)
    ]


@contextlib.contextmanager
def tracked(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Open a tracked run for the training inside; that of the run's own model stays open for its test metrics."""
    folder = folder.absolute()
    tracker = recipe.train.report_to
    if tracker == "none":
        yield
        return
    if tracker == "wandb":
        _open_wandb(recipe, folder)
    elif tracker == "mlflow":
        _open_mlflow(folder)
    with contextlib.ExitStack() as around:
        if tracker == "tensorboard":
            around.enter_context(_tensorboard_variable(folder))
        elif tracker == "trackio":
            # It talks on standard output, which belongs to the answer of `--json`.
            around.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
    if not _inner(folder):
        return
    if tracker == "wandb":
        import wandb

        wandb.finish()
    elif tracker == "mlflow":
        import mlflow

        mlflow.end_run()


def _open_wandb(recipe: Recipe, folder: Path) -> Any:
    """Begin the training's run, or go on with it; another that is open is ended, since `Trainer` takes what is open."""
    import wandb

    name, known = _noted(folder)
    if wandb.run is not None:
        if wandb.run.id == known:
            return wandb.run
        wandb.finish()
    identity = known or secrets.token_hex(4)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            group=_root(folder).name,
            id=identity,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(_root(folder))),
            config={"recipe": recipe.model_dump()},
        )
    except wandb.errors.Error as error:
        raise RunError(
            f"Weights & Biases cannot be told of this run: {error} Log in with `wandb login`, or set "
            "WANDB_MODE=offline and send it later with `wandb sync`."
        ) from error
    _note(folder, identity)
    return run


def _tell_wandb(recipe: Recipe, folder: Path, report: Mapping[str, Any]) -> None:
    import wandb

    run = _open_wandb(recipe, folder)
    told = figures(report)
    rows = wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=confusions(report))
    fields = {name: name for name in ("Actual", "Predicted", "nPredictions")}
    chart = wandb.plot_table("wandb/confusion_matrix/v1", rows, fields, {"title": "Test clips"})
    run.log({"test/confusion": chart})
    run.summary.update(told)
    artifact = wandb.Artifact(_artifact(folder), type="model", metadata=told)
    artifact.add_dir(str(folder / "model"))
    run.log_artifact(artifact)
    wandb.finish()


def _open_mlflow(folder: Path) -> None:
    """Begin the training's run, or go on with it; the tracking store is the one that MLflow's own settings name."""
    import mlflow

    name, known = _noted(folder)
    active = mlflow.active_run()
    if active is not None and active.info.run_id == known:
        return
    try:
        mlflow.end_run()
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=name)
    except mlflow.exceptions.MlflowException as error:
        raise RunError(
            f"MLflow cannot be told of this run: {error} Its store is named by MLFLOW_TRACKING_URI; "
            "`train.report_to: none` trains without."
        ) from error
    _note(folder, run.info.run_id)


def _tell_mlflow(recipe: Recipe, folder: Path, report: Mapping[str, Any]) -> None:
    import mlflow

    _open_mlflow(folder)
    mlflow.log_metrics(figures(report))
    mlflow.log_dict({"labels": report["labels"], "confusion": report["confusion"]}, "confusion.json")
    mlflow.log_dict(recipe.model_dump(), "recipe.json")
    mlflow.log_artifacts(str(folder / "model"), "model")
    mlflow.end_run()


def _tell_trackio(recipe: Recipe, folder: Path, report: Mapping[str, Any]) -> None:
    """`Trainer` names trackio's runs itself, by the project and run name of its arguments, and ends them."""
    import trackio

    with contextlib.redirect_stdout(sys.stderr):
        trackio.init(
            project=PROJECT,
            name=run_name(folder),
            group=_root(folder).name,
            resume="allow",
            config={"recipe": recipe.model_dump()},
            embed=False,
        )
        rows = trackio.Table(columns=["actual", "predicted", "clips"], data=confusions(report))
        trackio.log({**figures(report), "test/confusion": rows})
        trackio.log_artifact(folder / "model", name=_artifact(folder), type="model")
        trackio.finish()


def _tell_tensorboard(recipe: Recipe, folder: Path, report: Mapping[str, Any]) -> None:
    """TensorBoard keeps no files: it is told where the model lies."""
    from torch.utils.tensorboard import SummaryWriter

    matrix = np.array(report["confusion"], dtype=np.float64)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    head = "| labelled as | " + " | ".join(report["labels"]) + " |"
    lines = [head, "|---" * (len(report["labels"]) + 1) + "|"]
    for label, row in zip(report["labels"], report["confusion"], strict=True):
        lines.append(f"| {label} | " + " | ".join(str(count) for count in row) + " |")
    with SummaryWriter(_tensorboard_folder(folder)) as writer:
        for name, value in figures(report).items():
            writer.add_scalar(name, value, report["cost"]["steps"])
        writer.add_image("test/confusion", np.kron(1 - shares, np.ones((_CELL, _CELL)))[None])
        writer.add_text("test/confusion", "\n".join(lines))
        writer.add_text("model", str(folder / "model"))
        writer.add_text("recipe", f"```\n{json.dumps(recipe.model_dump(), indent=1)}\n```")


@contextlib.contextmanager
def _tensorboard_variable(folder: Path) -> Iterator[None]:
    """Let `Trainer` write its curves where the test metrics will lie; its callback takes the place from there alone."""
    before = os.environ.get("TENSORBOARD_LOGGING_DIR")
    os.environ["TENSORBOARD_LOGGING_DIR"] = _tensorboard_folder(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TENSORBOARD_LOGGING_DIR"]
        else:
            os.environ["TENSORBOARD_LOGGING_DIR"] = before


def _tensorboard_folder(folder: Path) -> str:
    """RUN/tensorboard with a folder for each fold and seed, or the same below what TENSORBOARD_LOGGING_DIR names."""
    asked = os.environ.get("TENSORBOARD_LOGGING_DIR")
    if asked:
        return str(Path(asked) / run_name(folder))
    return str(_root(folder) / "tensorboard" / (_inner(folder).strip("/") or "run"))


def _artifact(folder: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", f"model-{run_name(folder)}")


def _inner(folder: Path) -> str:
    found = _INNER.search(folder.as_posix())
    return found[0] if found else ""


def _root(folder: Path) -> Path:
    """The run folder that a training's folder lies in."""
    path = folder.absolute().as_posix()
    return Path(path.removesuffix(_inner(folder)))


def _noted(folder: Path) -> tuple[str, str | None]:
    """The name of a training's tracked run, and the tracker's own name for it where it was begun before."""
    path = folder / "tracked.json"
    return run_name(folder), json.loads(path.read_text(encoding="utf-8"))["id"] if path.is_file() else None


def _note(folder: Path, identity: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tracked.json").write_text(json.dumps({"id": identity}), encoding="utf-8")
