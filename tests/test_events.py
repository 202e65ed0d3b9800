"""Events of windows: edges, hysteresis, gaps, shortest lengths, the unknown and silence, and taking up a state."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from auricle.errors import UsageError
from auricle.inference.events import DetectorState, Event, EventDetector, EventRules, find_events
from auricle.inference.predictor import ScoredWindow

LABELS = ("dog", "rain", "engine")
HOP = 0.5
PLAIN = EventRules(onset=0.5, offset=0.3, min_seconds=0.0, max_gap=0.0, min_level=-60.0)


def window(number: int, row: Sequence[float], size: int = 1, level: float = -20.0) -> ScoredWindow:
    """A window of `size` cells with these probabilities."""
    levels = np.full(size, level)
    return ScoredWindow(number * HOP, (number + size) * HOP, np.log(np.array(row, np.float32)), HOP, number, levels)


def cells(*dog: float, levels: Sequence[float] | None = None) -> list[ScoredWindow]:
    """A window a cell; the probability of dog, the rest shared by the others."""
    known = levels if levels is not None else [-20.0] * len(dog)
    return [
        window(number, (value, (1 - value) / 2, (1 - value) / 2), level=level)
        for number, (value, level) in enumerate(zip(dog, known, strict=True))
    ]


def found(
    windows: list[ScoredWindow], rules: EventRules = PLAIN, threshold: float | None = None
) -> list[tuple[str, float, float]]:
    return [(event.label, event.start, event.end) for event in find_events(windows, LABELS, threshold, rules)]


def test_an_event_begins_at_on_and_ends_below_off() -> None:
    row = cells(0.4, 0.5, 0.35, 0.31, 0.29, 0.4, 0.4)
    assert found(row) == [("dog", 0.5, 2.0)]


def test_the_probability_is_the_mean_over_the_cells() -> None:
    (event,) = find_events(cells(0.1, 0.9, 0.7, 0.5, 0.1), LABELS, None, EventRules(0.5, 0.3, 0.0, 0.0))
    assert event.probability == pytest.approx(0.7) and event.seconds == 1.5


def test_another_class_that_begins_ends_the_one_before() -> None:
    row = [window(0, (0.9, 0.05, 0.05)), window(1, (0.35, 0.6, 0.05)), window(2, (0.05, 0.9, 0.05))]
    assert found(row) == [("dog", 0.0, 0.5), ("rain", 0.5, 1.5)]


def test_overlapping_windows_are_averaged_in_the_cells_that_they_cover() -> None:
    ones = [window(n, (0.99, 0.005, 0.005) if n == 2 else (0.02, 0.49, 0.49), size=2) for n in range(6)]
    # Cells 2 and 3 are covered by the sure window and by one that is sure of the contrary.
    assert found(ones, EventRules(0.5, 0.4, 0.0, 0.0)) == [("dog", 1.0, 2.0)]
    (event,) = find_events(ones, LABELS, None, EventRules(0.5, 0.4, 0.0, 0.0))
    assert event.probability == pytest.approx((0.99 + 0.02) / 2, abs=1e-6)


def test_short_events_are_dropped_and_short_gaps_bridged() -> None:
    row = cells(0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.9)
    assert found(row) == [("dog", 0.0, 0.5), ("dog", 1.0, 2.0), ("dog", 3.0, 3.5)]
    assert found(row, EventRules(0.5, 0.3, 1.0, 0.0)) == [("dog", 1.0, 2.0)]
    assert found(row, EventRules(0.5, 0.3, 0.0, 0.5)) == [("dog", 0.0, 2.0), ("dog", 3.0, 3.5)]
    assert found(row, EventRules(0.5, 0.3, 0.0, 1.0)) == [("dog", 0.0, 3.5)]


def test_a_gap_is_not_bridged_over_another_class() -> None:
    row = [*cells(0.9, 0.1), window(2, (0.05, 0.9, 0.05)), window(3, (0.9, 0.05, 0.05))]
    assert found(row, EventRules(0.5, 0.3, 0.0, 5.0)) == [("dog", 0.0, 0.5), ("rain", 1.0, 1.5), ("dog", 1.5, 2.0)]


def test_silence_holds_no_event_however_sure_the_model_is() -> None:
    assert found(cells(0.9, 0.9, 0.9, levels=[-120, -59, -61])) == [("dog", 0.5, 1.0)]
    assert found(cells(0.9, 0.9, levels=[-120, -120])) == []


def test_the_unknown_is_no_event() -> None:
    row = cells(0.6, 0.9, 0.75, 0.9, 0.9)
    assert found(row, threshold=0.8) == [("dog", 0.5, 1.0), ("dog", 1.5, 2.5)]


def test_the_tail_is_part_of_the_last_event() -> None:
    row = cells(0.9, 0.9)
    tail = ScoredWindow(0.7, 1.2, row[0].logits, HOP, 1, np.full(2, -20.0))
    assert found([*row, tail]) == [("dog", 0.0, 1.2)]


def test_events_are_known_as_soon_as_no_window_can_change_them() -> None:
    detector = EventDetector(LABELS, None, PLAIN)
    row = cells(0.9, 0.9, 0.1, 0.1)
    assert detector.add(row[0]) == [] and detector.current == Event("dog", 0.0, 0.5, pytest.approx(0.9))
    assert detector.add(row[1]) == []
    (ended,) = detector.add(row[2])
    assert (ended.start, ended.end) == (0.0, 1.0) and detector.current is None
    assert detector.finish() == []


def test_a_state_through_json_goes_on_to_the_same_events_at_every_place() -> None:
    random = np.random.default_rng(0)
    rules = EventRules(0.6, 0.4, 0.5, 0.5)
    rows = [
        window(n, random.dirichlet([0.3, 0.3, 0.3]), 3, random.choice([-20.0, -90.0], p=[0.8, 0.2])) for n in range(60)
    ]
    whole = list(find_events(rows, LABELS, 0.5, rules))
    assert len(whole) > 5
    for place in range(0, len(rows), 7):
        first = EventDetector(LABELS, 0.5, rules)
        before = [event for window in rows[:place] for event in first.add(window)]
        state = TypeAdapter(DetectorState).validate_json(json.dumps(asdict(first.state)))
        second = EventDetector(LABELS, 0.5, rules, state)
        after = [event for window in rows[place:] for event in second.add(window)] + second.finish()
        assert before + after == whole


def test_what_is_held_does_not_grow_with_time() -> None:
    detector = EventDetector(LABELS, None, PLAIN)
    sizes = []
    for number in range(500):
        detector.add(window(number, (0.2, 0.4, 0.4), size=8))
        sizes.append(len(json.dumps(asdict(detector.state))))
    assert max(sizes) < 1.2 * sizes[50]


@pytest.mark.parametrize(
    "wrong", [{"onset": 0.2}, {"offset": 0.0}, {"onset": 1.5}, {"min_seconds": -1.0}, {"max_gap": -1.0}]
)
def test_impossible_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="Allowed"):
        EventRules(**wrong)
