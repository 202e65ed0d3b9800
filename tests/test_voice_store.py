"""The store of voices: acknowledged writes survive a kill, and no other file is accepted as a store."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from auricle.errors import DataError, RunError, UsageError
from auricle.inference.classifier import Embedding
from auricle.voices.score_norm import Cohort
from auricle.voices.store import EncoderId, VoiceStore, is_store

ENCODER = EncoderId("/somewhere/run", "ab" * 32)
WIDTH = 16
# Enrols voices of three clips each from a number on, and prints each number; the embeddings hold it.
WRITER = f"""
import sys
import numpy as np
from auricle.inference.classifier import Embedding
from auricle.voices.store import EncoderId, VoiceStore
store = VoiceStore.create(sys.argv[1], EncoderId("/somewhere/run", "ab" * 32))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    embedding = np.full({WIDTH}, number + 1.0)
    clips = [Embedding(f"{{part}}.wav", embedding, 1.0, f"{{number}}-{{part}}") for part in range(3)]
    store.enrol(f"voice {{number:03d}}", clips)
    print(number, flush=True)
"""


def embedding(*numbers: float) -> np.ndarray:
    row = np.zeros(WIDTH)
    row[: len(numbers)] = numbers
    return row / np.linalg.norm(row)


def clip(content_hash: str, *numbers: float, file: str = "a.wav") -> Embedding:
    return Embedding(file, embedding(*numbers), 1.5, content_hash)


def read_again_and_again(path: Path, stop: threading.Event, faults: list[str], reads: list[int]) -> None:
    while not stop.is_set():
        try:
            with VoiceStore.open(path) as store:
                found = store.read()
        except Exception as error:
            faults.append(repr(error))
            return
        if any(voice.clips != 3 for voice in found.voices):
            faults.append("a partial voice")
        reads.append(len(found.voices))


def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_no_partial_voice(tmp_path: Path) -> None:
    """A hundred writes and more, by six writers or more, each killed at a random moment, while others read."""
    path = tmp_path / "voices.db"
    VoiceStore.create(path, ENCODER).close()
    stop, faults, reads = threading.Event(), list[str](), list[int]()
    readers = [threading.Thread(target=read_again_and_again, args=(path, stop, faults, reads)) for _ in range(2)]
    for reader in readers:
        reader.start()
    moments = random.Random(0)
    acknowledged, kills, begin = set(), 0, 0
    while begin < 100 or kills < 6:
        # No writer comes to its end by itself.
        command = [sys.executable, "-c", WRITER, str(path), str(begin), str(begin + 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(moments.randint(8, 22)):
                line = writer.stdout.readline()
                assert line
                acknowledged.add(int(line))
            time.sleep(moments.uniform(0, 0.004))
            os.kill(writer.pid, signal.SIGKILL)
            kills += 1
            acknowledged |= {int(line) for line in writer.stdout.read().split()}
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        with VoiceStore.open(path) as store:
            stored = {int(voice.name.split()[1]): voice for voice in store.read().voices}
        assert acknowledged <= set(stored) and len(stored) <= len(acknowledged) + kills
        assert all(voice.clips == 3 for voice in stored.values())
        begin = max(stored) + 1
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults and len(reads) > 20
    assert set(stored) == set(range(begin))


def test_writers_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    spans = [(0, 15), (15, 30), (30, 45)]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), *map(str, span)]) for span in spans]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with VoiceStore.open(path) as store:
        assert len(store.read().voices) == 45


def test_every_commit_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    with VoiceStore.create(tmp_path / "voices.db", ENCODER) as store:
        settings = [
            store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    assert settings == ["wal", 2]


def test_a_voice_is_the_mean_of_its_clips_and_the_same_audio_counts_once(tmp_path: Path) -> None:
    with VoiceStore.create(tmp_path / "voices.db", ENCODER) as store:
        first = store.enrol(" Anna ", [clip("one", 1, 0), clip("one", 1, 0, file="copy.wav")])
        second = store.enrol("Anna", [clip("one", 1, 0, file="deep/folder/again.wav"), clip("two", 0, 1)])
        store.enrol("Ben", [clip("one", 1, 0)])
        anna, ben = store.read().voices
    assert (first.name, first.added, first.duplicates, first.clips) == ("Anna", ("a.wav",), ("copy.wav",), 1)
    assert (second.added, second.duplicates, second.clips) == (("a.wav",), ("deep/folder/again.wav",), 2)
    assert (anna.name, anna.clips, anna.seconds, anna.content_hashes) == ("Anna", 2, 3.0, ("one", "two"))
    np.testing.assert_allclose(anna.embedding, embedding(1, 1), atol=1e-7)
    np.testing.assert_array_equal(ben.embedding, embedding(1).astype(np.float32))


def test_no_path_of_a_recording_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    with VoiceStore.create(path, ENCODER) as store:
        store.enrol("Anna", [clip("one", 1, file="/home/secret/folder/anna.wav")])
    assert b"secret" not in path.read_bytes() and b"anna.wav" in path.read_bytes()


def test_a_cohort_replaces_the_one_before(tmp_path: Path) -> None:
    with VoiceStore.create(tmp_path / "voices.db", ENCODER) as store:
        assert store.read().cohort is None and store.read().max_false_accept_rate == 0.01
        for count in (5, 3):
            embeddings = np.stack([embedding(number, 1) for number in range(count)])
            cohort = Cohort(embeddings, tuple("abcde"[:count]), tuple("vwxyz"[:count]))
            store.enrol(
                "Anna", [clip("one", 1)], cohort=cohort, cohort_description=f"{count} clips", max_false_accept_rate=0.05
            )
        found = store.read()
    assert found.cohort is not None and found.cohort.speakers == ("a", "b", "c")
    assert found.cohort_description == "3 clips" and found.max_false_accept_rate == 0.05
    np.testing.assert_allclose(found.cohort.embeddings, embeddings, atol=1e-7)


def test_a_voice_is_removed_with_its_clips(tmp_path: Path) -> None:
    with VoiceStore.create(tmp_path / "voices.db", ENCODER) as store:
        store.enrol("Anna", [clip("one", 1)])
        store.enrol("Ben", [clip("two", 1)])
        assert store.remove("Anna") and not store.remove("Anna")
        assert [voice.name for voice in store.read().voices] == ["Ben"]
        assert store._connection.execute("SELECT count(*) FROM clips").fetchone() == (1,)


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    VoiceStore.create(path, ENCODER).close()
    with pytest.raises(RunError, match="another model: '/somewhere/run'"):
        VoiceStore.create(path, EncoderId("/somewhere/run", "cd" * 32))
    VoiceStore.create(path, EncoderId("/moved/run", ENCODER.fingerprint)).close()


@pytest.mark.parametrize("kind", ["text", "database", "newer", "missing", "folder"])
def test_a_file_that_is_no_store_is_refused_and_unchanged(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    if kind == "text":
        path.write_text("my diary, " * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        if kind == "newer":
            VoiceStore.create(path, ENCODER).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 7" if kind == "newer" else "CREATE TABLE photos (name TEXT)")
        connection.close()
    before = path.read_bytes() if path.is_file() else b""
    message = {"text": "no store", "database": "another database", "newer": "version 7", "missing": "no store at"}
    with pytest.raises(DataError, match=message.get(kind, "no store at")):
        VoiceStore.open(path)
    if kind != "missing":
        with pytest.raises(DataError):
            VoiceStore.create(path, ENCODER)
        assert not path.is_file() or path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    path.touch()
    assert not is_store(path)
    with pytest.raises(DataError, match="holds no voices yet"):
        VoiceStore.open(path)
    VoiceStore.create(path, ENCODER).close()
    assert is_store(path)


@pytest.mark.parametrize("name", ["", "  ", "unknown", "a\nb", "a\tb", "x" * 201])
def test_an_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    with (
        VoiceStore.create(tmp_path / "voices.db", ENCODER) as store,
        pytest.raises(UsageError, match="cannot be called"),
    ):
        store.enrol(name, [clip("one", 1)])


def test_embeddings_of_another_width_or_not_finite_are_refused_together(tmp_path: Path) -> None:
    with VoiceStore.create(tmp_path / "voices.db", ENCODER) as store:
        store.enrol("Anna", [clip("one", 1)])
        for wrong in (np.ones(3), np.full(WIDTH, np.nan)):
            with pytest.raises(UsageError, match="of one width and finite"):
                store.enrol("Ben", [clip("two", 1), Embedding("b.wav", wrong, 1.0, "three")])
        assert [voice.name for voice in store.read().voices] == ["Anna"]
