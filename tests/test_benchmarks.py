"""The reference pipelines that we measure against do the references' work: shapes, ranges and layers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import _figures, _preparation  # noqa: E402
from benchmarks import _reference_sound as reference  # noqa: E402

CLASSES = 10
# librosa looks for all decoders that it could use, old ones too.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and slated for removal:DeprecationWarning")


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Six clips of different lengths, rates and channels, two of each of three classes."""
    random = np.random.default_rng(0)
    paths = []
    for number, (seconds, rate, channels) in enumerate(
        [(0.5, 22_050, 1), (1.0, 44_100, 2), (4.5, 44_100, 1), (2.0, 16_000, 1), (0.2, 48_000, 2), (4.0, 44_100, 1)]
    ):
        path = tmp_path / "corpus" / f"class{number % 3}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, random.normal(0.0, 0.1, (int(seconds * rate), channels)), rate)
        paths.append(path)
    return paths


def batch(recordings: list[Path]) -> torch.Tensor:
    clips = reference.SoundClips(recordings, list(range(len(recordings))))
    return torch.stack([clips[number % len(clips)][0] for number in range(16)])


def test_a_batch_of_reference_spectrograms_has_the_tutorials_shape_and_range(recordings: list[Path]) -> None:
    values = batch(recordings)
    assert values.shape == (16, 2, 64, 344)
    for spectrogram in values:
        assert 20.0 < float(spectrogram.max() - spectrogram.min()) <= reference.TOP_DB + 1e-3


def test_the_reference_network_has_the_tutorials_shapes(recordings: list[Path]) -> None:
    network = reference.AudioClassifier(CLASSES)
    values = batch(recordings)
    assert network.blocks(values).shape == (16, 64, 4, 22)
    assert network(values).shape == (16, 10)


def test_an_epoch_of_the_reference_moves_every_weight(recordings: list[Path]) -> None:
    training = reference.Training(recordings, list(range(6)), CLASSES, epochs=5)
    before = [weight.detach().clone() for weight in training.model.parameters()]
    assert training.epoch() > 0
    for old, weight in zip(before, training.model.parameters(), strict=True):
        assert not torch.equal(old, weight)


def test_short_clips_are_padded_and_long_ones_keep_their_beginning() -> None:
    long = torch.arange(2.0 * (reference.SAMPLES + 5)).reshape(2, -1)
    assert torch.equal(reference.pad_or_cut(long), long[:, : reference.SAMPLES])
    short = torch.ones(2, 100)
    padded = reference.pad_or_cut(short)
    assert padded.shape == (2, reference.SAMPLES) and float(padded.sum()) == 200.0


def test_all_sides_of_the_preparation_prepare_every_clip(recordings: list[Path], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for side in _preparation.SIDES:
        found = _preparation.measure(side, corpus, tmp_path / side)
        assert found["clips"] == len(recordings)
        assert found["seconds"] > 0 and found["peak_mb"] > 1


def test_medians_are_those_of_numpy() -> None:
    values = [3.0, 9.0, 1.0, 4.0]
    assert _figures.median(values) == np.median(values)
    assert _figures.median(values[:3]) == np.median(values[:3])


def test_a_benchmark_without_its_recordings_says_which_layout_it_expects() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "prepare"], cwd=REPOSITORY, env={}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "AURICLE_DATA is not set" in done.stderr and "emodb/03a01Fa.wav" in done.stderr


def test_json_output_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = _figures.Screen(json=True)
    screen.machine()
    screen.table([("a", "b"), ("1", "2")])
    screen.verdict("sound", "ratio", 5.0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"] for line in lines] == ["machine", "verdict"]
    assert lines[-1] == {"record": "verdict", "name": "sound", "figure": "ratio", "value": 5.0}
