"""Intervals: they cover the truth as often as they claim where they are called reliable, and always have a width."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.coverage import BOUNDS, Cell, measure
from scipy.stats import binomtest

from auricle.evaluation import intervals, metrics
from auricle.evaluation.intervals import SHARE_DIFFERENCE, Interval, Resampling, Units, interval, mean_interval
from auricle.evaluation.report import IntervalBasis


@pytest.mark.parametrize(
    "cell",
    [
        Cell(5, 20, 0.5, 0.0),
        Cell(10, 20, 0.9, 0.0),
        Cell(30, 20, 0.9, 0.2),
        Cell(200, 20, 0.99, 0.05),
        Cell(200, 1, 0.9, 0.0),
        Cell(10, 20, 0.5, 0.2, spread=0.8),
    ],
    ids=str,
)
def test_reliable_intervals_cover_the_truth(cell: Cell) -> None:
    found = measure(cell, 2500)
    assert found.counts and BOUNDS[0] <= found.reliable_covered <= BOUNDS[1]


@pytest.mark.parametrize("cell", [Cell(30, 20, 0.99, 0.2), Cell(5, 20, 0.9, 0.2), Cell(30, 1, 0.99, 0.0)], ids=str)
def test_intervals_of_too_few_errors_are_called_rough_and_not_zero_wide(cell: Cell) -> None:
    found = measure(cell, 1500)
    assert not found.counts and found.misleading < 0.02 and found.covered > 0.8


def test_with_many_units_the_interval_is_that_of_wilson() -> None:
    for right in (3, 500, 1990, 2000):
        correct = np.arange(2000) < right
        found = mean_interval(correct, np.arange(2000))
        reference = binomtest(right, 2000).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=2e-4)
        assert found.reliable is (10 <= right <= 1990)


@pytest.mark.parametrize("groups", [1, 2, 5, 40])
def test_units_that_all_agree_give_the_interval_of_as_many_clips(groups: int) -> None:
    unit_of = np.repeat(np.arange(groups), 20)
    found, none = mean_interval(np.ones(20 * groups), unit_of), mean_interval(np.zeros(20 * groups), unit_of)
    assert found.value == found.high == 1 and none.value == none.low == 0
    assert 0 < found.low < 1 - 1 / (groups + 1) and none.high == pytest.approx(1 - found.low)
    assert not found.reliable and not none.reliable


def test_the_closed_form_error_of_a_mean_is_that_of_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    groups = tuple(f"g{number}" for number in np.sort(random.integers(0, 12, 300)))
    correct = random.random(300) < np.unique(groups, return_inverse=True)[1] / 15
    outcomes = metrics.evaluate_logits(np.zeros(300, np.int64), np.eye(2)[1 - correct.astype(int)])
    resampled = intervals.bootstrap(groups, Resampling(4000, 0, "speaker"))
    closed, drawn = (
        mean_interval(correct, resampled.unit_of),
        intervals.metric_intervals(outcomes, resampled)["accuracy"],
    )
    assert drawn.high - drawn.low == pytest.approx(closed.high - closed.low, rel=0.06)


def test_a_gain_has_no_width_only_where_the_answers_agree_on_every_clip() -> None:
    truth = np.zeros(40, np.int64)
    right, wrong = (metrics.evaluate_logits(truth, np.tile(row, (40, 1))) for row in ([1.0, 0, 0], [0, 1.0, 0]))
    other = replace(wrong, predicted=np.full(40, 2))
    resampled = intervals.bootstrap((None,) * 40, Resampling(100, 0, "speaker"))
    gain = {
        name: intervals.metric_intervals(outcomes, resampled, minus=minus)["accuracy"]
        for name, outcomes, minus in (("same", wrong, wrong), ("both wrong", wrong, other), ("all", right, wrong))
    }
    assert (gain["same"].low, gain["same"].high) == (0, 0)
    assert gain["both wrong"].low < 0 < gain["both wrong"].high
    assert gain["all"].low < gain["all"].high == 1


def test_bounds_hold_and_few_units_are_never_reliable() -> None:
    assert interval(0.5, 0.05, Units(5, 5)).reliable and not interval(0.5, 0.05, Units(4, 4)).reliable
    wide = interval(0.9, 0.5, Units(3, 3))
    assert not wide.reliable and 0 <= wide.low < wide.high <= 1
    gain = interval(0.9, 0.1, Units(2, 2), SHARE_DIFFERENCE)  # the t quantile of one degree of freedom is 12.7
    assert (gain.low, gain.high, gain.reliable) == (pytest.approx(0.9 - 1.27062, abs=1e-4), 1.0, False)


def test_a_rough_interval_has_a_caution_with_its_units() -> None:
    basis = IntervalBasis("speaker", 4, 1000, 0.95)
    assert basis.caution("accuracy", Interval(0.5, 0.4, 0.6)) == []
    (line,) = basis.caution("accuracy", Interval(0.95, 0.4, 1.0, reliable=False))
    assert "accuracy (95.0 % over 4 speakers)" in line and "rough guide" in line
