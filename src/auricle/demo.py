"""The whole way on a generated corpus: known sounds, known recording devices, known faults.

In: a folder. Out: FOLDER/corpus, FOLDER/run with its report, and which of the planted faults the report names.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auricle import recipes
from auricle.errors import UsageError

if TYPE_CHECKING:
    from auricle.audio.synth import Planted
    from auricle.evaluation.report import Report
    from auricle.training.progress import ProgressReporter

# The file that marks a folder as a demo's.
MARKER = ".auricle-demo"


@dataclass(frozen=True)
class PlantedFaults:
    """How many faults were planted, how many of them the report names, and which it misses."""

    planted: int
    detected: int
    missed: tuple[str, ...]


@dataclass(frozen=True)
class Demo:
    """The report of the demo's run, and how its audit did."""

    report: "Report"
    faults: PlantedFaults


def check_folder(folder: Path) -> None:
    """Raise UsageError for a folder that holds other files than an earlier demo's."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out received '{folder}', which is a file. Name an empty or new folder.")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(f"--out received '{folder}', which holds other files. Name an empty or new folder.")


def demo(folder: Path, reporter: "ProgressReporter", *, seed: int = 0) -> Demo:
    """Generate the corpus, train on it, and compare the faults that the report names with those that were planted."""
    from auricle.audio import synth
    from auricle.training.run import run

    check_folder(folder)
    corpus, out = folder / "corpus", folder / "run"
    for old in (corpus, out):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    reporter.message(f"Generating a small corpus with planted faults in {corpus} …")
    planted = synth.make(corpus, seed=seed)
    report = run(corpus, recipes.load("demo"), out, reporter)
    return Demo(report, compare(planted, report))


def compare(planted: "Planted", report: "Report") -> PlantedFaults:
    """Compare the planted faults with what the report names, clip by clip."""
    named: dict[str, set[str]] = {}
    for fault in (*report.audit.quarantined, *report.audit.warnings):
        named.setdefault(fault.kind, set()).add(fault.id)
    for duplicate in report.audit.duplicates:
        exact = "duplicate" if duplicate.kind == "exact" else "near_duplicate"
        named.setdefault("conflict" if duplicate.conflict else exact, set()).update(duplicate.ids)
    named["mislabelled"] = {clip.id for clip in (*report.suspect_labels, *report.misclassified)}
    missed = tuple(
        f"{kind}: {path}"
        for kind, paths in planted.faults.items()
        for path in paths
        if path not in named.get(kind, set())
    )
    total = sum(len(paths) for paths in planted.faults.values())
    return PlantedFaults(total, total - len(missed), missed)
