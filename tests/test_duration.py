"""Accuracy by duration: center crops, compared with the same clips in full."""

from pathlib import Path

import numpy as np
import pytest

from auricle import recipes
from auricle.evaluation import duration
from auricle.evaluation.evaluate import evaluate
from auricle.evaluation.scoring import Scores
from auricle.preparation.windows import AudioSource, from_arrays
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import write_corpus
from tests.test_run import small


def full(seconds: list[float], right: list[bool], folds: int = 1) -> Scores:
    count = len(seconds)
    return Scores(
        ("a", "b"),
        tuple(f"{number}.wav" for number in range(count)),
        ("a",) * count,
        np.where(np.array(right)[:, None], [2.0, 0.0], [0.0, 2.0]).astype(np.float32),
        np.array(seconds),
        (None,) * count,
        tuple(str(number * folds // count) for number in range(count)),
    )


def counting(seconds: list[float], rate: int) -> AudioSource:
    return from_arrays([np.arange(round(length * rate), dtype=np.int16)[None] for length in seconds])


def test_a_crop_is_the_center_of_its_clip() -> None:
    sounds = duration.crop_centers(counting([1.0, 0.5, 0.9], 100), [0, 2], 40)
    assert list(sounds.lengths) == [40, 40]
    assert sounds.get(0)[0, 0] == 30 and sounds.get(0)[0, -1] == 69
    assert sounds.get(1)[0, 0] == 25 and sounds.get(1).shape == (1, 40)


def test_only_longer_clips_are_cropped_and_few_of_many_evenly() -> None:
    assert duration.longer_clips(np.array([3, 5, 4, 6]), 4) == [1, 3]
    assert duration.longer_clips(np.arange(1000), 99, most=10) == [100 + 899 * number // 9 for number in range(10)]
    assert duration.longer_clips(np.array([3, 4]), 4) == []


def test_each_row_has_the_crops_and_the_same_clips_in_full() -> None:
    lengths = [0.5, 1.5, 1.5, 3.0, 3.0, 9.0]
    clips = full(lengths, [False, True, False, True, True, True], folds=2)
    scored = []

    def score(sounds: AudioSource) -> np.ndarray:
        scored.append(list(sounds.lengths))
        return np.tile(np.array([[1.0, 0.0]], np.float32), (len(sounds), 1))

    cut = duration.center_crops(clips, counting(lengths, 100), 100, score)
    assert scored == [[100] * 5, [200] * 3, [400], [800]]
    rows = duration.accuracy_by_duration(cut, clips, 2)
    assert [(row.seconds, row.clips, row.accuracy.value) for row in rows] == [(1.0, 5, 1.0), (2.0, 3, 1.0)]
    assert [row.full_clips.value for row in rows] == [0.8, 1.0]
    assert rows[0].full_clips.low <= 0.8 <= rows[0].full_clips.high


def test_clips_too_short_to_crop_give_no_row(tmp_path: Path) -> None:
    clips = full([0.5, 0.7], [True, True])
    cut = duration.center_crops(clips, counting([0.5, 0.7], 100), 100, lambda sounds: np.zeros((len(sounds), 2)))
    cut.save(tmp_path / "none.parquet")
    back = Scores.load(tmp_path / "none.parquet")
    assert len(back) == 0 and duration.accuracy_by_duration(back, clips, 1) == ()


def test_durations_outside_training_give_a_caution() -> None:
    clips = full([0.5] * 2 + [2.0] * 88 + [9.0] * 10, [True] * 100)
    assert duration.trained_range(np.array([1.0, 4.0, 9.0]), 3.0) == (1.0, 3.0)
    assert duration.trained_range(np.array([1.0, 4.0, 9.0]), None) == (1.0, 9.0)
    assert duration.shares_outside(clips, {"0": (1.0, 3.0)}, None) == (0.02, 0.1)
    (line,) = duration.cautions(clips, {"0": (1.0, 3.0)}, None)
    assert line.startswith("10 % of the test clips are longer") and "3.0 s at most" in line
    # With windows no input is longer than one of them, and two per cent are not worth a caution.
    assert duration.cautions(clips, {"0": (1.0, 3.0)}, 3.0) == []
    (line,) = duration.cautions(clips, {"0": (2.5, 20.0)}, None)
    assert line.startswith("90 % of the test clips are shorter")


@pytest.mark.parametrize("family", ["baseline", "cnn"])
def test_a_run_measures_it_once_and_a_resumed_one_has_it_too(family: str, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", seconds=2.2)
    recipe = small(evaluate={"min_slice_clips": 3}, train={"epochs": 1, "crop_seconds": 1.0})
    if family == "baseline":
        recipe = recipes.load("baseline", ["evaluate.min_slice_clips=3"])
    report = run(folder, recipe, tmp_path / "run", ProgressReporter())
    rows = report.accuracy_by_duration
    assert [row.seconds for row in rows] == [1.0, 2.0] and all(row.clips == report.test_clips for row in rows)
    assert {row.full_clips.value for row in rows} == {report.metrics["accuracy"].value}
    assert "Accuracy by duration" in (tmp_path / "run" / "report.html").read_text()
    longer = any("longer than any training input" in caution for caution in report.cautions)
    assert longer is (family == "cnn")
    assert run(folder, recipe, tmp_path / "run", ProgressReporter(), resume=True) == report
    assert evaluate(tmp_path / "run", None, lambda *_: None).accuracy_by_duration == rows
    others = evaluate(tmp_path / "run", str(folder), lambda *_: None)
    assert [row.seconds for row in others.accuracy_by_duration] == [1.0, 2.0]
