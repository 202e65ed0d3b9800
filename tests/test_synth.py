"""The demo corpus is the same every time, holds what it says, and its planted faults are real."""

import json

import numpy as np
import pytest
import soundfile

from auricle.audio.decode import decode
from auricle.audio.fingerprint import fingerprint, near_duplicates
from auricle.audio.quality import audio_hash
from auricle.audio.recordings import check_clip
from auricle.audio.settings import Settings
from auricle.audio.synth import CALLS, DEVICES, make, record
from auricle.errors import AudioError

SETTINGS = Settings(sample_rate=0, channels=1, min_seconds=0.5, max_seconds=10.0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, make(folder, clips_per_class=6)


def kinds(path):
    try:
        sound = decode(path.read_bytes())
    except AudioError as error:
        return [error.kind]
    return [finding.kind for finding in check_clip(sound, path.name, SETTINGS).findings]


def test_every_class_has_clips_from_every_device(demo):
    folder, planted = demo
    faulty = {name for names in planted.faults.values() for name in names}
    for name in CALLS:
        clips = [path for path in (folder / name).iterdir() if path.relative_to(folder).as_posix() not in faulty]
        assert len(clips) == 6
        assert {path.name.split("_")[0] for path in clips} == set(DEVICES)


def test_only_what_was_planted_is_faulty(demo):
    folder, planted = demo
    expected = {name: kind for kind, names in planted.faults.items() for name in names}
    for path in sorted(folder.glob("*/*")):
        kind = expected.get(path.relative_to(folder).as_posix())
        audible = kind in ("silent", "truncated", "empty", "clipped")
        assert kinds(path) == ([kind] if audible else []), path.name


def test_copies_are_copies_and_no_clip_is_another(demo):
    folder, planted = demo
    paths = [path for path in sorted(folder.glob("*/*")) if not kinds(path)]
    sounds = [decode(path.read_bytes()) for path in paths]
    names = [path.relative_to(folder).as_posix() for path in paths]
    hashes = dict(zip(names, map(audio_hash, sounds), strict=True))
    for copy, original in planted.origins.items():
        assert (hashes[copy] == hashes[original]) == (copy not in planted.faults["near_duplicate"])
    found = near_duplicates([fingerprint(sound.samples, sound.sample_rate) for sound in sounds])
    pairs = {frozenset((names[match.a], names[match.b])) for match in found}
    assert pairs == {frozenset(pair) for pair in planted.origins.items()}


def test_a_conflict_has_another_label_than_its_original(demo):
    _, planted = demo
    for kind, names in planted.faults.items():
        for name in names:
            if name in planted.origins:
                same = name.split("/")[0] == planted.origins[name].split("/")[0]
                assert same == (kind != "conflict")


def test_the_plan_lies_beside_the_classes(demo):
    folder, planted = demo
    content = json.loads((folder / ".planted.json").read_text())
    assert content["origins"] == planted.origins
    assert {kind: tuple(names) for kind, names in content["faults"].items()} == planted.faults
    assert sum(len(names) for names in planted.faults.values()) == 12
    assert all((folder / name).is_file() for names in planted.faults.values() for name in names)


def test_the_same_seed_gives_the_same_files(demo, tmp_path):
    folder, _ = demo
    make(tmp_path, clips_per_class=6)
    for path in folder.glob("*/*.wav"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_another_seed_gives_other_sounds():
    first, second = (record("trill", "studio", np.random.default_rng(seed))[0] for seed in range(2))
    assert len(first) != len(second) or not np.array_equal(first, second)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_recording_is_finite_audible_and_at_the_devices_rate(name, device):
    samples, rate = record(name, device, np.random.default_rng(7))
    assert rate == DEVICES[device].sample_rate
    assert 1.4 < len(samples) / rate <= 3.0
    assert np.isfinite(samples).all()
    assert 0.05 < np.abs(samples).max() <= 1.0


def test_a_device_shows_in_the_spectrum():
    def high(device):
        samples, rate = record("flat", device, np.random.default_rng(3))
        power = np.square(np.abs(np.fft.rfft(samples)))
        hz = np.linspace(0, rate / 2, len(power))
        return power[hz > 4_000].sum() / power.sum()

    assert high("studio") > 2 * high("phone")


def test_files_are_in_three_containers(demo):
    folder, _ = demo
    formats = {soundfile.info(str(path)).format for path in folder.glob("*/*_0*.*") if path.stat().st_size}
    assert formats == {"WAV", "FLAC", "OGG"}
