"""Speaker encoders of other toolkits, as ONNX files: what they are given, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper, save
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

import auricle
from auricle.audio.recordings import Recording
from auricle.errors import RunError
from auricle.voices.encoder import load_encoder
from auricle.voices.onnx_encoder import load

RATE, MELS, WIDTH = 16_000, 24, 6


def write(path: Path, shape: list[str | int], weight: np.ndarray, axis: int, **metadata: str) -> Path:
    """A graph that averages its input over an axis and multiplies by a matrix (…, width)."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["feats", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["embs"]),
        ],
        "encoder",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", WIDTH])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([axis]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    save(model, path)
    return path


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(RATE * seconds)).astype(np.float32)


def kaldi_log_mel(samples: np.ndarray, window: str) -> np.ndarray:
    """(frames, mels), by transformers' own functions with Kaldi's settings."""
    filters = mel_filter_bank(257, MELS, 20.0, RATE / 2, RATE, mel_scale="kaldi", triangularize_in_mel_space=True)
    return spectrogram(
        samples * 32_768.0,
        window_function(400, window, periodic=False),
        400,
        160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (MELS, WIDTH)).astype(np.float32)


def test_log_mel_is_kaldis(tmp_path: Path, weight: np.ndarray) -> None:
    path = write(tmp_path / "encoder.onnx", ["B", "T", MELS], weight, 1, feature_normalize_type="none")
    samples = noise(0.7)
    expected = kaldi_log_mel(samples, "hamming").mean(0) @ weight
    np.testing.assert_allclose(load(path).encode(samples), expected, rtol=1e-3, atol=1e-3)
    (tmp_path / "encoder.json").write_text(json.dumps({"window": "povey", "subtract_mean": False}))
    expected = kaldi_log_mel(samples, "povey").mean(0) @ weight
    np.testing.assert_allclose(load(path).encode(samples), expected, rtol=1e-3, atol=1e-3)


def test_by_default_each_bands_mean_is_subtracted_and_bands_may_come_first(tmp_path: Path, weight: np.ndarray) -> None:
    frames_first = write(tmp_path / "encoder.onnx", ["B", "T", MELS], weight, 1)
    assert np.abs(load(frames_first).encode(noise(0.5))).max() < 1e-3, "the mean of what has none"
    bands_first = write(tmp_path / "other.onnx", ["B", MELS, "T"], weight, 2)
    (tmp_path / "other.json").write_text(json.dumps({"mels_first": True, "subtract_mean": False}))
    samples = noise(0.5)
    expected = kaldi_log_mel(samples, "hamming").mean(0) @ weight
    np.testing.assert_allclose(load(bands_first).encode(samples), expected, rtol=1e-3, atol=1e-3)


def test_waveforms_have_the_scale_that_the_metadata_states(tmp_path: Path) -> None:
    ones = np.ones((1, WIDTH), np.float32)
    samples = noise(0.5) + 0.2
    for stated, scale in (({}, 32_768.0), ({"normalize_samples": "1"}, 1.0)):
        graph_weight = ones * scale
        path = tmp_path / f"{scale:.0f}.onnx"
        graph = helper.make_graph(
            [
                helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
                helper.make_node("MatMul", ["mean", "weight"], ["embs"]),
            ],
            "encoder",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "N"])],
            [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", WIDTH])],
            [numpy_helper.from_array(graph_weight, "weight"), numpy_helper.from_array(np.array([1]), "axes")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(model, stated)
        save(model, path)
        np.testing.assert_allclose(load(path).encode(samples), samples.mean() * scale**2, rtol=1e-4)


def test_it_enrols_and_identifies(tmp_path: Path, weight: np.ndarray) -> None:
    path = write(tmp_path / "encoder.onnx", ["B", "T", MELS], weight, 1, feature_normalize_type="none")
    soundfile.write(tmp_path / "anna.wav", noise(1.0), RATE)
    auricle.enrol(tmp_path / "voices.db", "Anna", [str(tmp_path / "anna.wav")], run=path)
    (found,) = auricle.identify(tmp_path / "voices.db", [str(tmp_path / "anna.wav")])
    assert found.matches[0].score == pytest.approx(1, abs=1e-5)
    short = tmp_path / "short.wav"
    soundfile.write(short, noise(0.05), RATE)
    (rejected,) = load_encoder(path).embeddings([Recording("short", str(short))])
    assert rejected.error is not None and rejected.error.startswith("short: it lasts 0.05 s")
    before = load_encoder(path).id.fingerprint
    (tmp_path / "encoder.json").write_text("{}")
    assert load_encoder(path).id.fingerprint != before, "other settings give other vectors"


def test_what_is_no_speaker_encoder_is_refused_in_one_sentence(tmp_path: Path, weight: np.ndarray) -> None:
    with pytest.raises(RunError, match="no ONNX file"):
        load_encoder(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(RunError, match="ONNX Runtime"):
        load_encoder(tmp_path / "broken.onnx")
    with pytest.raises(RunError, match="one float32 input"):
        load(write(tmp_path / "four.onnx", ["B", 1, "T", MELS], weight, 2))
    open_bands = write(tmp_path / "open.onnx", ["B", "T", "M"], weight, 1)
    with pytest.raises(RunError, match="fixed number of bands"):
        load(open_bands)
    path = write(tmp_path / "encoder.onnx", ["B", "T", MELS], weight, 1)
    (tmp_path / "encoder.json").write_text(json.dumps({"windw": "hann"}))
    with pytest.raises(RunError, match="window"):
        load(path)
