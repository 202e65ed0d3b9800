"""The metrics of the events benchmark, and the times of its reference events."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks import events as benchmark

from auricle.inference.events import Event


def event(label: str, start: float, end: float) -> Event:
    return Event(label, start, end, 1.0)


def test_an_event_is_matched_once_with_the_right_label_and_half_of_the_time() -> None:
    truth = [event("dog", 0, 4), event("rain", 10, 14), event("dog", 20, 24)]
    found = [event("dog", 1, 4), event("dog", 0, 3), event("dog", 10, 14), event("dog", 22.5, 26)]
    f1, precision, recall = benchmark.event_f1(truth, found)
    assert (precision, recall) == (0.25, pytest.approx(1 / 3)) and f1 == pytest.approx(2 / 7)
    assert benchmark.event_f1(truth, truth) == (1.0, 1.0, 1.0) and benchmark.event_f1(truth, [])[0] == 0.0


def test_segments_count_seconds_of_each_class() -> None:
    truth, found = [event("dog", 0.0, 2.0)], [event("dog", 1.5, 3.0), event("rain", 0.0, 1.0)]
    # Truth has seconds 0 and 1; found are dog in 1 and 2, rain in 0.
    assert benchmark.segment_f1(truth, found, 10) == pytest.approx(2 * 1 / (2 + 3))


def test_clips_are_at_the_times_of_the_reference(tmp_path: Path) -> None:
    folder = tmp_path / "001 - Dog bark"
    folder.mkdir()
    rate = benchmark.SAMPLE_RATE
    sound = np.zeros(2 * rate)
    sound[round(0.5 * rate) : rate] = 0.3
    for fold in (1, 2):
        soundfile.write(folder / f"{fold}-100-A.ogg", sound, rate)
    options = argparse.Namespace(fold="2", minutes=1.0, noise=-80.0, seed=0)
    truth = benchmark.write_hour(tmp_path, options, tmp_path / "hour.wav")
    written, _ = soundfile.read(tmp_path / "hour.wav")
    assert len(written) == 60 * rate and len(truth) >= 3
    loud = np.abs(written) > 0.1
    for found in truth:
        assert found.label == "Dog bark"
        assert loud[round((found.start + 0.15) * rate) : round((found.end - 0.15) * rate)].mean() > 0.9
    inside = sum(loud[round((found.start - 0.1) * rate) : round((found.end + 0.1) * rate)].sum() for found in truth)
    assert loud.sum() == inside
