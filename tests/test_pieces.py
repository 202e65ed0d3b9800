"""Recordings cut into pieces: files that continue each other are of one recording, numbered takes are not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from auricle import recipes
from auricle.audio.continuity import measure_continuity
from auricle.corpus.pieces import find_pieces
from auricle.corpus.splits import crossing_groups
from auricle.training.grouping import inspect

RATE = 8000
CLASSES = ("low", "mid", "high")


def recording(label: int, seconds: float, seed: int) -> np.ndarray:
    """Noise through two resonances of a class and of the recording: float (samples,)."""
    random = np.random.default_rng(seed)
    wave = random.normal(size=int(seconds * RATE))
    time = np.arange(400) / RATE
    for frequency in ((150, 350, 700)[label], random.uniform(100, 900)):
        wave = np.convolve(wave, np.exp(-time * 120) * np.sin(2 * np.pi * frequency * time))[: len(wave)]
    return np.asarray(0.5 * wave / np.abs(wave).max())


def write_pieces(root: Path, recordings: tuple[int, int, int], pieces: int, gap: float = 0.0) -> None:
    """For each class so many recordings, cut into pieces of half a second with a gap of so many seconds between."""
    for label, name in enumerate(CLASSES):
        for number in range(recordings[label]):
            wave = recording(label, pieces * (0.5 + gap), 100 * label + number)
            for piece in range(pieces):
                start = int(piece * (0.5 + gap) * RATE)
                path = root / name / f"rec{10 * label + number}_{piece + 1:03d}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave[start : start + RATE // 2], RATE)


def inspected(root: Path, *settings: str):  # type: ignore[no-untyped-def]
    return inspect(root, recipes.load("baseline", settings), lambda *_: None)


def samples(waves: list[np.ndarray]):  # type: ignore[no-untyped-def]
    return lambda clip: (32000 * waves[clip][None]).astype(np.int16)


def test_names_with_a_running_number_have_a_stem_and_neighbours() -> None:
    names = ["a/rec7_001.wav", "a/rec7_002.wav", "a/rec7_003.wav", "a/rec8_10s.wav", "a/rec8_20s.wav", "b/x.wav"]
    found = find_pieces(names)
    assert found.stems == ("a/rec7", "a/rec7", "a/rec7", "a/rec8s", "a/rec8s", "b/x.wav")
    assert found.neighbours == ((0, 1), (1, 2), (3, 4))
    assert all(set(pair).isdisjoint(others) for pair, others in zip(found.neighbours, found.others, strict=True))


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_pieces_continue_each_other_only_without_a_gap(gap: float) -> None:
    waves, names = [], []
    for number in range(8):
        wave = recording(number % 3, 5 * (0.5 + gap), number)
        for piece in range(5):
            start = int(piece * (0.5 + gap) * RATE)
            waves.append(wave[start : start + RATE // 2])
            names.append(f"r{number}_{piece}.wav")
    found = find_pieces(names)
    assert measure_continuity(samples(waves), found.neighbours, found.others, 0).is_certain == (gap == 0)


def test_numbered_takes_are_no_pieces() -> None:
    for seed in range(20):
        waves = [recording(take // 20, 0.5, 1000 * seed + take) for take in range(60)]
        found = find_pieces([f"{CLASSES[take // 20]}/take_{take:03d}.wav" for take in range(60)])
        assert not measure_continuity(samples(waves), found.neighbours, found.others, seed).is_certain


def test_silence_between_clips_is_no_evidence() -> None:
    waves = [np.concatenate([recording(0, 0.3, take), np.zeros(RATE // 5)]) for take in range(20)]
    found = find_pieces([f"take_{take:03d}.wav" for take in range(20)])
    assert measure_continuity(samples(waves), found.neighbours, found.others, 0).pairs == 0


@pytest.mark.parametrize("pieces", [3, 8])
def test_a_recording_cut_into_pieces_is_on_one_side(pieces: int, tmp_path: Path) -> None:
    write_pieces(tmp_path, (4, 4, 4), pieces)
    inspection = inspected(tmp_path)
    assert inspection.split is not None and inspection.grouping.startswith("Groups: ")
    stems = {clip.id: clip.id.rpartition("_")[0] for clip in inspection.index}
    for fold in inspection.split.folds:
        assert not crossing_groups(inspection.index, fold)
        assert not {stems[id] for id in fold.test} & {stems[id] for id in (*fold.train, *fold.valid)}


def test_few_pieces_are_known_by_their_sound_and_pieces_with_gaps_are_not(tmp_path: Path) -> None:
    write_pieces(tmp_path / "cut", (2, 2, 2), 3)
    inspection = inspected(tmp_path / "cut")
    assert {clip.group for clip in inspection.index} == {
        f"{name}/rec{10 * label + number}" for label, name in enumerate(CLASSES) for number in range(2)
    }
    assert "pieces of one recording" in inspection.grouping and "--group none" in inspection.grouping
    write_pieces(tmp_path / "gaps", (2, 2, 2), 3, gap=0.05)
    assert inspected(tmp_path / "gaps").grouping.startswith("No groups")


def test_groups_that_are_ignored_are_said_to_be_pieces(tmp_path: Path) -> None:
    write_pieces(tmp_path, (2, 2, 2), 3)
    inspection = inspected(tmp_path, "data.group=none")
    assert not inspection.index.has_groups and "pieces of one recording" in inspection.grouping


def test_a_class_of_one_recording_is_named(tmp_path: Path) -> None:
    write_pieces(tmp_path / "one", (1, 1, 1), 10)
    notes = " ".join(inspected(tmp_path / "one").notes)
    assert "pieces of one recording" in notes and "Each class has one recording of its own" in notes
    write_pieces(tmp_path / "some", (1, 5, 5), 6)
    assert any("'low'" in note for note in inspected(tmp_path / "some").notes)
