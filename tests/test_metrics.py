"""Metrics against scikit-learn, intervals against what is known of them."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as judge_of

from auricle.evaluation import error_analysis, intervals, metrics
from auricle.evaluation.scoring import Scores, softmax

RANDOM = np.random.default_rng(0)


def scores(clips: int = 200, classes: int = 5, skill: float = 1.5, groups: int = 0) -> Scores:
    truth = RANDOM.integers(classes, size=clips)
    logits = RANDOM.normal(size=(clips, classes))
    logits[np.arange(clips), truth] += skill
    named = tuple(f"g{number % groups}" for number in range(clips)) if groups else (None,) * clips
    labels = tuple("abcdefgh"[:classes])
    ids = tuple(f"{number}.wav" for number in range(clips))
    return Scores(labels, ids, truth, logits.astype(np.float32), RANDOM.uniform(1, 9, clips), named, ("1",) * clips)


def test_headline_metrics_are_those_of_scikit_learn() -> None:
    found = scores()
    measured = metrics.measure(metrics.judge(found.truth, found.logits, top_k=2))
    probabilities = softmax(found.logits)
    assert measured["accuracy"] == pytest.approx(judge_of.accuracy_score(found.truth, found.predicted))
    assert measured["balanced_accuracy"] == pytest.approx(
        judge_of.balanced_accuracy_score(found.truth, found.predicted)
    )
    assert measured["macro_f1"] == pytest.approx(judge_of.f1_score(found.truth, found.predicted, average="macro"))
    assert measured["log_loss"] == pytest.approx(judge_of.log_loss(found.truth, probabilities))
    assert measured["top_2_accuracy"] == pytest.approx(
        judge_of.top_k_accuracy_score(found.truth, probabilities, k=2, labels=range(5))
    )


def test_classes_that_never_occur_do_not_count_as_scikit_learn_has_it() -> None:
    truth = np.array([0, 0, 1, 1])
    logits = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    measured = metrics.measure(metrics.judge(truth, logits))
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert measured["balanced_accuracy"] == pytest.approx(judge_of.balanced_accuracy_score(truth, predicted))
    assert measured["macro_f1"] == pytest.approx(judge_of.f1_score(truth, predicted, average="macro", zero_division=0))


def test_weights_count_a_clip_several_times() -> None:
    found = scores(clips=50)
    judged = metrics.judge(found.truth, found.logits)
    weight = RANDOM.integers(0, 4, 50).astype(float)
    rows = np.repeat(np.arange(50), weight.astype(int))
    repeated = metrics.judge(found.truth[rows], found.logits[rows])
    assert metrics.measure(judged, weight) == pytest.approx(metrics.measure(repeated))


def test_per_class_rows_and_confusion_are_those_of_scikit_learn() -> None:
    found = scores()
    rows = metrics.per_class(found)
    precision, recall, f1, support = judge_of.precision_recall_fscore_support(found.truth, found.predicted)
    assert [row.precision for row in rows] == pytest.approx(list(precision))
    assert [row.recall for row in rows] == pytest.approx(list(recall))
    assert [row.f1 for row in rows] == pytest.approx(list(f1))
    assert [row.clips for row in rows] == list(support)
    assert (metrics.confusion(found) == judge_of.confusion_matrix(found.truth, found.predicted)).all()


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has() -> None:
    truth = np.array([0] * 80 + [1] * 20)
    honest = np.tile(np.log([0.8, 0.2]), (100, 1))
    sure = np.tile(np.log([0.99, 0.01]), (100, 1))
    assert metrics.measure(metrics.judge(truth, honest))["calibration_error"] == pytest.approx(0, abs=1e-9)
    assert metrics.measure(metrics.judge(truth, sure))["calibration_error"] == pytest.approx(0.19, abs=1e-9)


def test_the_interval_over_clips_is_near_the_normal_approximation() -> None:
    found = scores(clips=400)
    drawn = intervals.resample(found.groups, 400, 2000, 0, "speaker")
    interval = intervals.intervals(metrics.judge(found.truth, found.logits), drawn)["accuracy"]
    half = 1.96 * np.sqrt(interval.value * (1 - interval.value) / 400)
    assert (drawn.unit, drawn.units) == ("clip", 400)
    assert interval.low == pytest.approx(interval.value - half, abs=0.01)
    assert interval.high == pytest.approx(interval.value + half, abs=0.01)


def test_groups_that_stand_or_fall_together_widen_the_interval() -> None:
    groups = tuple(f"g{number // 20}" for number in range(200))
    truth = np.zeros(200, dtype=np.int64)
    right = (np.arange(200) // 20) % 2
    logits = np.eye(2, dtype=np.float32)[1 - right]
    judged = metrics.judge(truth, logits)
    by_group = intervals.intervals(judged, intervals.resample(groups, 200, 1000, 0, "speaker"))["accuracy"]
    by_clip = intervals.intervals(judged, intervals.resample((None,) * 200, 200, 1000, 0, "speaker"))["accuracy"]
    assert by_group.high - by_group.low > 3 * (by_clip.high - by_clip.low)


def test_the_same_model_is_no_better_than_itself() -> None:
    found = scores()
    judged = metrics.judge(found.truth, found.logits)
    gain = intervals.differences(judged, judged, intervals.resample(found.groups, 200, 200, 0, "g"))["accuracy"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_scores_survive_their_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = scores(groups=3)
    found.save(tmp_path / "scores.parquet")
    back = Scores.load(tmp_path / "scores.parquet")
    assert (back.ids, back.groups, back.folds, back.labels) == (found.ids, found.groups, found.folds, found.labels)
    assert (back.logits == found.logits).all() and (back.truth == found.truth).all()


def test_length_bins_hold_every_clip_once() -> None:
    found = scores()
    rows = error_analysis.by_length(found, "speaker")
    assert sum(row.clips for row in rows) == 200
    assert all(row.low <= row.accuracy <= row.high for row in rows)


def test_mistakes_come_with_the_surest_first_and_doubts_need_certainty() -> None:
    found = scores(skill=4)
    wrong = error_analysis.mistakes(found, 5)
    assert [row.probability for row in wrong] == sorted((row.probability for row in wrong), reverse=True)
    assert all(row.label != row.predicted for row in wrong)
    flipped = found.logits.copy()
    flipped[3] = 0
    flipped[3, (found.truth[3] + 1) % 5] = 20
    suspect_labels = error_analysis.suspect_labels(
        Scores(found.labels, found.ids, found.truth, flipped, found.seconds, found.groups, found.folds)
    )
    assert suspect_labels[0].id == "3.wav"
