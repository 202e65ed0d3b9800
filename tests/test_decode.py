"""Opening audio: exact where PCM is exact, the judges' samples elsewhere, and no bytes that crash or hang it."""

import io
import os
import struct
import sys
import threading

import av
import numpy as np
import pytest
import soundfile

from auricle.audio.decode import DecodedAudio, decode, resample
from auricle.audio.quality import KINDS, audio_hash
from auricle.audio.recordings import check_clip
from auricle.audio.settings import Settings
from auricle.audio.sniff import sniff
from auricle.errors import AudioError

RATE = 16_000
SNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "wav-24": ("WAV", "PCM_24"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-ulaw": ("WAV", "ULAW"),
    "wav-u8": ("WAV", "PCM_U8"),
    "wav-extensible": ("WAVEX", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "flac-24": ("FLAC", "PCM_24"),
    "ogg-vorbis": ("OGG", "VORBIS"),
    "ogg-opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
}
AV = {"m4a": ("ipod", "aac", RATE), "aac": ("adts", "aac", RATE), "webm": ("webm", "libopus", 48_000)}


def melody(seconds=1.0, rate=RATE, channels=1, seed=0):
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * (300 + 150 * k) * time * (1 + 0.1 * time)) for k in range(channels)]
    return (np.stack(tones, axis=1) + generator.normal(0, 0.01, (len(time), channels))).astype(np.float32)


def with_sndfile(samples, rate, form, subtype):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def with_av(samples, form, codec, rate):
    """Mono float samples, at RATE, encoded by FFmpeg."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="flt", layout="mono")
        frame.sample_rate = RATE
        shape = stream.codec_context
        resampler = av.AudioResampler(shape.format.name, "mono", rate, frame_size=shape.frame_size or 960)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def every_container():
    samples = melody()
    contents = {name: with_sndfile(samples, RATE, *how) for name, how in SNDFILE.items()}
    return contents | {name: with_av(samples, *how) for name, how in AV.items()}


CONTENTS = every_container()


@pytest.mark.parametrize("name", SNDFILE)
def test_samples_are_libsndfiles_own(name):
    sound = decode(CONTENTS[name])
    expected, rate = soundfile.read(io.BytesIO(CONTENTS[name]), dtype=sound.samples.dtype.name, always_2d=True)
    assert rate == sound.sample_rate
    # mpg123 does not repeat its last bit.
    np.testing.assert_allclose(sound.samples, expected.T, rtol=0, atol=2e-7 if name == "mp3" else 0)


@pytest.mark.parametrize("name", [*SNDFILE, *AV])
def test_the_container_is_known_by_content(name):
    expected = name if name.startswith("ogg") else name.partition("-")[0]
    assert decode(CONTENTS[name], name="misleading.txt").container == expected


@pytest.mark.parametrize("name", ["wav", "wav-u8", "wav-ulaw", "wav-extensible", "flac", "aiff", "au", "caf", "w64"])
def test_whatever_fits_16_bits_stays_16_bits(name):
    assert decode(CONTENTS[name]).samples.dtype == np.int16


@pytest.mark.parametrize("name", AV)
def test_ffmpeg_containers_sound_like_their_source(name):
    sound = decode(CONTENTS[name])
    assert sound.truncated is None
    heard = resample(sound, RATE, 1)[0] / 32768.0
    source = melody()[:, 0]
    size = 1 << 16
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(source, size)))
    assert products.max() / (np.linalg.norm(heard) * np.linalg.norm(source)) > 0.97


@pytest.mark.parametrize("name", [*SNDFILE, *AV])
def test_a_whole_file_is_not_called_truncated(name):
    assert decode(CONTENTS[name]).truncated is None


@pytest.mark.parametrize(
    "name", ["wav", "wav-24", "wav-extensible", "flac", "ogg-vorbis", "ogg-opus", "mp3", "aiff", "au"]
)
def test_a_cut_file_is_known_and_keeps_its_beginning(name):
    content = with_sndfile(melody(4.0), RATE, *SNDFILE[name])
    whole, cut = decode(content), decode(content[: len(content) * 3 // 4])
    assert cut.truncated
    frames = cut.samples.shape[1]
    assert 0.3 * whole.samples.shape[1] < frames < 0.95 * whole.samples.shape[1]
    common = frames - 2000
    np.testing.assert_allclose(cut.samples[:, :common], whole.samples[:, :common], atol=2e-5)


def test_a_stretch_before_the_cut_is_whole():
    content = with_sndfile(melody(2.0), RATE, "WAV", "PCM_16")
    cut = content[: len(content) // 2]
    assert decode(cut, start=0.1, end=0.5).truncated is None
    assert decode(cut, start=0.5, end=1.5).truncated


@pytest.mark.parametrize("name", ["wav", "flac", "ogg-vorbis", "mp3", "m4a"])
def test_a_stretch_is_a_slice_of_the_whole(name):
    whole = decode(CONTENTS[name])
    assert "the segment ends at 90 s" in (decode(CONTENTS[name], start=0.25, end=90).truncated or "")
    part = decode(CONTENTS[name], start=0.25, end=0.75)
    assert part.samples.shape == (1, RATE // 2)
    np.testing.assert_allclose(part.samples, whole.samples[:, RATE // 4 : 3 * RATE // 4], atol=1e-5)


def test_stereo_keeps_its_channels_apart():
    samples = (melody(channels=2) * 32768).astype(np.int16)
    np.testing.assert_array_equal(decode(with_sndfile(samples, RATE, "WAV", "PCM_16")).samples, samples.T)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_streamed_wav_is_whole(size):
    content = bytearray(CONTENTS["wav"])
    struct.pack_into("<I", content, 4, size)
    struct.pack_into("<I", content, 40, size)
    sound = decode(bytes(content))
    assert sound.truncated is None
    np.testing.assert_array_equal(sound.samples, decode(CONTENTS["wav"]).samples)


def wav(content, riff_size=None, data_size=None, before=b"", after=b""):
    """A WAV file's content with other declared sizes, and chunks before its data and bytes after it."""
    at = content.index(b"data")
    data = content[at + 8 :]
    head = content[8:at] + before + b"data" + struct.pack("<I", len(data) if data_size is None else data_size)
    body = head + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content


def faults(content):
    return [kind for kind, _ in decode(content).header]


@pytest.mark.parametrize("name", ["wav", "wav-24", "wav-float", "wav-ulaw", "wav-extensible"])
@pytest.mark.parametrize(
    ("riff_size", "before"),
    [(36, b""), (4088, chunk(b"FLLR", bytes(4044))), (None, b""), (0, b"")],
    ids=["36", "FLLR", "right", "0"],
)
def test_a_wav_that_was_never_finished_is_read_to_its_end_with_a_finding(name, riff_size, before):
    content = wav(CONTENTS[name], riff_size, 0, before)
    np.testing.assert_array_equal(decode(content).samples, decode(CONTENTS[name]).samples)
    assert decode(content).truncated is None
    assert faults(content) == ["unfinished_header"]


@pytest.mark.parametrize("name", ["wav", "wav-24"])
def test_an_id3_tag_before_a_wav_changes_nothing(name):
    content = b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + CONTENTS[name]
    assert sniff(content) == "wav"
    np.testing.assert_array_equal(decode(content).samples, decode(CONTENTS[name]).samples)
    assert faults(content) == []


@pytest.mark.parametrize(
    "after",
    [
        b"",
        chunk(b"LIST", b"INFOICMT\1\0\0\0x\0"),
        chunk(b"LIST", b"INFO" * 30) + chunk(b"id3 ", b"ID3" + bytes(99)),
        b"TAG" + b"x" * 125,
    ],
    ids=["none", "LIST", "LIST and id3", "ID3v1"],
)
def test_metadata_behind_the_samples_is_no_finding(after):
    assert faults(wav(CONTENTS["wav"], after=after)) == []


def test_what_lies_beyond_the_declared_samples_is_told_and_not_read():
    whole = decode(CONTENTS["wav"]).samples
    half = whole.nbytes // 2
    content = wav(CONTENTS["wav"], data_size=half)
    np.testing.assert_array_equal(decode(content).samples, whole[:, : half // 2])
    (found,) = decode(content).header
    assert found[0] == "beyond_header"
    assert found[1].startswith(f"{whole.nbytes - half} bytes lie beyond the {half} ")
    for more in (b"\xff\xfb\x90" * 300, chunk(b"LIST", b"INFO" * 30) + chunk(b"data", bytes(900))):
        assert faults(wav(CONTENTS["wav"], after=more)) == ["beyond_header"]
    au = bytearray(CONTENTS["au"])
    struct.pack_into(">I", au, 8, 1000)
    assert faults(bytes(au)) == ["beyond_header"]


def test_an_empty_data_chunk_is_skipped_for_the_one_behind_it():
    data = CONTENTS["wav"][CONTENTS["wav"].index(b"data") :]
    head = CONTENTS["wav"][: -len(data)] + chunk(b"data", b"")
    for between in (b"", chunk(b"LIST", b"INFO")):
        np.testing.assert_array_equal(decode(head + between + data).samples, decode(CONTENTS["wav"]).samples)
        assert faults(head + between + data) == []
    with pytest.raises(AudioError, match="no samples"):
        decode(head + chunk(b"LIST", b"INFO"))


def test_an_odd_chunk_without_its_pad_byte_does_not_hide_the_samples():
    content = wav(CONTENTS["wav"], before=chunk(b"LIST", b"INFOICMT\1\0\0\0x"))
    np.testing.assert_array_equal(decode(content).samples, decode(CONTENTS["wav"]).samples)


SPHERE = b"NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i 8000\nsample_coding -s26 %b\nend_head\n"


@pytest.mark.parametrize(
    ("content", "kind", "detail"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 32\n", "not_fetched", "run `git lfs pull`"),
        (b"<!DOCTYPE html><html><head>", "unreadable", "an HTML page, not audio: download the recording again"),
        (b"\xef\xbb\xbf\n<HTML>", "unreadable", "an HTML page"),
        (b"Error 404\n" + b"not found " * 200, "unreadable", "a text file, not audio; it begins 'Error 404'"),
        ("é".encode() * 600, "unreadable", "a text file"),
        (
            (SPHERE % b"pcm,embedded-shorten-v2.00").ljust(1024, b"\0") + b"ajkg\2" + bytes(range(256)),
            "unreadable",
            "NIST SPHERE, compressed ('pcm,embedded-shorten-v2.00'): convert it by `sph2pipe -f wav IN OUT`",
        ),
        (b"\x01\x02\x9f" * 500, "unreadable", "no audio format that is known"),
    ],
)
def test_content_that_is_no_recording_is_named_with_what_to_do(content, kind, detail):
    with pytest.raises(AudioError) as caught:
        decode(content)
    assert (caught.value.kind, detail in caught.value.detail) == (kind, True), caught.value.detail


def test_sphere_that_is_not_compressed_is_decoded():
    content = with_sndfile(melody(), RATE, "NIST", "PCM_16")
    np.testing.assert_array_equal(decode(content).samples, decode(CONTENTS["wav"]).samples)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"\0" * 5000, "unreadable"),
        (b"this is no sound at all" * 50, "unreadable"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "unreadable"),
        (CONTENTS["wav"][:44], "truncated"),
        (with_sndfile(np.zeros((0, 1)), RATE, "WAV", "PCM_16"), "empty"),
        (CONTENTS["flac"][:30], "truncated"),
        (CONTENTS["ogg-opus"][:200], "truncated"),
        (CONTENTS["m4a"][:2000], "unreadable"),
    ],
)
def test_content_without_sound_is_named(content, kind):
    with pytest.raises(AudioError) as caught:
        decode(content, name="here.wav")
    assert caught.value.kind == kind
    assert "here.wav" in caught.value.detail


def test_a_rate_that_no_recorder_has_is_unreadable():
    content = bytearray(CONTENTS["wav"])
    struct.pack_into("<I", content, 24, 3)
    with pytest.raises(AudioError, match="3 Hz"):
        decode(bytes(content))


@pytest.mark.parametrize("name", ["wav", "flac", "ogg-vorbis", "mp3", "m4a"])
def test_what_is_too_long_is_refused(name):
    with pytest.raises(AudioError) as caught:
        decode(CONTENTS[name], max_seconds=0.5)
    assert caught.value.kind == "long"
    assert decode(CONTENTS[name], start=0.2, end=0.6, max_seconds=0.5).samples.shape[1] == round(0.4 * RATE)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_a_header_that_lies_takes_no_memory():
    import resource

    content = bytearray(CONTENTS["flac"][:1000])
    content[21:26] = bytes([content[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError):
        decode(bytes(content))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def mutated(content, others, generator):
    """Flip bits, overwrite the header, cut, drop a part, or splice two files."""
    damaged = bytearray(content)
    how = generator.integers(5)
    if how == 0:
        for at in generator.integers(len(damaged), size=generator.choice([1, 3, 30])):
            damaged[at] ^= 1 << int(generator.integers(8))
    elif how == 1:
        for at in generator.integers(min(len(damaged), 120), size=3):
            damaged[at] = generator.choice([0, 127, 128, 255])
    elif how == 2:
        damaged = damaged[: generator.integers(len(damaged))]
    elif how == 3:
        first, second = sorted(generator.integers(len(damaged), size=2))
        damaged = damaged[:first] + damaged[second:]
    else:
        other = others[generator.integers(len(others))]
        damaged = damaged[: generator.integers(len(damaged))] + other[generator.integers(len(other)) :]
    return bytes(damaged)


@pytest.mark.parametrize("name", CONTENTS)
def test_damaged_bytes_give_a_sound_or_an_audio_error(name):
    generator = np.random.default_rng(list(CONTENTS).index(name))
    for _ in range(12):
        content = mutated(CONTENTS[name], list(CONTENTS.values()), generator)
        try:
            sound = decode(content, max_seconds=60)
        except AudioError as error:
            assert error.kind in KINDS
            continue
        assert sound.samples.ndim == 2 and sound.samples.size
        assert sound.samples.dtype in (np.int16, np.float32)
        clip = check_clip(sound, name, Settings(RATE, 1, 0.0, 60.0))
        assert len(audio_hash(sound)) == 32
        if "nan" not in {finding.kind for finding in clip.findings}:
            assert clip.samples.dtype == np.int16


def test_a_cut_mp3_leaves_the_terminal_alone(capfd):
    content = CONTENTS["mp3"]
    decode(content[: len(content) // 2])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_no_handle_is_left_open():
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts open files as Linux lists them")
    before = len(os.listdir("/proc/self/fd"))
    for name in CONTENTS:
        decode(CONTENTS[name])
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_decode_what_one_does():
    results = {}

    def work(number):
        results[number] = [audio_hash(decode(content)) for content in CONTENTS.values()]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [audio_hash(decode(content)) for content in CONTENTS.values()]
    assert all(results[number] == expected for number in range(4))


def test_16_bit_samples_at_their_own_rate_pass_exactly():
    sound = decode(CONTENTS["wav"])
    np.testing.assert_array_equal(resample(sound, RATE, 1), sound.samples)
    np.testing.assert_array_equal(resample(sound, RATE, 2), sound.samples)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_a_resampled_tone_is_the_tone_at_the_new_rate(rate):
    def tone(at):
        return 0.5 * np.sin(2 * np.pi * 1_234 * np.arange(at) / at + 0.3)

    sound = DecodedAudio(tone(rate)[None].astype(np.float32), rate, "wav")
    inside = slice(RATE // 10, -RATE // 10)
    np.testing.assert_allclose(resample(sound, RATE, 1)[0, inside] / 32768.0, tone(RATE)[inside], atol=3e-5)


def test_what_the_new_rate_cannot_hold_is_removed():
    time = np.arange(44_100) / 44_100
    sound = DecodedAudio(0.5 * np.sin(2 * np.pi * 9_500 * time)[None].astype(np.float32), 44_100, "wav")
    assert np.abs(resample(sound, RATE, 1)[0, 1_600:-1_600]).max() <= 2


def test_mono_is_the_mean_of_all_channels():
    samples = np.array([[100, -200, 30000], [300, -400, 30000], [500, 0, 30000]], np.int16)
    np.testing.assert_array_equal(resample(DecodedAudio(samples, RATE, "wav"), RATE, 1), [[300, -200, 30000]])
    assert resample(DecodedAudio(samples, RATE, "wav"), RATE, 2).shape == (1, 3)
    np.testing.assert_array_equal(resample(DecodedAudio(samples[:2], RATE, "wav"), RATE, 2), samples[:2])


def test_overshoot_is_clipped_not_wrapped():
    sound = DecodedAudio(np.array([[1.5, -1.5, 1.0, -1.0, 0.5]], np.float32), RATE, "wav")
    np.testing.assert_array_equal(resample(sound, RATE, 1), [[32767, -32768, 32767, -32768, 16384]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers_are_refused(value):
    with pytest.raises(AudioError, match="nan"):
        resample(DecodedAudio(np.array([[0.0, value]], np.float32), RATE, "wav"), 8_000, 1)


def test_sniffing_never_fails_on_any_prefix():
    for name, content in CONTENTS.items():
        for size in range(64):
            assert isinstance(sniff(content[:size]), str), name
