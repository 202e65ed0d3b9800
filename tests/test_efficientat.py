"""EfficientAT's network: the published computation, padding, statistics, files, export and tags."""

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForAudioClassification

import auricle  # noqa: F401  registers the model type
from auricle.audio.recordings import recordings as listed
from auricle.cli.main import main
from auricle.errors import UsageError
from auricle.inference.tagging import open_tagger, tag
from auricle.models.encoders import efficientat, published
from tests.conftest import usage_error

RATE, HOP, WINDOW, N_FFT, MELS = 32_000, 320, 800, 1024, 128
# MobileNetV3-large (Howard et al. 2019, table 1) as EfficientAT widens it: kernel, expansion, channels, squeeze and
# excitation, activation, stride. Row 12 keeps 112 channels, and the last convolution has 6 times the last row's.
TABLE = """
    3  16  16 - RE 1
    3  64  24 - RE 2
    3  72  24 - RE 1
    5  72  40 S RE 2
    5 120  40 S RE 1
    5 120  40 S RE 1
    3 240  80 - HS 2
    3 200  80 - HS 1
    3 184  80 - HS 1
    3 184  80 - HS 1
    3 480 112 S HS 1
    3 672 112 S HS 1
    5 672 160 S HS 2
    5 960 160 S HS 1
    5 960 160 S HS 1
"""
SHORT = (1, 2, 3, 250, 400, 799, 801)


def reference_mel(waveform: np.ndarray) -> np.ndarray:
    """The published front end of one clip, in NumPy: (mels, frames)."""
    waveform = waveform.astype(np.float64)
    emphasized = waveform[1:] - 0.97 * waveform[:-1]
    padded = np.pad(emphasized, N_FFT // 2, mode="reflect")
    window = np.zeros(N_FFT)
    start = (N_FFT - WINDOW) // 2
    window[start : start + WINDOW] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    frames = [padded[begin : begin + N_FFT] * window for begin in range(0, len(padded) - N_FFT + 1, HOP)]
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = 1127.0 * np.log1p(np.arange(N_FFT // 2 + 1) * RATE / N_FFT / 700.0)
    edges = np.linspace(0.0, 1127.0 * math.log1p(15_000 / 700.0), MELS + 2)
    rising = (mel - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - mel) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return (np.log(filters @ power.T + 1e-5) + 4.5) / 5.0


def channels(count: int, width: float) -> int:
    """MobileNet's rounding: the nearest multiple of 8, but no loss of more than a tenth."""
    rounded = max(8, 8 * math.floor(count * width / 8 + 0.5))
    return rounded + 8 * (rounded < 0.9 * count * width)


def reference_maps(tensors: Mapping[str, Tensor], mel: np.ndarray, width: float) -> list[Tensor]:
    """The output of every layer for one clip, alone, with plain functions and the published names."""

    def convolve(values: Tensor, name: str, stride: int, activation: str, groups: int = 1) -> Tensor:
        weight = tensors[f"{name}.0.weight"]
        values = F.conv2d(values, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        norm = [tensors[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        values = F.batch_norm(values, *norm, training=False, eps=1e-3)
        return {"RE": F.relu, "HS": F.hardswish, "-": lambda same: same}[activation](values)

    values = convolve(torch.from_numpy(mel).float()[None, None], "features.0", 2, "HS")
    maps = [values]
    for number, line in enumerate(TABLE.strip().splitlines(), start=1):
        kernel, expansion, output, squeeze, activation, stride = line.split()
        expanded = channels(int(expansion), width)
        before, name, part = values, f"features.{number}.block", 0
        if expanded != before.shape[1]:
            values, part = convolve(values, f"{name}.0", 1, activation), 1
        assert tensors[f"{name}.{part}.0.weight"].shape == (expanded, 1, int(kernel), int(kernel))
        values, part = convolve(values, f"{name}.{part}", int(stride), activation, expanded), part + 1
        if squeeze == "S":
            hidden = values.mean((2, 3))
            for layer, function in (("fc1", F.relu), ("fc2", torch.sigmoid)):
                layer = f"{name}.{part}.conc_se_layers.0.{layer}"
                hidden = function(F.linear(hidden, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]))
            values, part = values * hidden[:, :, None, None], part + 1
        values = convolve(values, f"{name}.{part}", 1, "-")
        assert values.shape[1] == channels(int(output), width)
        if stride == "1" and before.shape == values.shape:
            values = values + before
        maps.append(values)
    return [*maps, convolve(values, "features.16", 1, "HS")]


def reference_logits(tensors: Mapping[str, Tensor], waveform: np.ndarray, width: float) -> Tensor:
    embedding = reference_maps(tensors, reference_mel(waveform), width)[-1].mean((2, 3))
    hidden = F.hardswish(F.linear(embedding, tensors["classifier.2.weight"], tensors["classifier.2.bias"]))
    return F.linear(hidden, tensors["classifier.5.weight"], tensors["classifier.5.bias"])[0]


def network(width: float = 0.4, classes: int = 527) -> efficientat.Model:
    """A network with random weights and statistics that keep every layer's output near one."""
    torch.manual_seed(0)
    model = efficientat.Model(efficientat.Config(width=width, num_labels=classes)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.uniform_(-0.3, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif name.startswith("classifier"):
                tensor.normal_(0.0, tensor.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def small() -> efficientat.Model:
    return network()


@pytest.fixture(scope="module")
def published_weights(weights: Path) -> Path:
    return weights / "mn04" / "mn04_as.safetensors"


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def noise(samples: int, seed: int = 0) -> Tensor:
    """A clip (1, samples) whose loudness and colour change, so that every frame differs."""
    generator = np.random.default_rng(seed)
    loudness = 0.3 * np.abs(np.sin(np.arange(samples) / 5000.0)) + 0.01
    return torch.from_numpy((generator.normal(0, 1, samples) * loudness).astype(np.float32))[None]


def check_logits(model: efficientat.Model, waveform: Tensor) -> None:
    expected = reference_logits(model.state_dict(), waveform[0].numpy(), model.config.width)
    assert expected.abs().max() > 0.1
    assert torch.allclose(model(waveform).logits[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [2, 3, 250, 400, 800, 801, 20_001, 48_000])
def test_the_front_end_is_the_published_one(samples: int, no_gradients: None) -> None:
    front_end = efficientat.FrontEnd(efficientat.Config())
    waveform = noise(samples)
    mel = front_end(waveform, torch.tensor([samples]))
    assert mel.shape == (1, MELS, int(front_end.frames(torch.tensor(samples))))
    assert np.allclose(mel[0].numpy(), reference_mel(waveform[0].numpy()), atol=1e-4)


@pytest.mark.parametrize("width", [0.1, 0.4, 1.0])
def test_random_networks_compute_the_documented_table(width: float, no_gradients: None) -> None:
    check_logits(network(width, classes=40), noise(30_000))


def test_the_published_network_computes_the_documented_table(published_weights: Path, no_gradients: None) -> None:
    check_logits(published.open_network(published_weights), noise(60_000))


def test_a_clip_has_the_same_answers_alone_and_in_a_padded_batch(small: efficientat.Model, no_gradients: None) -> None:
    lengths = [40_000, 17_777, 9_600, *SHORT]
    clips = [noise(samples, seed) for seed, samples in enumerate(lengths)]
    batch = torch.full((len(clips), max(lengths)), 0.7)  # what lies beyond a clip must not matter
    mask = torch.zeros(batch.shape, dtype=torch.int64)
    for row, clip in enumerate(clips):
        batch[row, : clip.shape[1]], mask[row, : clip.shape[1]] = clip[0], 1
    together = [*small.layer_statistics(batch, mask), small.embedding(batch, mask), small(batch, mask).logits]
    for row, clip in enumerate(clips):
        alone = [*small.layer_statistics(clip), small.embedding(clip), small(clip).logits]
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.allclose(ours[row], theirs[0], atol=1e-4), lengths[row]


def test_statistics_are_those_of_every_layer_then_the_embedding_and_the_logits(
    small: efficientat.Model, no_gradients: None
) -> None:
    waveform = noise(30_000)
    *layers, embedding, logits = small.layer_statistics(waveform)
    maps = reference_maps(small.state_dict(), reference_mel(waveform[0].numpy()), small.config.width)
    assert len(layers) == len(maps) == 17
    for layer, values in zip(layers, maps, strict=True):
        quarters = torch.stack([part.mean(1) for part in values[0].chunk(4, 1)], 1)
        expected = torch.cat([quarters.mean(-1).flatten(), quarters.var(-1, correction=0).sqrt().flatten()])
        assert torch.allclose(layer[0], expected, atol=1e-4)
    assert torch.allclose(embedding[0], maps[-1].mean((0, 2, 3)), atol=1e-4)
    assert torch.equal(logits, small(waveform).logits)
    assert torch.equal(logits, small.logits_from_embedding(embedding))


def test_gradients_reach_every_weight_of_a_padded_batch() -> None:
    model = network(0.1, classes=5).train()
    mask = torch.ones(2, 9_000, dtype=torch.int64)
    mask[1, 4_000:] = 0
    model(torch.cat([noise(9_000), noise(9_000, 1)]), mask).logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("width", [0.1, 0.2, 0.4, 0.5, 1.0, 2.0])
def test_width_and_classes_come_from_the_tensors(width: float, tmp_path: Path) -> None:
    torch.save(network(width, classes=7).state_dict(), tmp_path / "mn.pt")
    config = published.open_network(tmp_path / "mn.pt").config
    assert (config.width, config.num_labels) == (width, 7)


def test_published_names_open_from_both_formats_and_from_a_saved_folder(
    small: efficientat.Model, tmp_path: Path, no_gradients: None
) -> None:
    save_file(small.state_dict(), tmp_path / "mn.safetensors")
    torch.save(small.state_dict(), tmp_path / "mn.pt")
    opened = published.open_network(tmp_path / "mn.pt")
    opened.save_pretrained(tmp_path / "folder")
    again = AutoModelForAudioClassification.from_pretrained(tmp_path / "folder").eval()
    assert isinstance(again, efficientat.Model)
    others = [published.open_network(tmp_path / name) for name in ("mn.safetensors", "folder")]
    waveform = noise(20_000)
    for model in (opened, again, *others):
        assert model.config.id2label == opened.config.id2label
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in small.state_dict().items())
        assert torch.allclose(model(waveform).logits, small(waveform).logits, atol=1e-4)


def test_opening_leaves_the_callers_random_numbers_alone(small: efficientat.Model, tmp_path: Path) -> None:
    torch.save(small.state_dict(), tmp_path / "mn.pt")
    before = torch.get_rng_state()
    published.open_network(tmp_path / "mn.pt")
    assert torch.equal(before, torch.get_rng_state())


def test_audiosets_names_are_in_the_published_order() -> None:
    names = published.audioset_classes()
    assert len(names) == len(set(names)) == 527
    assert [names[number] for number in (0, 72, 137, 339, 526)] == [
        "Speech",
        "Animal",
        "Music",
        "Helicopter",
        "Field recording",
    ]


def test_what_is_no_such_network_is_refused_in_a_sentence(small: efficientat.Model, tmp_path: Path) -> None:
    tensors, content = dict(small.state_dict()), io.BytesIO()
    torch.save(tensors, content)
    save_file(tensors, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    files = {"half.safetensors": whole[: len(whole) // 2], "half.pt": content.getvalue()[: len(whole) // 2]}
    files |= {"text.pt": b"hello", "empty.pt": b"", "empty.safetensors": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save({"path": os.path.join}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    wrong = {**tensors, "features.0.0.weight": torch.zeros(16, 1, 3, 3), "extra": torch.zeros(1)}
    del wrong["features.16.1.bias"]
    torch.save(wrong, tmp_path / "wrong.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save(tensors, tmp_path / "mn10_as_hop_5_mAP_475.pt")
    expected = dict.fromkeys([*files, "code.pt"], "cannot be opened")
    expected |= {
        "list.pt": "no tensors by name",
        "other.pt": "lacks classifier.2.weight",
        "none.pt": "There is no file",
    }
    expected |= {"mn10_as_hop_5_mAP_475.pt": "another hop", ".": "config.json"}
    for name, text in expected.items():
        with pytest.raises(UsageError, match=text) as error:
            published.open_network(tmp_path / name)
        assert published.EXAMPLE in str(error.value)
    with pytest.raises(UsageError) as error:
        published.open_network(tmp_path / "wrong.pt")
    for text in ("lacks features.16.1.bias", "unexpected extra", "features.0.0.weight (16 by 1 by 3 by 3, not 8 by"):
        assert text in str(error.value)


def test_an_exported_graph_with_the_front_end_inside_answers_alike(
    tmp_path: Path, no_gradients: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    from auricle.export.trace import trace
    from auricle.models.onnx_runtime import OnnxModel

    # One block of every kind: tracing takes a second for each.
    monkeypatch.setattr(efficientat, "ROWS", tuple(efficientat.ROWS[number] for number in (0, 1, 2, 3, 12, 13)))
    model = network(0.4, classes=11)
    trace(model, tmp_path / "model.onnx")
    graph = OnnxModel.open(tmp_path / "model.onnx")
    lengths = np.array([24_000, 9_001, 300])
    batch = torch.cat([noise(24_000, seed) for seed in range(3)])
    mask = (torch.arange(24_000)[None, :] < torch.from_numpy(lengths)[:, None]).long()
    assert np.allclose(graph.logits(batch.numpy(), lengths), model(batch, mask).logits.numpy(), atol=1e-4)
    for samples in (1, 500, 50_000):
        clip = noise(samples)
        ours = graph.logits(clip.numpy(), np.array([samples]))
        assert np.allclose(ours, model(clip).logits.numpy(), atol=1e-4), samples


@pytest.fixture(scope="module")
def checkpoint(small: efficientat.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "mn.safetensors"
    save_file(small.state_dict(), path)
    return path


def test_tags_are_the_highest_scores_of_windows_of_ten_seconds(
    small: efficientat.Model, checkpoint: Path, tmp_path: Path, no_gradients: None
) -> None:
    samples = np.round(noise(23 * RATE)[0].numpy() * 32_768) / 32_768
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="PCM_16")
    (tagged,) = tag(open_tagger(checkpoint), listed([str(tmp_path / "long.wav")]), top=527)
    windows = torch.from_numpy(np.stack([samples[start * RATE : (start + 10) * RATE] for start in (0, 10, 13)])).float()
    expected = small(windows.clamp(-1, 1)).logits.sigmoid()
    names = published.audioset_classes()
    for found in tagged.tags:
        scores = expected[:, names.index(found.label)]
        assert found.score == pytest.approx(float(scores.max()), abs=1e-4)
        assert found.end - found.start == 10 and found.start in (0, 10, 13)
    assert [found.score for found in tagged.tags] == sorted((found.score for found in tagged.tags), reverse=True)


def test_the_command_prints_tags_as_text_and_as_json(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    files = [str(next(corpus.rglob("*.wav"))), str(tmp_path / "bad.wav")]
    assert main(["tag", *files, "--checkpoint", str(checkpoint), "--top-k", "3", "--json"]) == 1
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["file"] == files[0] and len(good["tags"]) == 3 and good["error"] is None
    assert bad["tags"] == [] and "unreadable" in bad["error"]
    assert main(["tag", files[0], "--checkpoint", str(checkpoint)]) == 0
    name, text = capsys.readouterr().out.rstrip("\n").split("\t")
    assert name == files[0] and text.startswith(f"{good['tags'][0]['label']} {good['tags'][0]['score']:.2f}   ")


def test_tagging_names_the_download_until_it_is_there(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from auricle.models import catalogue, hub_files

    monkeypatch.setattr(hub_files, "assets_folder", lambda: tmp_path)
    file = str(next(corpus.rglob("*.wav")))
    for options, name in (([], "mn04"), (["--checkpoint", "mn10"], "mn10")):
        message = usage_error(capsys, "tag", file, *options)
        assert f"auricle encoders --fetch {name}" in message and f"--checkpoint {published.EXAMPLE}" in message
    cached = tmp_path / "encoders" / "mn04" / catalogue.find("mn04").source.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save(load_file(checkpoint), cached)
    assert main(["tag", file]) == 0
    assert "hubert-base" not in usage_error(capsys, "tag", file, "--checkpoint", "hubert-base").partition("Allowed")[2]


# A class folder of ESC-10, and the AudioSet class that it is about.
ESC10 = {
    "Dog bark": "Bark",
    "Rain": "Rain",
    "Sea waves": "Waves, surf",
    "Baby cry": "Baby cry, infant cry",
    "Clock tick": "Tick",
    "Person sneeze": "Sneeze",
    "Helicopter": "Helicopter",
    "Chainsaw": "Chainsaw",
    "Rooster": "Crowing, cock-a-doodle-doo",
    "Fire crackling": "Crackle",
}


@pytest.mark.recordings
def test_each_class_of_esc10_scores_highest_on_its_own_recordings(published_weights: Path, recordings: Path) -> None:
    tagger = open_tagger(published_weights)
    scores = []
    for name in ESC10:
        (folder,) = (recordings / "esc10").glob(f"* - {name}")
        files = sorted(map(str, folder.glob("*.ogg")))[::5]
        rows = [{found.label: found.score for found in done.tags} for done in tag(tagger, listed(files), top=527)]
        scores.append([np.mean([row[label] for row in rows]) for label in ESC10.values()])
    assert np.array_equal(np.argmax(scores, axis=0), np.arange(len(ESC10)))


@pytest.mark.recordings
def test_the_published_embedding_separates_esc10_better_than_our_networks_from_nothing(
    published_weights: Path, recordings: Path
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from auricle.audio.recordings import read_recordings
    from auricle.models.torch_runtime import TorchRuntime

    tagger = open_tagger(published_weights)
    runtime = TorchRuntime(tagger.model)
    folder = recordings / "esc10"
    paths = sorted(folder.glob("*/*.ogg"))
    embeddings = [
        runtime.embed(one.samples.astype(np.float32) / 32_768, np.array([one.samples.shape[1]]))[0]
        for chunk in read_recordings(listed(map(str, paths)), tagger.settings)
        for one in chunk
    ]
    values, labels = np.stack(embeddings), np.array([path.parent.name for path in paths])
    folds = np.array([path.name[0] for path in paths])
    right = []
    for fold in np.unique(folds):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        classifier.fit(values[folds != fold], labels[folds != fold])
        right.append(classifier.predict(values[folds == fold]) == labels[folds == fold])
    assert len(labels) == 400 and np.mean(np.concatenate(right)) > 0.95
