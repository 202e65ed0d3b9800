"""The whole way on a corpus made on the spot: known sounds, known recording devices, known faults.

In: a folder. Out: FOLDER/corpus, FOLDER/run with its report, and word of which planted faults the report names.
"""

import shutil
from pathlib import Path
from typing import Any

from auricle import recipe as recipes
from auricle.audio import synth
from auricle.errors import UsageError
from auricle.training.progress import ProgressReporter
from auricle.training.run import run


def demo(folder: Path, reporter: ProgressReporter, *, seed: int = 0) -> dict[str, Any]:
    """Synthesise, train, judge; the report gains `planted`: how many planted faults it names, and which it misses."""
    corpus, out = folder / "corpus", folder / "run"
    marker = folder / ".auricle-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.is_file():
        raise UsageError(f"'{folder}' holds other files. Name an empty or new folder with --out.")
    for old in (corpus, out):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    reporter.message(f"Making a small corpus with planted faults in {corpus} …")
    planted = synth.make(corpus, seed=seed)
    report = run(corpus, recipes.load("demo"), out, reporter)
    return {**report, "planted": compare(planted, report)}


def compare(planted: synth.Planted, report: dict[str, Any]) -> dict[str, Any]:
    """Hold the planted faults against what the report names, clip by clip."""
    audit = report["audit"]
    named: dict[str, set[str]] = {"duplicate": set(), "near_duplicate": set(), "conflict": set(), "mislabelled": set()}
    for fault in (*audit["quarantined"], *audit["warnings"]):
        named.setdefault(fault["kind"], set()).add(fault["id"])
    for duplicate in audit["duplicates"]:
        kind = (
            "conflict" if duplicate["conflict"] else "duplicate" if duplicate["kind"] == "exact" else "near_duplicate"
        )
        named[kind].update(duplicate["ids"])
    named["mislabelled"].update(row["id"] for row in (*report["doubted"], *report["mistakes"]))
    missed = [
        f"{kind}: {path}"
        for kind, paths in planted.faults.items()
        for path in paths
        if path not in named.get(kind, set())
    ]
    total = sum(len(paths) for paths in planted.faults.values())
    return {"planted": total, "found": total - len(missed), "missed": missed}
