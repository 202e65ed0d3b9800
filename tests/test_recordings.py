"""Real recordings, where AURICLE_DATA names them: layouts, groups, honest figures."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from auricle import recipes
from auricle.corpus.read import read_index
from auricle.training.grouping import inspect
from auricle.training.progress import ProgressReporter
from auricle.training.run import run

pytestmark = pytest.mark.recordings
CORPORA = {"emodb": (535, 7, 10, 0), "fsdd": (3000, 10, 6, 0), "esc10": (400, 10, 304, 5)}


@pytest.mark.parametrize("name", CORPORA)
def test_folder_and_zip_are_recognised_alike(name: str, recordings: Path, tmp_path: Path) -> None:
    archive = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((recordings / name).rglob("*")):
            if path.is_file():
                file.write(path, f"{name}/{path.relative_to(recordings / name)}")
    found = [read_index(place) for place in (recordings / name, archive)]
    clips, classes, groups, folds = CORPORA[name]
    for index in found:
        assert (len(index), len(index.labels)) == (clips, classes)
        assert len({clip.group for clip in index}) == groups
        assert len({clip.fold for clip in index} - {None}) == folds
    assert [(clip.id, clip.label, clip.group) for clip in found[0]] == [
        (clip.id, clip.label, clip.group) for clip in found[1]
    ]
    if name == "emodb":
        audits = [inspect(place, recipes.load("sound"), lambda *_: None) for place in (recordings / name, archive)]
        assert audits[0].audit == audits[1].audit and audits[0].split == audits[1].split
        assert audits[0].audit.usable == 535 and not audits[0].audit.duplicates


@pytest.mark.parametrize(
    ("corpus", "metric", "least", "settings"),
    [
        ("emodb", "balanced_accuracy", 0.78, ("data.split=leave-one-group-out",)),
        ("esc10", "accuracy", 0.89, ()),
        ("fsdd", "accuracy", 0.85, ("data.split=leave-one-group-out",)),
    ],
)
def test_the_baseline_is_as_good_as_promised(
    corpus: str, metric: str, least: float, settings: tuple[str, ...], recordings: Path, tmp_path: Path
) -> None:
    report = run(recordings / corpus, recipes.load("baseline", settings), tmp_path / "run", ProgressReporter())
    assert report.metrics[metric].value >= least
    assert report.split.grouped


@pytest.mark.parametrize(
    ("corpus", "checkpoint", "metric", "least", "settings"),
    [
        ("emodb", "whisper-tiny.en", "balanced_accuracy", 0.86, ("data.split=leave-one-group-out",)),
        ("fsdd", "whisper-tiny.en", "accuracy", 0.97, ("data.split=leave-one-group-out",)),
        ("esc10", "mn04", "accuracy", 0.985, ()),
        ("librispeech10", "mn04", "accuracy", 0.99, ("data.split=folds",)),
    ],
)
def test_a_frozen_encoder_is_as_good_as_promised(
    corpus: str,
    checkpoint: str,
    metric: str,
    least: float,
    settings: tuple[str, ...],
    recordings: Path,
    weights: Path,
    tmp_path: Path,
) -> None:
    recipe = recipes.load("probe", (f"model.checkpoint={weights / checkpoint}", *settings))
    report = run(recordings / corpus, recipe, tmp_path / "run", ProgressReporter())
    assert report.metrics[metric].value >= least


def test_crema_d_is_recognised_with_its_actors(recordings: Path, tmp_path: Path) -> None:
    for name in (recordings / "crema-d" / "filenames.txt").read_text().split():
        (tmp_path / name).touch()
    (tmp_path / "VideoDemographics.csv").write_bytes((recordings / "crema-d" / "VideoDemographics.csv").read_bytes())
    index = read_index(tmp_path)
    assert len(index) == 7442 and len({clip.group for clip in index}) == 91 and len(index.labels) == 6
    assert {"sex", "age", "race", "ethnicity"} <= set(index.clips[0].meta)


def test_fsdds_speakers_are_known_on_its_own_split(recordings: Path, tmp_path: Path) -> None:
    settings = ["data.label=speaker", "data.fold=official_split", "train.epochs=3"]
    report = run(recordings / "fsdd", recipes.load("speaker", settings), tmp_path / "run", ProgressReporter())
    assert report.test_clips == 300 and report.metrics["accuracy"].value >= 0.99


def test_speakers_never_trained_on_are_told_apart_better_than_by_mfcc_statistics(recordings: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "verification", "--json"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    sides = {row["side"]: row for row in map(json.loads, done.stdout.splitlines()) if "side" in row}
    ours, *theirs = sides.values()
    assert len(theirs) == 2 and all(ours["eer"] < side["eer"] for side in theirs)
    assert ours["low"] <= ours["eer"] <= ours["high"]


@pytest.mark.parametrize("strange", ["theo,yweweler", "jackson,nicolas"])
def test_speakers_that_were_held_out_are_told_from_those_that_were_learnt(
    strange: str, recordings: Path, tmp_path: Path
) -> None:
    settings = ["data.label=speaker", f"data.held_out_classes=[{strange}]", "data.split=holdout"]
    report = run(recordings / "fsdd", recipes.load("baseline", settings), tmp_path / "run", ProgressReporter())
    found = report.rejection
    assert found is not None and found.auroc is not None and found.false_rejection_rate is not None
    rate = found.measured_false_accept_rate
    assert rate is not None and rate.low <= found.max_false_accept_rate <= rate.high
    assert found.auroc.value >= 0.95 and found.false_rejection_rate <= 0.05
    assert report.metrics["accuracy"].value >= 0.99
