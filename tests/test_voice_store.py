"""The store of voices: what was acknowledged is there, whoever is killed, and nothing else is taken for a store."""

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
from auricle.voices.score_norm import Cohort
from auricle.voices.store import Clip, Origin, Store, begun

ORIGIN = Origin("/somewhere/run", "ab" * 32)
WIDTH = 16
# Enrols voices of three clips each from a number on, and says so after each; the clip's number is in its vector.
WRITER = f"""
import sys
import numpy as np
from auricle.voices.store import Clip, Origin, Store
store = Store.create(sys.argv[1], Origin("/somewhere/run", "ab" * 32))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    clips = [Clip(f"{{part}}.wav", f"{{number}}-{{part}}", 1.0, np.full({WIDTH}, number + 1.0)) for part in range(3)]
    store.enrol(f"voice {{number:03d}}", clips)
    print(number, flush=True)
"""


def vector(*numbers: float) -> np.ndarray:
    row = np.zeros(WIDTH)
    row[: len(numbers)] = numbers
    return row / np.linalg.norm(row)


def clip(content: str, *numbers: float, file: str = "a.wav") -> Clip:
    return Clip(file, content, 1.5, vector(*numbers))


def read_again_and_again(path: Path, stop: threading.Event, faults: list[str], reads: list[int]) -> None:
    while not stop.is_set():
        try:
            with Store.open(path) as store:
                found = store.read()
        except Exception as error:
            faults.append(repr(error))
            return
        if any(voice.clips != 3 for voice in found.voices):
            faults.append("a half voice")
        reads.append(len(found.voices))


def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_no_half_voice(tmp_path: Path) -> None:
    """A hundred writes and more, by six writers or more, each killed at a random moment, while others read."""
    path = tmp_path / "voices.db"
    Store.create(path, ORIGIN).close()
    stop, faults, reads = threading.Event(), list[str](), list[int]()
    readers = [threading.Thread(target=read_again_and_again, args=(path, stop, faults, reads)) for _ in range(2)]
    for reader in readers:
        reader.start()
    moments = random.Random(0)
    told, kills, begin = set(), 0, 0
    while begin < 100 or kills < 6:
        # No writer comes to its end by itself.
        command = [sys.executable, "-c", WRITER, str(path), str(begin), str(begin + 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(moments.randint(8, 22)):
                line = writer.stdout.readline()
                assert line
                told.add(int(line))
            time.sleep(moments.uniform(0, 0.004))
            os.kill(writer.pid, signal.SIGKILL)
            kills += 1
            told |= {int(line) for line in writer.stdout.read().split()}
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        with Store.open(path) as store:
            kept = {int(voice.name.split()[1]): voice for voice in store.read().voices}
        assert told <= set(kept) and len(kept) <= len(told) + kills
        assert all(voice.clips == 3 for voice in kept.values())
        begin = max(kept) + 1
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults and len(reads) > 20
    assert set(kept) == set(range(begin))


def test_writers_at_the_same_time_all_get_their_turn(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    spans = [(0, 15), (15, 30), (30, 45)]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), *map(str, span)]) for span in spans]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with Store.open(path) as store:
        assert len(store.read().voices) == 45


def test_every_commit_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    with Store.create(tmp_path / "voices.db", ORIGIN) as store:
        asked = [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert asked == ["wal", 2]


def test_a_voice_is_the_mean_of_its_clips_and_the_same_sound_counts_once(tmp_path: Path) -> None:
    with Store.create(tmp_path / "voices.db", ORIGIN) as store:
        first = store.enrol(" Anna ", [clip("one", 1, 0), clip("one", 1, 0, file="copy.wav")])
        second = store.enrol("Anna", [clip("one", 1, 0, file="deep/folder/again.wav"), clip("two", 0, 1)])
        store.enrol("Ben", [clip("one", 1, 0)])
        anna, ben = store.read().voices
    assert (first.name, first.added, first.known, first.clips) == ("Anna", ("a.wav",), ("copy.wav",), 1)
    assert (second.added, second.known, second.clips) == (("a.wav",), ("deep/folder/again.wav",), 2)
    assert (anna.name, anna.clips, anna.seconds, anna.contents) == ("Anna", 2, 3.0, ("one", "two"))
    np.testing.assert_allclose(anna.vector, vector(1, 1), atol=1e-7)
    np.testing.assert_array_equal(ben.vector, vector(1).astype(np.float32))


def test_no_path_of_a_recording_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    with Store.create(path, ORIGIN) as store:
        store.enrol("Anna", [clip("one", 1, file="/home/secret/place/anna.wav")])
    assert b"secret" not in path.read_bytes() and b"anna.wav" in path.read_bytes()


def test_a_cohort_replaces_the_one_before(tmp_path: Path) -> None:
    with Store.create(tmp_path / "voices.db", ORIGIN) as store:
        assert store.read().cohort is None and store.read().max_false_accept_rate == 0.01
        for count in (5, 3):
            vectors = np.stack([vector(number, 1) for number in range(count)])
            cohort = Cohort(vectors, tuple("abcde"[:count]), tuple("vwxyz"[:count]))
            store.enrol(
                "Anna", [clip("one", 1)], cohort=cohort, cohort_named=f"{count} clips", max_false_accept_rate=0.05
            )
        found = store.read()
    assert found.cohort is not None and found.cohort.speakers == ("a", "b", "c")
    assert found.cohort_named == "3 clips" and found.max_false_accept_rate == 0.05
    np.testing.assert_allclose(found.cohort.vectors, vectors, atol=1e-7)


def test_a_voice_is_removed_with_its_clips(tmp_path: Path) -> None:
    with Store.create(tmp_path / "voices.db", ORIGIN) as store:
        store.enrol("Anna", [clip("one", 1)])
        store.enrol("Ben", [clip("two", 1)])
        assert store.remove("Anna") and not store.remove("Anna")
        assert [voice.name for voice in store.read().voices] == ["Ben"]
        assert store._connection.execute("SELECT count(*) FROM clips").fetchone() == (1,)


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    Store.create(path, ORIGIN).close()
    with pytest.raises(RunError, match="another model: '/somewhere/run'"):
        Store.create(path, Origin("/somewhere/run", "cd" * 32))
    Store.create(path, Origin("/moved/run", ORIGIN.fingerprint)).close()


@pytest.mark.parametrize("kind", ["text", "database", "newer", "missing", "folder"])
def test_what_is_no_store_is_refused_in_a_sentence_and_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    if kind == "text":
        path.write_text("my diary, " * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        if kind == "newer":
            Store.create(path, ORIGIN).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 7" if kind == "newer" else "CREATE TABLE photos (name TEXT)")
        connection.close()
    before = path.read_bytes() if path.is_file() else b""
    said = {"text": "no store", "database": "something else", "newer": "version 7", "missing": "no store at"}
    with pytest.raises(DataError, match=said.get(kind, "no store at")):
        Store.open(path)
    if kind != "missing":
        with pytest.raises(DataError):
            Store.create(path, ORIGIN)
        assert not path.is_file() or path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "voices.db"
    path.touch()
    assert not begun(path)
    with pytest.raises(DataError, match="holds no voices yet"):
        Store.open(path)
    Store.create(path, ORIGIN).close()
    assert begun(path)


@pytest.mark.parametrize("name", ["", "  ", "unknown", "a\nb", "a\tb", "x" * 201])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with Store.create(tmp_path / "voices.db", ORIGIN) as store, pytest.raises(UsageError, match="cannot be called"):
        store.enrol(name, [clip("one", 1)])


def test_vectors_of_another_width_or_not_finite_are_refused_whole(tmp_path: Path) -> None:
    with Store.create(tmp_path / "voices.db", ORIGIN) as store:
        store.enrol("Anna", [clip("one", 1)])
        for wrong in (np.ones(3), np.full(WIDTH, np.nan)):
            with pytest.raises(UsageError, match="of one width and finite"):
                store.enrol("Ben", [clip("two", 1), Clip("b.wav", "three", 1.0, wrong)])
        assert [voice.name for voice in store.read().voices] == ["Anna"]
