"""Streams of samples: the same sound as the whole file gives, in blocks, from anywhere, with faults named."""

import io
import itertools
import struct
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from auricle.audio import stream
from auricle.audio.decode import DecodedAudio, convert, decode, resample
from auricle.audio.quality import Finding
from auricle.audio.recordings import Recording, decode_recording
from auricle.audio.settings import Settings
from auricle.errors import AudioError
from tests.conftest import tone

SECONDS = 7.3


def settings(rate: int = 16_000, channels: int = 1) -> Settings:
    return Settings(rate, channels, 0.0, 6 * 3600.0)


def whole(content: bytes, wanted: Settings) -> np.ndarray:
    return resample(decode(content), wanted.sample_rate, wanted.channels)


def streamed(source: str | io.IOBase, wanted: Settings, findings: list[Finding] | None = None) -> np.ndarray:
    return np.concatenate(list(stream.blocks(source, wanted, findings)), axis=1)  # type: ignore[arg-type]


def written(folder: Path, form: str, rate: int = 44_100, channels: int = 2) -> Path:
    """A recording in one of many formats; its channels differ."""
    sound = np.stack([tone("low", SECONDS, seed, rate) for seed in range(channels)], axis=1)
    path = folder / f"sound.{form}"
    if form in ("m4a", "webm", "wma"):
        codec, layout = {"m4a": "aac", "webm": "libopus", "wma": "wmav2"}[form], {1: "mono", 2: "stereo"}[channels]
        with av.open(str(path), "w") as file:
            track = file.add_stream(codec, rate=48_000 if form == "webm" else rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(sound.T.astype(np.float32).copy(), format="fltp", layout=layout)
            frame.sample_rate = rate
            resampler = av.AudioResampler(format=track.format, layout=layout, rate=track.rate, frame_size=1024)
            packets = [track.encode(piece) for piece in [*resampler.resample(frame), *resampler.resample(None)]]
            for packet in itertools.chain(*packets, track.encode(None)):
                file.mux(packet)
    else:
        subtype = {"w64": "FLOAT"}.get(form)
        soundfile.write(path, sound, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "aiff", "w64", "m4a", "webm"])
@pytest.mark.parametrize("wanted", [settings(), settings(44_100, 2), settings(48_000, 2)], ids=str)
def test_a_stream_is_the_whole_file_to_the_last_bit(form: str, wanted: Settings, tmp_path: Path) -> None:
    path = written(tmp_path, form)
    expected, found = whole(path.read_bytes(), wanted), streamed(str(path), wanted)
    assert found.dtype == np.int16 and found.shape == expected.shape
    # mpg123 does not repeat its last bit.
    assert np.abs(found.astype(int) - expected).max() <= (1 if form == "mp3" else 0)


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (8000, 48_000), (12_345, 22_050), (16_000, 16_000)])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampling_block_by_block_gives_the_bits_of_resampling_at_once(
    source: int, target: int, channels: int
) -> None:
    random = np.random.default_rng(source)
    samples = random.normal(0, 0.3, (channels, 300_000)).astype(np.float32)
    expected = resample(DecodedAudio(samples, source, ""), target, channels)
    edges = [0, *np.sort(random.integers(0, 300_000, 9)), 300_000]
    blocks = (samples[:, first:last] for first, last in itertools.pairwise(edges))
    assert np.array_equal(np.concatenate(list(convert(blocks, source, target, channels)), axis=1), expected)


def test_sixteen_bits_at_the_right_rate_pass_through_exactly(tmp_path: Path) -> None:
    path = written(tmp_path, "wav")
    wanted = settings(44_100, 2)
    assert np.array_equal(streamed(str(path), wanted), whole(path.read_bytes(), wanted))


class Pipe(io.RawIOBase):
    """A file that cannot seek, and gives a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1, /) -> bytes:
        return self._content.read(min(size, 1000) if size >= 0 else -1)

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "m4a", "webm"])
def test_a_pipe_that_cannot_seek_is_decoded_as_the_file_is(form: str, tmp_path: Path) -> None:
    content = written(tmp_path, form).read_bytes()
    expected, found = streamed(io.BytesIO(content), settings()), streamed(Pipe(content), settings())
    # FFmpeg takes the place of libsndfile there: mp3's and ogg's first frames and last ones are theirs to trim.
    assert abs(found.shape[1] - expected.shape[1]) <= 0.06 * 16_000
    if form in ("wav", "flac", "m4a", "webm"):
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_member_of_an_archive_is_streamed(tmp_path: Path) -> None:
    path = written(tmp_path, "wav")
    with zipfile.ZipFile(tmp_path / "some.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "deep/sound.wav")
    found = streamed(f"zip://deep/sound.wav::{tmp_path / 'some.zip'}", settings())
    assert np.array_equal(found, streamed(str(path), settings()))


@pytest.mark.parametrize("form", ["wav", "flac", "ogg"])
def test_a_cut_file_gives_what_is_left_and_says_so(form: str, tmp_path: Path) -> None:
    content = written(tmp_path, form).read_bytes()
    for source in (io.BytesIO(content[: len(content) // 2]), str(tmp_path / "cut")):
        (tmp_path / "cut").write_bytes(content[: len(content) // 2])
        found: list[Finding] = []
        samples = streamed(source, settings(), found)
        assert 0.3 < samples.shape[1] / 16_000 / SECONDS < 0.7
        assert [finding.kind for finding in found] == ["truncated"]


def test_floats_that_are_no_numbers_end_the_stream(tmp_path: Path) -> None:
    sound = np.zeros(60 * 8000, np.float32)
    sound[55 * 8000] = np.nan
    soundfile.write(tmp_path / "nan.wav", sound, 8000, subtype="FLOAT")
    found: list[Finding] = []
    samples = streamed(str(tmp_path / "nan.wav"), settings(8000), found)
    assert 20 < samples.shape[1] / 8000 <= 55 and [finding.kind for finding in found] == ["nan"]


@pytest.mark.parametrize(("content", "kind"), [(b"", "empty"), (b"garbage" * 100, "unreadable")])
def test_what_cannot_be_decoded_is_an_error_that_names_the_fault(content: bytes, kind: str) -> None:
    for source in (io.BytesIO(content), Pipe(content)):
        with pytest.raises(AudioError) as caught:
            streamed(source, settings())
        assert caught.value.kind == kind


def test_a_header_without_samples_is_empty() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(0, np.int16), 8000, format="WAV")
    with pytest.raises(AudioError, match="empty"):
        streamed(io.BytesIO(file.getvalue()), settings())


@pytest.mark.parametrize(
    ("fault", "subtype"),
    [
        ("cancelling_channels", "PCM_16"),
        ("dead_channel", "FLOAT"),
        ("band_lost", "PCM_24"),
        ("clipped", "PCM_16"),
        ("silent", "PCM_16"),
        ("unfinished_header", "PCM_16"),
        ("unfinished_header", "PCM_24"),
        ("beyond_header", "PCM_24"),
        ("wrong_extension", "PCM_16"),
    ],
)
def test_a_stream_has_the_findings_of_the_whole_file(fault: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.mp3" if fault == "wrong_extension" else "a.wav")
    time = np.arange(10 * 44_100) / 44_100
    wave = 0.4 * np.sin(2 * np.pi * (15_000 if fault == "band_lost" else 440) * time)
    other = {"cancelling_channels": -wave, "dead_channel": 0 * wave, "clipped": np.clip(5 * wave, -1, 1)}
    both = np.stack([wave, other.get(fault, wave)], axis=1) * (fault != "silent")
    soundfile.write(path, both, 44_100, subtype=subtype, format="WAV")
    content = bytearray(path.read_bytes())
    if fault.endswith("_header"):
        at = content.index(b"data") + 4
        content[at : at + 4] = (0 if fault == "unfinished_header" else 300_000).to_bytes(4, "little")
        path.write_bytes(content)
    whole = decode_recording(Recording(path.name, str(path)), settings())
    found: list[Finding] = []
    assert np.array_equal(streamed(str(path), settings(), found), whole.samples)
    assert found == list(whole.findings) and [finding.kind for finding in found] == [fault]


class Endless(io.RawIOBase):
    """A WAV as a recorder pipes it: sizes unknown, and no end; counts what was read."""

    def __init__(self) -> None:
        fmt = struct.pack("<HHIIHH", 1, 1, 48_000, 96_000, 2, 16)
        streaming = struct.pack("<I", 0xFFFFFFFF)
        self._head = b"RIFF" + streaming + b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + streaming
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        assert 0 <= size <= 1 << 20
        piece, self._head = self._head[:size], self._head[size:]
        self.taken += size
        return piece + bytes(size - len(piece))

    def seekable(self) -> bool:
        return False


def test_a_pipe_of_unknown_length_is_decoded_as_it_comes() -> None:
    file = Endless()
    blocks = stream.blocks(file, settings())  # type: ignore[arg-type]
    first = [next(blocks) for _ in range(5)]
    assert sum(block.shape[1] for block in first) > 16_000
    assert file.taken < 8 << 20


def test_a_header_that_declares_hours_takes_no_memory(tmp_path: Path) -> None:
    size = 2_000_000_000
    head = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    (tmp_path / "lie.wav").write_bytes(head + b"data" + struct.pack("<I", size) + bytes(range(1, 241)) * 4)
    found: list[Finding] = []
    assert streamed(str(tmp_path / "lie.wav"), settings(8000), found).shape == (1, 480)
    assert found[0].kind == "truncated"


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_raw_samples_are_decoded_in_blocks_that_split_frames(encoding: stream.Encoding) -> None:
    sound = np.stack([tone("low", 2.0, seed, 44_100) for seed in range(2)], axis=1)
    counts = np.rint(sound * 32767).astype("<i2")
    content = counts.tobytes() if encoding == "s16le" else (counts / np.float32(32768)).astype("<f4").tobytes()

    class Drip(io.BufferedIOBase):
        def __init__(self) -> None:
            self._content = io.BytesIO(content)
            self._sizes = itertools.cycle([7, 4096, 33, 50_000])

        def read1(self, size: int = -1, /) -> bytes:
            return self._content.read(min(size, next(self._sizes)))

    wanted = settings(16_000, 1)
    found = np.concatenate(list(stream.pcm(Drip(), 44_100, 2, encoding, wanted)), axis=1)
    file = io.BytesIO()
    soundfile.write(file, counts, 44_100, format="WAV")
    expected = whole(file.getvalue(), wanted)
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1


def test_an_unbelievable_rate_of_raw_samples_is_refused() -> None:
    with pytest.raises(AudioError, match="0 channels at 8000"):
        stream.pcm(io.BytesIO(b""), 8000, 0, "s16le", settings())
