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


@dataclass(frozen=True)
class RunFolder:
    """A run, or one fold of it, on disk. Nothing is read or written here, and nothing need exist."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, as YAML."""
        return self.path / "recipe.yaml"

    @property
    def index(self) -> Path:
        """The clips with their labels, groups and folds, as Parquet."""
        return self.path / "index.parquet"

    @property
    def split(self) -> Path:
        """Which clips train, validate and test in each fold."""
        return self.path / "split.json"

    @property
    def audit(self) -> Path:
        """What is wrong with the corpus."""
        return self.path / "audit.json"

    @property
    def model(self) -> Path:
        """The model folder, as `save_pretrained` wrote it."""
        return self.path / "model"

    @property
    def model_config(self) -> Path:
        return self.model / "config.json"

    @property
    def model_card(self) -> Path:
        return self.model / "README.md"

    @property
    def report(self) -> Path:
        """The report for programs."""
        return self.path / "report.json"

    @property
    def report_page(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def cost(self) -> Path:
        """Measured times and memory, which differ from run to run."""
        return self.path / "cost.json"

    @property
    def scores(self) -> Path:
        """The logits of all test clips, as Parquet."""
        return self.path / "scores.parquet"

    @property
    def baseline_scores(self) -> Path:
        """The instant baseline's logits of the same test clips."""
        return self.path / "baseline.parquet"

    @property
    def suspect_scores(self) -> Path:
        """The baseline's out-of-fold logits of all clips, by which labels are suspected."""
        return self.path / "suspects.parquet"

    @property
    def history(self) -> Path:
        """One line of JSON for each epoch."""
        return self.path / "history.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def trained(self) -> Path:
        """What training did. Written last: a fold that has it is complete."""
        return self.path / "trained.json"

    @property
    def fold_scores(self) -> Path:
        """This fold's logits of its test clips."""
        return self.path / "fold-scores.parquet"

    @property
    def validation_scores(self) -> Path:
        """This fold's logits of its validation clips."""
        return self.path / "fold-validation.parquet"

    @property
    def center_crop_scores(self) -> Path:
        """This fold's logits of the centers of its test clips, cropped to several durations."""
        return self.path / "fold-center-crops.parquet"

    @property
    def out_of_set_scores(self) -> Path:
        """This fold's logits of clips of held-out classes."""
        return self.path / "fold-out-of-set.parquet"

    @property
    def exported(self) -> Path:
        """The folder that `auricle export` writes."""
        return self.path / "onnx"

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
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
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
