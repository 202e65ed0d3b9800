"""The decoded store: exact, mapped, whole or not there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from auricle.audio import store as stores
from auricle.audio.inspect import inspect_clips, most_common_rate
from auricle.audio.settings import Settings
from auricle.corpus.read import read_index
from auricle.errors import DataError
from auricle.parallel import parallel_map

SETTINGS = Settings(sample_rate=8000, channels=1, min_seconds=0.05, max_seconds=60)


def test_samples_are_those_of_the_files(corpus: Path, tmp_path: Path) -> None:
    index = read_index(corpus)
    store = stores.prepare(index.clips, SETTINGS, cache=tmp_path / "cache")
    assert len(store) == len(index) == 24
    for position, clip in enumerate(index):
        expected, _ = soundfile.read(clip.source, dtype="int16")
        assert (store.samples(position) == expected[None]).all()
        assert store.frames(position) == len(expected)
        assert store.clip_info[position].id == clip.id


def test_samples_are_views_into_the_map_and_cannot_be_written(corpus: Path, tmp_path: Path) -> None:
    store = stores.prepare(read_index(corpus).clips, SETTINGS, cache=tmp_path / "cache")
    before = pa.total_allocated_bytes()
    samples = [store.samples(position) for position in range(len(store))]
    assert pa.total_allocated_bytes() == before
    with pytest.raises(ValueError, match="read-only"):
        samples[0][0, 0] = 1


def test_a_second_preparation_decodes_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_index(corpus)
    first = stores.prepare(index.clips, SETTINGS, cache=tmp_path / "cache")
    monkeypatch.setattr(stores, "_write", lambda *_, **__: pytest.fail("decoded again"))
    again = stores.prepare(index.clips, SETTINGS, cache=tmp_path / "cache")
    assert all((first.samples(row) == again.samples(row)).all() for row in range(len(first)))
    assert [info.audio_hash for info in first.clip_info] == [info.audio_hash for info in again.clip_info]


def test_a_changed_file_another_rate_or_other_clips_make_another_store(corpus: Path) -> None:
    index = read_index(corpus)
    key = stores.key(index.clips, SETTINGS)
    assert stores.key(index.clips[1:], SETTINGS) != key
    assert stores.key(index.clips, Settings(16000, 1, 0.05, 60)) != key
    soundfile.write(index.clips[0].source, np.zeros(4000) + 0.1, 8000)
    assert stores.key(index.clips, SETTINGS) != key


def test_a_moved_corpus_finds_its_store_again(corpus: Path) -> None:
    key = stores.key(read_index(corpus).clips, SETTINGS)
    moved = corpus.rename(corpus.with_name("moved"))
    assert stores.key(read_index(moved).clips, SETTINGS) == key


def test_a_bad_clip_keeps_its_position_without_samples(corpus: Path, tmp_path: Path) -> None:
    bad = corpus / "high" / "device9_999.wav"
    bad.write_bytes(b"RIFF nothing")
    index = read_index(corpus)
    store = stores.prepare(index.clips, SETTINGS, cache=tmp_path / "cache")
    place = [clip.id for clip in index].index("high/device9_999.wav")
    assert store.samples(place).shape[-1] == 0
    assert not store.clip_info[place].usable and store.clip_info[place].findings[0].kind == "unreadable"


def test_many_shards_and_batches_keep_the_order(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MIN_SHARD_CLIPS", 7)
    monkeypatch.setattr(stores, "BATCH_BYTES", 20_000)
    index = read_index(corpus)
    store = stores.prepare(index.clips, SETTINGS, cache=tmp_path / "cache")
    assert len(list(store.folder.glob("shard-*.arrow"))) == 4
    for position, clip in enumerate(index):
        assert (store.samples(position) == soundfile.read(clip.source, dtype="int16")[0]).all()


def test_stereo_is_preserved_or_mixed_as_configured(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(2):
            sound = np.random.default_rng(number).integers(-9000, 9000, (4000, 2)).astype(np.int16)
            soundfile.write(folder / label / f"{number}.wav", sound, 8000, subtype="PCM_16")
    clips = read_index(folder).clips
    expected = soundfile.read(clips[0].source, dtype="int16")[0].T
    both = stores.prepare(clips, Settings(8000, 2, 0.05, 60), cache=tmp_path / "cache")
    assert (both.samples(0) == expected).all()
    mono = stores.prepare(clips, SETTINGS, cache=tmp_path / "cache")
    assert np.abs(mono.samples(0)[0] - expected.astype(float).mean(0)).max() <= 0.5


def test_a_killed_preparation_resumes_after_its_complete_shards(corpus: Path, tmp_path: Path) -> None:
    """A process is killed during its second shard; only complete shards remain, and they are used."""
    cache = tmp_path / "cache"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom auricle.audio import inspect, store\n"
        "from auricle.corpus.read import read_index\nstore.MIN_SHARD_CLIPS = 8\n"
        "from auricle.audio.settings import Settings\nwhole = inspect.inspect_clip\nseen = []\n"
        "def slow(*arguments, **options):\n"
        "    seen.append(1)\n    if len(seen) > 10: print('now', flush=True); time.sleep(60)\n"
        "    return whole(*arguments, **options)\ninspect.inspect_clip = slow\n"
        f"clips = read_index({str(corpus)!r}).clips\n"
        f"store.prepare(clips, Settings(8000, 1, 0.05, 60), cache=Path({str(cache)!r}), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"now\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    folder = next((cache / "stores").iterdir())
    assert [path.name for path in folder.glob("shard-*.arrow")] == ["shard-00000.arrow"]
    stamp = (folder / "shard-00000.arrow").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "MIN_SHARD_CLIPS", 8)
        store = stores.prepare(read_index(corpus).clips, SETTINGS, cache=cache)
    assert (folder / "shard-00000.arrow").stat().st_mtime_ns == stamp
    assert len(store) == 24 and all(store.frames(position) for position in range(24))


def test_facts_keep_the_order_of_the_clips(corpus: Path) -> None:
    index = read_index(corpus)
    done = []
    infos = inspect_clips(index.clips, SETTINGS, lambda number, total: done.append((number, total)))
    assert [clip.id for clip in infos] == [clip.id for clip in index]
    assert done[-1] == (24, 24)


def test_processes_give_what_one_process_gives(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MIN_SHARD_CLIPS", 5)
    clips = read_index(corpus).clips
    one = stores.prepare(clips, SETTINGS, cache=tmp_path / "one", workers=1)
    three = stores.prepare(clips, SETTINGS, cache=tmp_path / "three", workers=3)
    for position in range(24):
        assert (one.samples(position) == three.samples(position)).all()
        assert one.clip_info[position].audio_hash == three.clip_info[position].audio_hash


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match="run the same command again"):
        list(parallel_map(_kill_oneself, [1, 2, 3, 4], workers=2))


def _kill_oneself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_most_common_rate_wins(corpus: Path) -> None:
    soundfile.write(corpus / "high" / "device0_900.wav", np.random.default_rng(0).normal(0, 0.1, 44100), 44100)
    assert most_common_rate(read_index(corpus).clips, 1) == 8000
