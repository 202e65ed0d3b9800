"""Metrics against scikit-learn, intervals against their theory."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as reference

from auricle.evaluation import error_analysis, intervals, metrics
from auricle.evaluation.intervals import Resampling
from auricle.evaluation.scoring import Scores, softmax

RANDOM = np.random.default_rng(0)


def scores(clips: int = 200, classes: int = 5, skill: float = 1.5, groups: int = 0) -> Scores:
    truth = RANDOM.integers(classes, size=clips)
    logits = RANDOM.normal(size=(clips, classes))
    logits[np.arange(clips), truth] += skill
    named = tuple(f"g{number % groups}" for number in range(clips)) if groups else (None,) * clips
    labels = tuple("abcdefgh"[:classes])
    ids = tuple(f"{number}.wav" for number in range(clips))
    classes = tuple(labels[number] for number in truth)
    return Scores(labels, ids, classes, logits.astype(np.float32), RANDOM.uniform(1, 9, clips), named, ("1",) * clips)


def test_headline_metrics_are_those_of_scikit_learn() -> None:
    found = scores()
    measured = metrics.compute_metrics(metrics.evaluate_logits(found.truth, found.logits, top_k=2))
    probabilities = softmax(found.logits)
    assert measured["accuracy"] == pytest.approx(reference.accuracy_score(found.truth, found.predicted))
    assert measured["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(found.truth, found.predicted)
    )
    assert measured["macro_f1"] == pytest.approx(reference.f1_score(found.truth, found.predicted, average="macro"))
    assert measured["log_loss"] == pytest.approx(reference.log_loss(found.truth, probabilities))
    assert measured["top_2_accuracy"] == pytest.approx(
        reference.top_k_accuracy_score(found.truth, probabilities, k=2, labels=range(5))
    )


def test_classes_that_never_occur_do_not_count_as_scikit_learn_has_it() -> None:
    truth = np.array([0, 0, 1, 1])
    logits = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    measured = metrics.compute_metrics(metrics.evaluate_logits(truth, logits))
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert measured["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, predicted))
    assert measured["macro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="macro", zero_division=0))


def test_weights_count_a_clip_several_times() -> None:
    found = scores(clips=50)
    outcomes = metrics.evaluate_logits(found.truth, found.logits)
    weights = RANDOM.integers(0, 4, (3, 50)).astype(float)
    weights[1, found.truth == 0] = 0.0  # a class that a resample lacks
    measured = metrics.weighted_metrics(outcomes, weights)
    for row, weight in enumerate(weights):
        rows = np.repeat(np.arange(50), weight.astype(int))
        repeated = metrics.compute_metrics(metrics.evaluate_logits(found.truth[rows], found.logits[rows]))
        assert {name: values[row] for name, values in measured.items()} == pytest.approx(repeated)


def test_per_class_rows_and_confusion_are_those_of_scikit_learn() -> None:
    found = scores()
    rows = metrics.per_class(found)
    precision, recall, f1, support = reference.precision_recall_fscore_support(found.truth, found.predicted)
    assert [row.precision for row in rows] == pytest.approx(list(precision))
    assert [row.recall for row in rows] == pytest.approx(list(recall))
    assert [row.f1 for row in rows] == pytest.approx(list(f1))
    assert [row.clips for row in rows] == list(support)
    assert (metrics.confusion_matrix(found) == reference.confusion_matrix(found.truth, found.predicted)).all()


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has() -> None:
    truth = np.array([0] * 80 + [1] * 20)
    honest = np.tile(np.log([0.8, 0.2]), (100, 1))
    sure = np.tile(np.log([0.99, 0.01]), (100, 1))
    assert metrics.compute_metrics(metrics.evaluate_logits(truth, honest))["calibration_error"] == pytest.approx(
        0, abs=1e-9
    )
    assert metrics.compute_metrics(metrics.evaluate_logits(truth, sure))["calibration_error"] == pytest.approx(
        0.19, abs=1e-9
    )


def test_the_interval_over_clips_is_near_the_normal_approximation() -> None:
    found = scores(clips=400)
    drawn = intervals.bootstrap(found.groups, Resampling(2000, 0, "speaker"))
    interval = intervals.metric_intervals(metrics.evaluate_logits(found.truth, found.logits), drawn)["accuracy"]
    half = 1.96 * np.sqrt(interval.value * (1 - interval.value) / 400)
    assert (drawn.unit, drawn.units) == ("clip", 400)
    assert interval.low == pytest.approx(interval.value - half, abs=0.01)
    assert interval.high == pytest.approx(interval.value + half, abs=0.01)


def test_correlated_groups_widen_the_interval() -> None:
    groups = tuple(f"g{number // 20}" for number in range(200))
    truth = np.zeros(200, dtype=np.int64)
    right = (np.arange(200) // 20) % 2
    logits = np.eye(2, dtype=np.float32)[1 - right]
    outcomes = metrics.evaluate_logits(truth, logits)
    by_group = intervals.metric_intervals(outcomes, intervals.bootstrap(groups, Resampling(1000, 0, "speaker")))[
        "accuracy"
    ]
    by_clip = intervals.metric_intervals(outcomes, intervals.bootstrap((None,) * 200, Resampling(1000, 0, "speaker")))[
        "accuracy"
    ]
    assert by_group.high - by_group.low > 3 * (by_clip.high - by_clip.low)


def test_the_same_model_is_no_better_than_itself() -> None:
    found = scores()
    outcomes = metrics.evaluate_logits(found.truth, found.logits)
    drawn = intervals.bootstrap(found.groups, Resampling(200, 0, "g"))
    gain = intervals.metric_intervals(outcomes, drawn, minus=outcomes)["accuracy"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_scores_survive_their_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = scores(groups=3)
    found.save(tmp_path / "scores.parquet")
    back = Scores.load(tmp_path / "scores.parquet")
    assert (back.ids, back.groups, back.folds, back.labels) == (found.ids, found.groups, found.folds, found.labels)
    assert (back.logits == found.logits).all() and (back.truth == found.truth).all()


def test_duration_bins_hold_every_clip_once() -> None:
    found = scores()
    rows = error_analysis.by_clip_duration(found)
    assert sum(row.clips for row in rows) == 200
    assert all(row.accuracy.low <= row.accuracy.value <= row.accuracy.high for row in rows)


def test_the_most_confident_errors_come_first_and_suspect_labels_need_confidence() -> None:
    found = scores(skill=4)
    wrong = error_analysis.misclassified(found, 5)
    assert [row.probability for row in wrong] == sorted((row.probability for row in wrong), reverse=True)
    assert all(row.label != row.predicted for row in wrong)
    flipped = found.logits.copy()
    flipped[3] = 0
    flipped[3, (found.truth[3] + 1) % 5] = 20
    suspect_labels = error_analysis.suspect_labels(
        Scores(found.labels, found.ids, found.classes, flipped, found.seconds, found.groups, found.folds)
    )
    assert suspect_labels[0].id == "3.wav"
