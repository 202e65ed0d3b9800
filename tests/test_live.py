"""Listening as it happens: events are said while they go on, as soon as was stated, and nothing is lost unsaid."""

import io
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from auricle import recipes
from auricle.audio.settings import Settings
from auricle.cli.main import main
from auricle.inference.events import EventRules
from auricle.inference.live import Message, latency, listen
from auricle.preparation.windows import WindowSpec
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import RATE, tone

PLAIN = EventRules(onset=0.6, offset=0.4, min_seconds=0.0, max_gap=0.0)


class Loudness:
    """A classifier that calls loud what is loud, and takes a while."""

    settings = Settings(1000, 1, 0.0, 600.0)
    labels = ("loud", "soft")
    threshold = None

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        time.sleep(self.seconds)
        loud = [np.abs(piece.astype(float)).mean() > 5000 for piece in samples]
        return np.array([(3.0, 0.0) if each else (0.0, 3.0) for each in loud], np.float32)


def pieces(levels: Sequence[int], seconds: float, pause: float) -> Iterator[np.ndarray]:
    """Blocks of so many seconds and such a level, one every `pause` seconds."""
    for level in levels:
        time.sleep(pause)
        yield np.full((1, round(seconds * 1000)), level, np.int16)


def said(
    classifier: Loudness, blocks: Iterator[np.ndarray], cut: WindowSpec, rules: EventRules = PLAIN
) -> list[Message]:
    return list(listen(classifier, blocks, cut, rules))  # type: ignore[arg-type]


def test_an_event_is_said_when_it_begins_and_when_it_is_over() -> None:
    lines = said(Loudness(), pieces([300] * 10 + [9000] * 10 + [300] * 10, 0.1, 0.0), WindowSpec(0.2, 0.1))
    told = [(line.kind, line.event.label) for line in lines if line.event]
    assert told == [
        ("begin", "soft"),
        ("end", "soft"),
        ("begin", "loud"),
        ("end", "loud"),
        ("begin", "soft"),
        ("end", "soft"),
    ]
    loud = [line.event for line in lines if line.event and line.event.label == "loud"]
    assert loud[1].start == pytest.approx(1.0, abs=0.11) and loud[1].end == pytest.approx(2.0, abs=0.11)
    assert lines[-1].kind == "done" and lines[-1].seconds == pytest.approx(3.0) and lines[-1].windows == 29


def test_a_file_that_comes_faster_than_real_time_is_heard_to_its_end() -> None:
    lines = said(Loudness(0.002), pieces([300] * 500, 0.1, 0.0), WindowSpec(0.2, 0.1))
    assert [line.kind for line in lines] == ["begin", "end", "done"] and lines[-1].windows == 499


def test_windows_are_skipped_and_counted_where_scoring_is_too_slow() -> None:
    lines = said(Loudness(0.12), pieces([300] * 75, 0.02, 0.02), WindowSpec(0.1, 0.02))
    skipped = sum(line.windows for line in lines if line.kind == "skipped")
    assert skipped > 20 and lines[-1].windows + skipped == 71


def test_an_interrupt_ends_it_with_what_was_going_on() -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield from pieces([9000] * 5, 0.1, 0.0)

    class Stopping(Loudness):
        left = 3

        def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().logits(samples)

    assert [line.kind for line in said(Stopping(), interrupted(), WindowSpec(0.2, 0.1))] == ["begin", "end", "done"]


def test_the_stated_bounds_follow_from_window_hop_and_rules() -> None:
    bound = latency(Loudness(0.05), WindowSpec(1.0, 0.25), EventRules(0.5, 0.3, 0.6, 0.5))  # type: ignore[arg-type]
    assert 0.05 <= bound.scoring < 2.0
    assert bound.begin == pytest.approx(1.0 + 2 * bound.scoring + 0.2 + 2 * 0.25)
    assert bound.end == pytest.approx(1.0 + 2 * bound.scoring + 0.2 + 2 * 0.25)


def live(
    run_folder: Path,
    sound: np.ndarray,
    rate: int,
    patch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
    *more: str,
) -> list[dict[str, Any]]:
    """Pipe a sound, floats (frames,), into `auricle listen-live` as fast as it would be recorded; the lines said."""
    reading, writing = os.pipe()
    content = np.rint(sound * 32767).astype("<i2").tobytes()
    started = threading.Event()

    def record() -> None:
        started.wait(20)
        begin = time.monotonic()
        step = rate // 20 * 2
        with open(writing, "wb", buffering=0) as pipe:
            for number in itertools.count():
                piece = content[number * step : (number + 1) * step]
                if not piece:
                    return
                time.sleep(max(0.0, begin + (number + 1) / 20 - time.monotonic()))
                pipe.write(piece)

    recorder = threading.Thread(target=record)
    recorder.start()
    with open(reading, "rb") as pipe:
        patch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        patch.setattr("auricle.audio.stream.pcm", opened(started))
        assert main(["listen-live", str(run_folder), "--rate", str(rate), "--json", *more]) == 0
    recorder.join()
    return [json.loads(line) for line in capture.readouterr().out.splitlines()]


def test_sound_in_real_time_is_named_within_the_stated_latency(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steady = np.concatenate([tone("high", 0.25, 1) for _ in range(4)])
    sound = np.concatenate([np.zeros(RATE), steady, np.zeros(round(1.5 * RATE))])
    lines = live(trained, sound, RATE, monkeypatch, capsys, "--window", "0.5", "--hop", "0.125")
    assert [line["type"] for line in lines] == ["listening", "begin", "end", "done"]
    listening, begin, end, done = lines
    assert begin["label"] == end["label"] == "high"
    assert abs(end["start"] - 1.0) <= 0.375 and abs(end["end"] - 2.0) <= 0.375
    assert begin["after"] <= listening["begin_within"] and end["after"] <= listening["end_within"]
    assert listening["begin_within"] < 2.0 and done["seconds"] == pytest.approx(3.5)


@pytest.mark.recordings
def test_half_a_minute_of_real_sounds_gives_events_within_the_stated_latency(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recordings / "esc10", recipes.load("baseline", ["data.split=holdout"]), tmp_path / "run", ProgressReporter())
    quiet = np.zeros(5 * 44_100)
    names = ("*/*Dog bark/*.ogg", "*/*Rain/*.ogg", "*/*Rooster/*.ogg")
    clips = [sorted(recordings.glob(name.replace("*/", "esc10/", 1)))[0] for name in names]
    heard = [np.resize(soundfile.read(clip)[0], 5 * 44_100) for clip in clips]
    sound = np.concatenate([part for clip in heard for part in (clip, quiet)])
    lines = live(tmp_path / "run", sound, 44_100, monkeypatch, capsys)
    listening, done = lines[0], lines[-1]
    assert done["type"] == "done" and done["seconds"] == pytest.approx(30.0)
    begins, ends = ([line for line in lines if line["type"] == said] for said in ("begin", "end"))
    assert begins and len(begins) == len(ends)
    assert all(line["after"] <= listening["begin_within"] for line in begins)
    assert all(line["after"] <= listening["end_within"] for line in ends)


def opened(started: threading.Event) -> object:
    """`stream.pcm`, which lets the recorder begin once the model is ready."""
    from auricle.audio import stream

    pcm = stream.pcm

    def listening(*arguments: object) -> object:
        def blocks() -> Iterator[np.ndarray]:
            started.set()
            yield from pcm(*arguments)  # type: ignore[arg-type]

        return blocks()

    return listening


def test_wrong_options_are_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen-live", str(trained), "--rate", "0"]) == 2
    assert "rates from" in capsys.readouterr().err
    assert main(["listen-live", str(trained), "--window", "1", "--hop", "2"]) == 2
    assert "up to that" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["listen-live", "--help"])
    assert "arecord" in capsys.readouterr().out
