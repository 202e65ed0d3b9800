"""Near-duplicates are found across level, rate, codec and cuts; what merely resembles is not."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from auricle.audio.decode import decode
from auricle.audio.fingerprint import fingerprint, near_duplicates
from auricle.audio.synth import record

RATE = 16_000


def speech(seed, seconds=3.0):
    """Harmonics of a wandering pitch, in syllables, with breath: as busy as speech, and never twice the same."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    points = np.linspace(0, seconds, int(seconds * 8))
    pitch = np.interp(time, points, generator.uniform(90, 240, len(points)))
    loudness = np.interp(time, points, generator.uniform(0.02, 1, len(points)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(generator.uniform(0.2, 1) / k**0.5 * np.sin(k * phase) for k in range(1, 14))
    signal = voice * loudness + generator.normal(0, 0.05, len(time))
    return (0.3 * signal / np.abs(signal).max()).astype(np.float32)


def coded(samples, form, subtype, rate=RATE):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    sound = decode(buffer.getvalue())
    return sound.samples[0], sound.sample_rate


COPIES = {
    "level": lambda x: (x * 0.25, RATE),
    "16-bit": lambda x: (np.rint(x * 32767).astype(np.int16), RATE),
    "half rate": lambda x: (soxr.resample(x, RATE, 8_000), 8_000),
    "44.1 kHz": lambda x: (soxr.resample(x, RATE, 44_100), 44_100),
    "mp3": lambda x: coded(x, "MP3", "MPEG_LAYER_III"),
    "ogg": lambda x: coded(x, "OGG", "VORBIS"),
    "opus": lambda x: coded(x, "OGG", "OPUS"),
    "front cut": lambda x: (x[len(x) // 5 + 7 :], RATE),
    "end cut": lambda x: (x[: -len(x) // 5], RATE),
    "upside down": lambda x: (-x, RATE),
    "quiet ogg": lambda x: coded(x * 0.25, "OGG", "VORBIS"),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found_and_nothing_else_is(how):
    originals = [speech(seed) for seed in range(8)]
    prints = [fingerprint(x[None], RATE) for x in originals]
    for original in originals:
        samples, rate = COPIES[how](original)
        prints.append(fingerprint(samples[None], rate))
    assert {(match.a, match.b) for match in near_duplicates(prints)} == {(k, k + 8) for k in range(8)}


def test_the_offset_is_where_the_copy_begins():
    original = speech(1)
    prints = [fingerprint(original[None], RATE), fingerprint(original[None, 8_000:], RATE)]
    (match,) = near_duplicates(prints)
    assert match.offset_seconds == pytest.approx(0.5, abs=0.001)
    assert match.similarity > 0.95
    (swapped,) = near_duplicates(prints[::-1])
    assert swapped.offset_seconds == pytest.approx(-0.5, abs=0.001)


def steady(kind, seed):
    generator = np.random.default_rng(seed)
    time = np.arange(3 * RATE) / RATE
    if kind == "tone":
        return np.sin(2 * np.pi * 440 * time + generator.uniform(0, 6))
    if kind == "chord":
        return sum(np.sin(2 * np.pi * hz * time + generator.uniform(0, 6)) for hz in (220, 277, 330, 880))
    if kind == "rain":
        return generator.normal(0, 0.2, len(time))
    if kind == "clock":
        tick = np.exp(-np.arange(800) / 60) * np.sin(2 * np.pi * 1_200 * np.arange(800) / RATE)
        ticks = np.zeros(len(time))
        for at in range(int(generator.uniform(0, 4_000)), len(time) - 800, 8_000):
            ticks[at : at + 800] += tick
        return ticks + generator.normal(0, 1e-3, len(time))
    tail = generator.normal(0, 0.2, len(time))
    tail[RATE:] = 0.0
    return tail


@pytest.mark.parametrize("kind", ["tone", "chord", "rain", "clock", "silent tail"])
def test_steady_sounds_do_not_match_each_other(kind):
    prints = [fingerprint((0.3 * steady(kind, seed))[None].astype(np.float32), RATE) for seed in range(12)]
    assert near_duplicates(prints) == []


@pytest.mark.parametrize("name", ["trill", "falling", "rising-twice", "flat"])
def test_sounds_of_one_class_do_not_match_each_other(name):
    clips = [record(name, "studio", np.random.default_rng(seed)) for seed in range(20)]
    assert near_duplicates([fingerprint(samples[None], rate) for samples, rate in clips]) == []


def test_stereo_and_mono_of_one_recording_match():
    original = speech(3)
    prints = [fingerprint(original[None], RATE), fingerprint(np.stack([original, original]), RATE)]
    assert len(near_duplicates(prints)) == 1


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((1, RATE)),
        np.zeros((1, 0)),
        np.ones((1, 100)),
        np.full((2, RATE), 0.1),
        np.full((2, RATE), np.nan),
        [[np.inf, -np.inf] * RATE],
    ],
)
def test_clips_without_content_have_no_landmarks_and_match_nothing(samples):
    words = fingerprint(np.asarray(samples, np.float32), RATE)
    assert near_duplicates([words, words, fingerprint(speech(0)[None], RATE)]) == []


def test_no_prints_no_pairs():
    assert near_duplicates([]) == []
    assert near_duplicates([fingerprint(speech(0)[None], RATE)]) == []


def test_a_print_is_small_and_level_leaves_no_trace():
    original = speech(5, seconds=5.0)
    words = fingerprint(original[None], RATE)
    assert words.dtype == np.uint32
    assert words.nbytes < 6_000
    np.testing.assert_array_equal(words, fingerprint(original[None] / 4, RATE))
    long = fingerprint(np.tile(original, 80)[None], RATE)
    assert long.nbytes < 300_000
