"""Quality problems are found where they are, and nowhere else."""

import io

import numpy as np
import pytest
import soundfile

from auricle.audio.decode import DecodedAudio, decode
from auricle.audio.quality import KINDS, QUARANTINED, audio_hash
from auricle.audio.recordings import check_clip
from auricle.audio.settings import Settings

RATE = 16_000


def noise(level=0.1, size=RATE, seed=0):
    return np.random.default_rng(seed).normal(0, level, (1, size)).astype(np.float32)


def findings(samples, container="wav", name="a.wav", truncated=None, stored_rate=RATE, rate=RATE, channels=1):
    sound = DecodedAudio(samples, stored_rate, container, truncated)
    return check_clip(sound, name, Settings(rate, channels, 0.05, 10.0)).findings


def kinds(*arguments, **settings):
    found = findings(*arguments, **settings)
    assert {finding.kind for finding in found} <= set(KINDS)
    return [finding.kind for finding in found]


def integers(samples):
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_a_good_recording_has_no_finding(kind):
    samples = noise()
    assert kinds(samples if kind is np.float32 else integers(samples)) == []


@pytest.mark.parametrize("convert", [integers, np.asarray])
@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (np.zeros((1, RATE), np.float32), "silent"),
        (noise(1e-5), "silent"),
        (np.full((1, RATE), 0.3, np.float32), "constant"),
        (noise(1e-5) - np.float32(0.2), "constant"),
        (np.clip(noise(1.0), -1, 1), "clipped"),
        (noise(size=400), "short"),
        (noise(size=11 * RATE), "long"),
    ],
)
def test_each_problem_has_its_kind(convert, samples, kind):
    assert kinds(convert(samples)) == [kind]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e20])
def test_one_sample_that_is_not_finite_is_found(value):
    samples = noise()
    samples[0, 77] = value
    assert kinds(samples) == ["nan"]


def test_quiet_is_not_silent():
    assert kinds(noise(1e-3)) == []


def test_a_normalised_peak_is_not_clipped():
    samples = noise()
    assert kinds(samples / np.abs(samples).max()) == []


def test_a_loud_sine_is_not_clipped():
    samples = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[None].astype(np.float32)
    assert kinds(integers(0.98 * samples)) == []


def test_clipping_counts_every_sample_of_a_plateau_and_no_pairs():
    samples = np.zeros((1, 1000), np.int16)
    samples[0, 100:102] = 32767
    samples[0, 300:307] = -32768
    samples[0, 500] = 32767
    found = findings(samples)
    assert [finding.detail for finding in found] == ["0.7% of its samples lie on plateaus at full scale"]


def test_one_clipped_channel_is_enough():
    assert kinds(np.concatenate([noise(), np.clip(noise(1.0), -1, 1)])) == ["clipped"]


def test_a_truncated_recording_is_found_and_quarantined():
    assert kinds(noise(), truncated="half of it is missing") == ["truncated"]
    assert "truncated" in QUARANTINED


def test_only_usable_recordings_stay_in_training():
    usable = {"clipped", "dead_channel", "band_lost", "wrong_extension", "unfinished_header", "beyond_header"}
    assert set(KINDS) - QUARANTINED == usable


@pytest.mark.parametrize("convert", [integers, np.asarray])
@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (np.concatenate([noise(), -noise()]), ["cancelling_channels"]),
        (np.concatenate([noise(), -0.8 * noise()]) + np.float32(0.2), ["cancelling_channels"]),
        (np.concatenate([noise(), -noise() + noise(0.02, seed=1)]), ["cancelling_channels"]),
        (np.concatenate([noise(), noise(seed=1)]), []),
        (np.concatenate([noise(), -0.5 * noise()]), []),
        (np.concatenate([noise(), 0 * noise()]), ["dead_channel"]),
        (np.concatenate([noise(), 0 * noise(), -noise()]), ["cancelling_channels", "dead_channel"]),
        (np.concatenate([0 * noise(), 0 * noise()]), ["silent"]),
        (np.concatenate([0 * noise() + 0.3, 0 * noise() - 0.3]), ["silent"]),
        (np.concatenate([noise(seed=seed) for seed in range(6)]), []),
        (np.concatenate([noise(2e-3), noise(2e-3, seed=1)]) + 0.5, []),
        (np.concatenate([noise(2e-3), -noise(2e-3)]) + 0.5, ["cancelling_channels"]),
    ],
)
def test_channels_are_judged_by_the_mean_that_the_model_takes(convert, samples, found):
    assert kinds(convert(samples.astype(np.float32))) == found


def test_the_louder_channel_and_the_option_that_keeps_both_are_named():
    samples = np.concatenate([0.9 * noise(), -noise()])
    (found,) = findings(samples)
    assert found.detail == (
        "the mean of its 2 channels is 26 dB quieter; the loudest is channel 2: `--set audio.channels=2` keeps both; "
        "else keep that"
    )
    assert kinds(samples, channels=2) == []
    (found,) = findings(np.concatenate([noise(), 0 * noise()]))
    assert "channel 2 of 2" in found.detail and "6 dB quieter" in found.detail


def tone(hertz, rate):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)[None].astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
def test_energy_above_the_models_band_is_a_finding_with_its_share_and_the_option(channels):
    stored = 96_000
    samples = np.concatenate([0.5 * tone(1_000, stored) + tone(30_000, stored)] * channels)
    (found,) = findings(samples, stored_rate=stored, channels=channels)
    assert found.kind == "band_lost"
    assert found.detail.startswith("80% of its energy lies above 8000 Hz")
    assert "`--set audio.sample_rate=96000`" in found.detail
    assert kinds(tone(1_000, stored) + 0.5 * tone(30_000, stored), stored_rate=stored) == []
    assert kinds(samples, stored_rate=stored, rate=stored) == []
    assert kinds(0.5 * tone(1_000, 8_000), stored_rate=8_000) == []


def test_a_recording_of_which_nothing_is_left_for_the_model_is_silent():
    samples = (tone(30_000, 96_000) * np.hanning(96_000)).astype(np.float32)
    assert kinds(samples, stored_rate=96_000) == ["silent", "band_lost"]


def test_floats_far_beyond_full_scale_are_clipped_and_no_band_is_lost():
    assert kinds(100 * tone(1_000, 96_000), stored_rate=96_000) == ["clipped"]


def test_a_recording_too_short_for_one_sample_of_the_model_is_empty():
    assert kinds(noise(size=1), stored_rate=768_000, rate=8_000) == ["short", "empty"]


@pytest.mark.parametrize(
    ("name", "container", "wrong"),
    [
        ("x.wav", "mp3", True),
        ("x.WAV", "wav", False),
        ("x.mp3", "wav", True),
        ("a/b.ogg", "ogg-opus", False),
        ("x.opus", "ogg-vorbis", True),
        ("x.aac", "m4a", False),
        ("x.data", "mp3", False),
        ("x", "mp3", False),
    ],
)
def test_a_wrong_extension_is_found(name, container, wrong):
    assert (kinds(noise(), container, name) == ["wrong_extension"]) == wrong


def encode(samples, form, subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, RATE, format=form, subtype=subtype)
    return decode(buffer.getvalue())


@pytest.mark.parametrize("channels", [1, 2])
def test_the_same_pcm_has_the_same_hash_in_any_container(channels):
    samples = integers(np.concatenate([noise(seed=seed) for seed in range(channels)]))
    hashes = {audio_hash(encode(samples, form)) for form in ("WAV", "FLAC", "AIFF", "AU", "CAF")}
    as_floats = DecodedAudio((samples / 32768.0).astype(np.float32), RATE, "wav")
    assert hashes == {audio_hash(as_floats)}


def test_another_sample_level_rate_or_shape_has_another_hash():
    samples = integers(np.concatenate([noise(), noise(seed=1)]))
    other = samples.copy()
    other[0, 5] += 1
    sounds = [
        DecodedAudio(samples, RATE, "wav"),
        DecodedAudio(other, RATE, "wav"),
        DecodedAudio(samples // 2, RATE, "wav"),
        DecodedAudio(samples, 8_000, "wav"),
        DecodedAudio(samples.reshape(1, -1), RATE, "wav"),
    ]
    assert len({audio_hash(sound) for sound in sounds}) == len(sounds)


def test_hashing_accepts_values_that_are_not_finite():
    samples = np.array([[np.nan, np.inf, -np.inf, 3e38, 0.5]], np.float32)
    assert len(audio_hash(DecodedAudio(samples, RATE, "wav"))) == 32
