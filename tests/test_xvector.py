"""A stock checkpoint made for telling speakers apart, in the place of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers

import auricle
from auricle.audio.recordings import Recording
from auricle.errors import RunError
from auricle.voices import encoder as encoders
from auricle.voices.encoder import load_encoder, load_xvector
from tests.checkpoints import SAMPLE_RATE, WAVEFORM, made_up_sounds, randomise, waveform_extractor

KINDS = ("Wav2Vec2", "WavLM", "UniSpeechSat", "Data2VecAudio")
HEAD = {"tdnn_dim": (24, 24, 24, 24, 48), "xvector_output_dim": 20}


def checkpoint(folder: Path, kind: str = "WavLM") -> Path:
    """A tiny checkpoint with random weights, as the originals are laid out."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**WAVEFORM, **HEAD, num_labels=5)
    model = getattr(transformers, f"{kind}ForXVector")(config)
    randomise(model)
    model.save_pretrained(folder)
    waveform_extractor(True, True)().save_pretrained(folder)
    return folder


def recordings(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = []
    for number, samples in enumerate(made_up_sounds(0)):
        paths.append(folder / f"{number:02d}.wav")
        soundfile.write(paths[-1], np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_is_what_the_stock_model_gives_for_the_clip_alone(kind: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", kind)
    stock = transformers.AutoModelForAudioXVector.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    paths = recordings(tmp_path / "sounds")
    found = list(load_encoder(folder).embeddings(Recording(path.name, str(path)) for path in paths))
    for path, row in zip(paths, found, strict=True):
        samples = soundfile.read(path, dtype="float32")[0]
        values = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        with torch.inference_mode():
            expected = torch.nn.functional.normalize(stock(values).embeddings, dim=-1)[0].numpy()
        np.testing.assert_allclose(row.vector, expected, atol=1e-5)
        assert row.seconds == pytest.approx(len(samples) / SAMPLE_RATE)


def test_a_clip_shorter_than_its_pooling_is_a_finding_and_the_shortest_works(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    shortest = load_xvector(folder).min_samples
    inputs = []
    for extra in (-1, 0):
        inputs.append(Recording(f"{extra}", str(tmp_path / f"{extra}.wav")))
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, shortest + extra)
        soundfile.write(inputs[-1].source, samples, SAMPLE_RATE, subtype="PCM_16")
    short, enough = load_encoder(folder).embeddings(inputs)
    assert short.error is not None and short.error.startswith("short: it lasts") and short.vector.size == 0
    assert enough.error is None and np.isfinite(enough.vector).all()


def test_a_long_recording_is_encoded_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "WINDOW_SECONDS", 1.0)
    folder = checkpoint(tmp_path / "model")
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 2 * SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16")
    encoder = load_encoder(folder)
    inputs = [Recording("whole", str(path)), *(Recording(f"{at}", str(path), at, at + 1.0) for at in (0.0, 1.0))]
    whole, first, second = encoder.embeddings(inputs)
    model = load_xvector(folder)
    samples = soundfile.read(path, dtype="int16")[0]
    halves = [model.encode(half.astype(np.float32) / 32768) for half in np.split(samples, 2)]
    for row, half in zip((first, second), halves, strict=True):
        np.testing.assert_allclose(row.vector, half / np.linalg.norm(half), atol=1e-5)
    mean = np.mean(halves, axis=0)
    np.testing.assert_allclose(whole.vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_checkpoint_enrols_and_identifies(tmp_path: Path) -> None:
    folder, paths = checkpoint(tmp_path / "model"), recordings(tmp_path / "sounds")
    done = auricle.enrol(tmp_path / "voices.db", "Anna", [str(paths[0])], run=folder)
    assert done.enrolled is not None and "no training clips" in done.notes[0] and "no threshold" in done.notes[1]
    (found,) = auricle.identify(tmp_path / "voices.db", [str(paths[0])])
    assert found.matches[0].score == pytest.approx(1, abs=1e-5) and found.accepted is None


def test_a_checkpoint_without_all_weights_or_with_a_pickle_is_refused(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    transformers.WavLMModel(transformers.WavLMConfig(**WAVEFORM)).save_pretrained(other)
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="its weights lack"):
        load_encoder(other)
    pickled = checkpoint(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(RunError, match=r"no model\.safetensors"):
        load_encoder(pickled)
