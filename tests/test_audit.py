"""The audit names every planted fault and invents none."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auricle import recipes
from auricle.errors import DataError
from auricle.preparation.audit import Audit
from auricle.preparation.prepare import prepare, read
from auricle.recipes import load
from auricle.training.grouping import inspect
from tests.conftest import RATE, tone


def audit(folder: Path, **data: object) -> Audit:
    settings = recipes.parse({"data": {"group": "name:1", **data}}, "test")
    return inspect(folder, settings, lambda *_: None, evidence=False).audit


def test_a_clean_corpus_is_clean(corpus: Path) -> None:
    found = audit(corpus)
    assert (found.clips, found.usable) == (24, 24)
    assert not found.quarantined and not found.duplicates and not found.leaks and not found.excluded
    assert found.classes == {"high": 8, "low": 8, "noise": 8}
    assert found.groups == 4 and found.imbalance == 1


def test_each_kind_of_bad_file_is_named_with_its_reason(corpus: Path) -> None:
    good = (corpus / "high" / "device0_000.wav").read_bytes()
    time = np.arange(RATE) / RATE
    plant: dict[str, Callable[[Path], object]] = {
        "empty": lambda path: path.write_bytes(b""),
        "unreadable": lambda path: path.write_bytes(b"no audio at all" * 50),
        "truncated": lambda path: path.write_bytes(good[: len(good) // 2]),
        "silent": lambda path: soundfile.write(path, np.zeros(RATE), RATE),
        "constant": lambda path: soundfile.write(path, np.full(RATE, 0.3), RATE),
        "nan": lambda path: soundfile.write(path, np.where(time < 0.5, np.nan, 0.1), RATE, subtype="FLOAT"),
        "short": lambda path: soundfile.write(path, tone("high", 0.01, 1), RATE),
    }
    for number, (kind, write) in enumerate(plant.items()):
        write(corpus / "high" / f"device0_9{number:02d}.wav")
        assert kind
    found = audit(corpus)
    named = {fault.id: fault.kind for fault in found.quarantined}
    assert named == {f"high/device0_9{number:02d}.wav": kind for number, kind in enumerate(plant)}
    assert all(fault.detail for fault in found.quarantined)


def test_clipped_and_misnamed_clips_are_pointed_out_and_kept(corpus: Path) -> None:
    loud = np.clip(5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE), -1, 1)
    soundfile.write(corpus / "high" / "device0_900.wav", loud, RATE)
    soundfile.write(corpus / "high" / "x.flac", tone("high", 1, 77), RATE)
    (corpus / "high" / "x.flac").rename(corpus / "high" / "device1_901.wav")
    found = audit(corpus)
    assert {(fault.kind, fault.id) for fault in found.warnings} == {
        ("clipped", "high/device0_900.wav"),
        ("wrong_extension", "high/device1_901.wav"),
    }
    assert found.usable == 26


def test_training_ends_with_the_fault_that_all_clips_have_and_what_to_do(corpus: Path) -> None:
    for path in corpus.rglob("*.wav"):
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    recipe = load("baseline")
    with pytest.raises(DataError, match=r"0 of 24 clips are usable.*not_fetched: 24, such as.*`git lfs pull`"):
        prepare(read(corpus, recipe), recipe, lambda done, total: None)


def test_an_inspection_finds_what_training_finds(tmp_path: Path) -> None:
    """At the rate that most clips have, which training would use."""
    for number, label in enumerate(["a", "b"] * 4):
        (tmp_path / label).mkdir(exist_ok=True)
        soundfile.write(tmp_path / label / f"{number}.wav", tone("low", 0.5, number, 44_100), 44_100)
    high = 0.3 * np.sin(2 * np.pi * 40_000 * np.arange(96_000) / 192_000)
    both = np.stack([tone("low", 0.5, 9), -tone("low", 0.5, 9)], axis=1)
    soundfile.write(tmp_path / "a" / "high.wav", high, 192_000)
    soundfile.write(tmp_path / "b" / "both.wav", both, RATE)
    recipe = load("baseline")
    prepared = prepare(read(tmp_path, recipe), recipe, lambda done, total: None)
    assert prepared.audit == audit(tmp_path, group=None)
    assert [(fault.id, fault.kind) for fault in prepared.audit.warnings] == [("a/high.wav", "band_lost")]
    assert [(fault.id, fault.kind) for fault in prepared.audit.quarantined] == [("b/both.wav", "cancelling_channels")]
    words = prepared.audit.faults_in_words
    assert words.startswith("cancelling_channels: 1, such as 'b/both.wav' (the mean of its 2 channels is")
    assert "band_lost: 1, such as 'a/high.wav'" in words


def test_the_same_sound_in_another_container_is_an_exact_duplicate(corpus: Path) -> None:
    samples, _ = soundfile.read(corpus / "low" / "device1_001.wav", dtype="int16")
    soundfile.write(corpus / "low" / "device2_900.flac", samples, RATE)
    found = audit(corpus)
    assert [(row.kind, row.ids, row.conflict) for row in found.duplicates] == [
        ("exact", ("low/device1_001.wav", "low/device2_900.flac"), False)
    ]


def test_one_sound_under_two_labels_is_a_conflict_and_set_aside(corpus: Path) -> None:
    shutil.copy(corpus / "low" / "device1_001.wav", corpus / "noise" / "device1_900.wav")
    found = audit(corpus)
    assert found.duplicates[0].conflict
    assert {fault.id for fault in found.quarantined} == {"low/device1_001.wav", "noise/device1_900.wav"}
    assert all(fault.kind == "conflict" for fault in found.quarantined)


def test_a_duplicate_across_the_split_is_a_leak(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    folder = tmp_path / "parts"
    make_corpus(folder / "train")
    make_corpus(tmp_path / "other", per_class=3)
    for label in ("high", "low", "noise"):
        (folder / "test" / label).mkdir(parents=True)
        soundfile.write(folder / "test" / label / "new.wav", tone(label, 1, 4242), RATE)
    shutil.copy(folder / "train" / "high" / "device0_000.wav", folder / "test" / "high" / "copy.wav")
    found = audit(folder)
    assert [(leak.trained, leak.tested, leak.kind) for leak in found.leaks] == [
        ("train/high/device0_000.wav", "test/high/copy.wav", "exact")
    ]


def test_a_class_that_its_sample_rate_gives_away_is_pointed_out(tmp_path: Path) -> None:
    for label, rate in (("a", 8000), ("b", 16000)):
        (tmp_path / label).mkdir()
        for number in range(6):
            soundfile.write(tmp_path / label / f"{number}.wav", tone("noise", 0.5, hash((label, number)) % 999), rate)
    notes = audit(tmp_path).notes
    assert any("sample rate gives the class 'a' away: 8000 Hz in 6 of its 6 clips" in note for note in notes)


def test_labels_that_differ_by_case_are_pointed_out(corpus: Path) -> None:
    (corpus / "High ").mkdir()
    soundfile.write(corpus / "High " / "device0_900.wav", tone("high", 1, 9), RATE)
    notes = audit(corpus).notes
    assert any("'High" in note and "'high'" in note and "differ only" in note for note in notes)
    assert any("a single usable clip" in note for note in notes)


def test_a_survey_holds_no_sound_in_memory(tmp_path: Path) -> None:
    """Surveying many clips (hard links to few files) takes under 10 kB a clip, far below their decoded size."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        soundfile.write(source / f"{number}.wav", tone("noise", 1.0, number, rate=16000), 16000)
    folder = tmp_path / "corpus"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    for number in range(2000):
        (folder / "ab"[number % 2] / f"{number:05d}.wav").hardlink_to(source / f"{number % 20}.wav")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = audit(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found.clips == 2000
    assert grown * 1024 < 2000 * 10_000


def test_every_file_is_counted_once_and_the_counts_add_up(corpus: Path) -> None:
    (corpus / "low" / "bad.wav").write_bytes(b"garbage")
    (corpus / "stray.wav").write_bytes((corpus / "low" / "device0_000.wav").read_bytes())
    (corpus / "LICENSE").write_text("x")
    (corpus / "notes.txt").write_text("x")
    (corpus / "low" / "gone.wav").symlink_to("/nowhere.wav")
    found = audit(corpus, group=None)
    files = found.files
    assert (files.total, files.used, files.unusable, files.excluded, files.other) == (29, 24, 1, 2, 2)
    assert files.total == files.used + files.unusable + files.excluded + files.other
    assert {item.name.rpartition("/")[2] for item in found.excluded} >= {
        "stray.wav",
        "gone.wav",
        "LICENSE",
        "notes.txt",
    }
    assert str(files) == "29 files: 24 used, 1 unusable, 2 excluded, 2 no recordings"


def test_an_inspection_counts_unusable_clips_where_no_class_is_left(tmp_path: Path) -> None:
    for name in ("a/1.wav", "a/2.wav", "b/3.wav", "b/4.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    inspected = inspect(tmp_path, load("baseline"), lambda *_: None)
    assert inspected.findings == ("Unusable: 4",)
