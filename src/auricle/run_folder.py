"""The run folder: every file that `auricle train` writes, named once, and how a file is written.

In: the folder's path. Out: the path of each file in it. Each of several folds has a folder with the same layout. Every
write is atomic: a file is complete or absent, also after the process was killed.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.errors import RunError


class _Entry:
    """A file or folder of a run by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """A run, or one fold of it, on disk. Nothing is read or written here, and nothing need exist."""

    path: Path

    recipe = _Entry("recipe.yaml")  # resolved
    index = _Entry("index.parquet")  # the clips with their labels, groups and folds
    split = _Entry("split.json")  # which clips train, validate and test in each fold
    audit = _Entry("audit.json")  # what is wrong with the corpus
    model = _Entry("model")  # as `save_pretrained` wrote it
    model_config = _Entry("model/config.json")
    model_card = _Entry("model/README.md")
    report = _Entry("report.json")
    report_page = _Entry("report.html")
    cost = _Entry("cost.json")  # measured times and memory, which differ from run to run
    scores = _Entry("scores.parquet")  # the logits of all test clips
    baseline_scores = _Entry("baseline.parquet")  # the instant baseline's logits of the same clips
    probe_scores = _Entry("probe.parquet")  # the logits of the same clips by a probe of a cached encoder
    suspect_scores = _Entry("suspects.parquet")  # the baseline's out-of-fold logits of all clips, to suspect labels by
    exported = _Entry("onnx")  # the folder that `auricle export` writes
    # Of one fold: its history is one line of JSON an epoch, and `trained` is written last.
    history = _Entry("history.jsonl")
    tracked = _Entry("tracked.json")  # the id of its run in the experiment tracker
    checkpoints = _Entry("checkpoints")
    trained = _Entry("trained.json")
    fold_scores = _Entry("fold-scores.parquet")
    validation_scores = _Entry("fold-validation.parquet")
    center_crop_scores = _Entry("fold-center-crops.parquet")
    out_of_set_scores = _Entry("fold-out-of-set.parquet")

    def fold(self, number: int, name: str) -> "RunFolder":
        """The folder of one fold of several, counted from 1."""
        slug = re.sub(r"[^\w.-]+", "_", name)
        return RunFolder(self.path / "folds" / f"{number:02d}-{slug}")

    def repetition(self, seed: int) -> "RunFolder":
        """The folder of the same split trained from another seed."""
        return RunFolder(self.path / "seeds" / f"{seed:02d}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path for a file or a folder, and move it to `path` when the block ends without an error."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        former = partial.with_suffix(".former")
        if partial.is_dir() and path.exists():
            os.replace(path, former)
        os.replace(partial, path)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def model_folder(folder: Path) -> Path:
    """The model folder inside a run folder, or the folder itself when it is one. Raises RunError for anything else."""
    if not folder.exists():
        raise RunError(f"There is no run folder at '{folder}'. `auricle train` makes one.")
    for candidate in (RunFolder(folder).model, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise RunError(
        f"'{folder}' is neither a run folder (with model/config.json in it) nor a model folder (with config.json). "
        "If its training was interrupted, continue with `auricle train DATA --out RUN --resume`."
    )


def has_model(folder: Path) -> bool:
    """Whether it is a run folder or a model folder, with a model for PyTorch."""
    return any((candidate / "config.json").is_file() for candidate in (RunFolder(folder).model, folder))


def exported_model(folder: Path) -> Path | None:
    """The model.onnx that a run folder or an exported folder holds, None where there is none."""
    candidates = (folder / "model.onnx", RunFolder(folder).exported / "model.onnx")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def check_model(folder: Path, runtime: str = "auto") -> None:
    """Raise RunError for a folder without a model for the runtime: auto, torch or onnx."""
    exported = exported_model(folder)
    if runtime == "onnx" and exported is None:
        raise RunError(f"'{folder}' holds no exported model (model.onnx). `auricle export {folder} --onnx` writes one.")
    if runtime == "torch" or exported is None:
        model_folder(folder)


def new_run_folder(data: str | Path, recipe: str, parent: Path = Path("runs")) -> Path:
    """runs/DATA-RECIPE, or the first of runs/DATA-RECIPE-2, -3 … that does not exist; it is not created."""
    stem = Path(str(data).rstrip("/")).name.partition(".")[0] or "corpus"
    number = 1
    while (folder := parent / (f"{stem}-{recipe}" if number == 1 else f"{stem}-{recipe}-{number}")).exists():
        number += 1
    return folder
