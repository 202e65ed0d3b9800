"""Windows over a recording: all of it, the tail included, in constant memory, in the same batches every time."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from auricle.audio.recordings import whole_recording
from auricle.audio.settings import Settings
from auricle.inference.predictor import WindowCutter, score_recordings, score_windows, window_batches
from auricle.preparation.windows import WindowSpec

RATE = 1000


class Means:
    """A classifier that answers with the window's mean, its first and its last sample, and notes its batches."""

    settings = Settings(RATE, 1, 0.0, 600.0)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.longest = 0

    def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append(len(samples))
        self.longest = max(self.longest, sum(piece.shape[1] for piece in samples))
        rows = [[piece.mean(), piece[0, 0], piece[0, -1]] for piece in samples]
        return np.array(rows, np.float32).reshape(-1, 3)


def counted(samples: int, block: int = 333) -> Iterator[np.ndarray]:
    """Samples that say which they are, in blocks."""
    whole = np.arange(samples, dtype=np.int16)[None]
    return (whole[:, start : start + block] for start in range(0, samples, block))


@pytest.mark.parametrize("seconds", [0.4, 1.0, 1.2, 3.0, 3.1, 7.777, 20.0, 29.99])
@pytest.mark.parametrize("cut", [WindowSpec(1.0, 0.5), WindowSpec(1.0, 1.0), WindowSpec(0.7, 0.25)], ids=str)
def test_windows_stand_on_a_grid_and_the_last_one_ends_where_the_recording_ends(
    seconds: float, cut: WindowSpec
) -> None:
    count = round(seconds * RATE)
    found = list(score_windows(Means(), counted(count), cut, batch_seconds=3.0))
    size, hop = cut.samples(RATE)
    starts = [round(window.start * RATE) for window in found]
    grid = list(range(0, count - size + 1, hop))
    assert starts[: len(grid)] == grid and len(starts) - len(grid) <= 1
    assert round(found[-1].end * RATE) == count and all(b > a for a, b in itertools.pairwise(starts))
    for window in found:
        first, last = round(window.start * RATE), round(window.end * RATE) - 1
        assert (window.logits[1], window.logits[2]) == (first, last)
        assert last - first + 1 == min(size, count)


def test_a_stream_and_a_whole_recording_have_the_same_windows() -> None:
    sounds = [np.concatenate(list(counted(count)), axis=1) for count in (400, 5000, 7123)]
    cut = WindowSpec(1.0, 0.3)
    chunk = [whole_recording(str(len(sound)), sound, Means.settings) for sound in sounds]
    for sound, (_, windows) in zip(sounds, score_recordings(Means(), chunk, cut), strict=True):
        found = list(windows)
        streamed = list(score_windows(Means(), counted(sound.shape[1]), cut, batch_seconds=2.0))
        assert [(m.start, m.end, m.cell) for m in streamed] == [(m.start, m.end, m.cell) for m in found]
        assert all(np.array_equal(a.logits, b.logits) for a, b in zip(streamed, found, strict=True))
        assert all(np.allclose(a.levels, b.levels) for a, b in zip(streamed, found, strict=True))


def test_nothing_has_no_window() -> None:
    assert list(score_windows(Means(), iter([]), WindowSpec(1.0, 0.5))) == []


def test_no_more_is_held_than_a_batch_of_windows() -> None:
    waiting: list[int] = []
    judge = Means()

    def blocks() -> Iterator[np.ndarray]:
        for number in range(3600):
            waiting.append(number)
            yield np.zeros((1, RATE), np.int16)

    for window in score_windows(judge, blocks(), WindowSpec(2.0, 0.5), batch_seconds=60.0):
        # What was read is a batch ahead of the window at most: 30 windows, half a second apart.
        assert len(waiting) - window.start <= 30 * 0.5 + 2 + 1
    assert set(judge.batches[:-1]) == {30} and judge.longest <= 60 * RATE


def test_skipped_windows_are_not_scored_and_the_others_keep_their_batches() -> None:
    cut = WindowSpec(1.0, 0.5)
    whole, rest = Means(), Means()
    expected = list(score_windows(whole, counted(20_000), cut, batch_seconds=4.0))
    skip = 3 * cut.batch(4.0)
    found = list(score_windows(rest, counted(20_000, block=777), cut, skip=skip, batch_seconds=4.0))
    assert [m.start for m in found] == [m.start for m in expected[skip:]]
    assert [b for b in rest.batches if b] == whole.batches[3:]


def test_levels_are_those_of_cells_on_the_grid_of_hops() -> None:
    loud = np.full((1, 500), 16384, np.int16)
    sound = np.concatenate([np.zeros((1, 1000), np.int16), loud, np.zeros((1, 1800), np.int16)], axis=1)
    found = list(score_windows(Means(), iter([sound]), WindowSpec(1.0, 0.5)))
    heard = {m.cell + place: level for m in found for place, level in enumerate(m.levels) if level > -100}
    assert set(heard) == {2} and heard[2] == pytest.approx(-6.02, abs=0.01)
    assert found[0].level == -120.0
    # The tail begins between two cells: the first part of its first cell is not in it.
    assert found[-1].start == pytest.approx(2.3) and (found[-1].cell, len(found[-1].levels)) == (4, 3)


def test_probabilities_sum_to_one() -> None:
    window = next(score_windows(Means(), counted(1000), WindowSpec(1.0, 1.0)))
    assert window.probabilities.sum() == pytest.approx(1.0) and window.probabilities.dtype == np.float64


def test_a_short_recording_is_one_window_unless_windows_are_asked_for() -> None:
    chunk = [whole_recording(str(count), np.full((1, count), 7, np.int16), Means.settings) for count in (300, 2500)]
    chunk.insert(1, whole_recording("none", np.zeros((1, 0), np.int16), Means.settings, ("silent: nothing",)))
    scorer = Means()
    found = [(recording.name, list(windows)) for recording, windows in score_recordings(scorer, chunk)]
    assert scorer.batches == [2], "short recordings share a batch"
    assert [(name, [(w.start, w.end) for w in windows]) for name, windows in found] == [
        ("300", [(0.0, 0.3)]),
        ("none", []),
        ("2500", [(0.0, 2.5)]),
    ]
    assert chunk[1].error == "silent: nothing"


def test_a_stream_that_is_pushed_has_the_windows_of_one_that_is_pulled() -> None:
    for per_batch in (1, 3):
        cutter = WindowCutter(400, 150, per_batch)
        pushed = [batch for block in counted(3210, 77) for batch in cutter.add(block)]
        assert cutter.received == 3210 and cutter.newest[0].tolist() == list(range(2810, 3210))
        pushed += cutter.finish()
        pulled = window_batches(counted(3210, 1000), WindowSpec(0.4, 0.15), RATE, per_batch)
        assert [(b.number, b.starts) for b in pushed] == [(b.number, b.starts) for b in pulled]
        assert [piece[0, 0] for batch in pushed for piece in batch.pieces] == [
            start for batch in pushed for start in batch.starts
        ]
