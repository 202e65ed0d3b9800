"""The family `probe`: statistics of a frozen encoder's layers, the choice of layers, and runs from end to end."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoFeatureExtractor

import auricle
from auricle import recipes
from auricle.cli.main import main
from auricle.evaluation import scoring
from auricle.models.encoders.opening import LayerStatistics, OpenEncoder, shared_encoder
from auricle.models.families.probe import network
from auricle.models.families.probe.network import Model, choose_layers
from auricle.models.load import load_model
from auricle.preparation.prepare import prepare, read
from auricle.run_folder import RunFolder
from auricle.training import closed_form
from auricle.training.cross_validation import scores_of
from auricle.training.fold import FoldData, Scorer
from auricle.training.progress import ProgressReporter
from auricle.training.run import resolve, run
from tests.conftest import write_corpus
from tests.test_encoders import folder
from tests.test_families import build, small_efficientat

RATE = 16_000


def statistics_of(name: str) -> tuple[LayerStatistics, torch.nn.Module]:
    opened = shared_encoder(str(folder(name)), None, {}, False)
    return LayerStatistics(opened.network.eval(), opened.preprocessor), opened.network


def mean_and_deviation(frames: torch.Tensor) -> torch.Tensor:
    return torch.cat([frames.mean(0), (frames.var(0, correction=0) + 1e-5).sqrt()])


@torch.inference_mode()
def test_whisper_is_cut_to_the_clip_and_each_layer_is_pooled_over_it() -> None:
    """Against the stock encoder's own parts, run over the positions of the clip alone."""
    statistics, _ = statistics_of("tiny-whisper")
    stock = transformers.AutoModelForAudioClassification.from_pretrained(folder("tiny-whisper")).eval().encoder
    extractor = AutoFeatureExtractor.from_pretrained(folder("tiny-whisper"))
    samples = torch.randn(RATE + 123, generator=torch.Generator().manual_seed(0)) * 0.2
    mel = extractor(samples.numpy(), sampling_rate=RATE, return_tensors="pt").input_features
    count = -(-len(samples) // 320)
    hidden = torch.nn.functional.gelu(stock.conv2(torch.nn.functional.gelu(stock.conv1(mel)))).transpose(1, 2)
    hidden = hidden[:, :count] + stock.embed_positions.weight[:count]
    expected = [mean_and_deviation(hidden[0])]
    for number, layer in enumerate(stock.layers):
        output = layer(hidden, attention_mask=None)
        hidden = output[0] if isinstance(output, tuple) else output
        is_last = number == len(stock.layers) - 1
        expected.append(mean_and_deviation((stock.layer_norm(hidden) if is_last else hidden)[0]))
    found = statistics(samples[None], None)
    assert len(found) == len(statistics) == len(stock.layers) + 1
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours[0] - theirs).abs().max() < 1e-4


@torch.inference_mode()
def test_silence_that_the_transformer_pads_with_is_not_pooled() -> None:
    """AST fills ten seconds in any case; its patches are pooled as far as the clip goes."""
    statistics, encoder = statistics_of("tiny-ast")
    samples = torch.randn(1, 6_000, generator=torch.Generator().manual_seed(0)) * 0.2
    hidden, frames = statistics.encoder.embed(*statistics.encoder.features(samples, torch.tensor([6_000])))  # type: ignore[union-attr]
    config = encoder.config
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    times = (config.max_length - config.patch_size) // config.time_stride + 1
    real = (int(frames) - config.patch_size) // config.time_stride + 1
    assert 0 < real < times and hidden.shape[1] == 2 + bands * times
    patches = hidden[0, 2:].reshape(bands, times, -1)[:, :real].flatten(0, 1)
    assert (statistics(samples, None, [0])[0][0] - mean_and_deviation(patches)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({(2,): 0.3, (1, 2): 0.4, (2, 3): 0.4, (1, 2, 3): 0.5, (0, 1, 2, 3, 4): 0.6}, [2]),
        ({(2,): 0.3, (1, 2): 0.2, (2, 3): 0.25, (1, 2, 3): 0.5, (0, 1, 2, 3, 4): 0.6}, [1, 2]),
        ({(2,): 0.3, (1, 2): 0.4, (2, 3): 0.4, (1, 2, 3): 0.5, (0, 1, 2, 3, 4): 0.1}, [0, 1, 2, 3, 4]),
        ({(4,): 0.3, (3, 4): 0.2, (0, 1, 2, 3, 4): 0.6}, [3, 4]),
    ],
)
def test_the_layers_with_the_least_loss_are_chosen(losses: dict[tuple[int, ...], float], expected: list[int]) -> None:
    asked = []

    def loss(layers: tuple[int, ...] | list[int]) -> float:
        asked.append(tuple(layers))
        return losses.get(tuple(layers), 1.0)

    chosen, alone = choose_layers(5, loss)
    assert chosen == expected and len(asked) == len(set(asked))
    assert alone == [losses.get((layer,), 1.0) for layer in range(5)]


def fitted(informative: str, **options: object) -> Model:
    """A probe fitted to noise in which one part tells the classes: a layer by number, or the descriptors."""
    model = build("probe", {"checkpoint": "tiny-wavlm", **options})
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    parts = [random.normal(0, 1, (90, size)) for size in (*model.config.layer_sizes, *model.config.descriptor_sizes)]
    place = len(model.config.layer_sizes) if informative == "descriptors" else int(informative)
    parts[place][:, :3] += 4 * np.eye(3)[labels]
    groups = np.arange(90) // 9
    model.fit(np.concatenate(parts, 1).astype(np.float32), labels, groups=groups, class_weighted=True, seed=0)
    return model


def test_the_part_that_tells_the_classes_is_used() -> None:
    second = fitted("2")
    assert second.config.layers == [2] and not second.config.joins_descriptors
    assert int(np.argmin(second.config.layer_losses)) == 2 and len(second.config.layer_losses) == 4
    assert fitted("descriptors").config.joins_descriptors
    forced = fitted("descriptors", layers=[1, 3], descriptors=False)
    assert forced.config.layers == [1, 3] and forced.config.joins_descriptors is False
    width = sum(forced.config.layer_sizes[layer] for layer in (1, 3))
    assert forced.embed(torch.randn(2, RATE) * 0.1).shape == (2, width)


def test_a_second_fit_begins_anew() -> None:
    """A fold fits to its training clips for a threshold, then to all: the choice is not stuck."""
    model = build("probe", {"checkpoint": "tiny-wavlm"})
    size = sum((*model.config.layer_sizes, *model.config.descriptor_sizes))
    random = np.random.default_rng(1)
    for _ in range(2):
        values = random.normal(0, 1, (60, size)).astype(np.float32)
        model.fit(values, np.arange(60) % 3, groups=None, class_weighted=False, seed=0)
        used = values[:, model.used_columns()]
        assert used.shape == (60, len(model.ridge.mean))


def trained(tmp_path: Path, name: str = "run", **settings: object) -> Path:
    recipe = recipes.load("probe", [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    run(tmp_path / "corpus", recipe, tmp_path / name, ProgressReporter())
    return tmp_path / name


def test_a_run_answers_as_its_model_and_embeds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus", per_class=12)
    checkpoint = {"model.checkpoint": str(folder("tiny-wavlm")), "evaluate.window_seconds": 0.3}
    first = trained(tmp_path, **checkpoint)
    report = auricle.Run(first).report
    assert report.model.type == "auricle-probe"
    (answers,) = first.glob("scores*.parquet")
    scores = scoring.Scores.load(answers)
    model = load_model(first / "model")
    corpus = {clip.id: clip for clip in auricle.inspect(tmp_path / "corpus").index}
    classifier = auricle.load(first)
    for id, logits in list(zip(scores.ids, scores.logits, strict=True))[:4]:
        found = {choice.label: choice.probability for choice in classifier(corpus[id].source).choices}
        expected = dict(zip(scores.labels, scoring.softmax(logits[None])[0], strict=True))
        assert found == pytest.approx(expected, abs=1e-4)
    assert model.config.window_seconds == 0.3, "clips of a second are cut into several windows"
    calls = []
    embed = scoring.embed_windows
    monkeypatch.setattr(scoring, "embed_windows", lambda *a, **k: calls.append(a) or embed(*a, **k))
    trained(tmp_path, "again", **checkpoint, **{"model.layers": [1], "model.descriptors": False})
    assert not calls, "another choice of layers is served by the vectors of the first run"
    assert json.loads((tmp_path / "again/model/config.json").read_text())["layers"] == [1]


def test_centers_are_embedded_once_and_scored_as_the_cut_clips_are(tmp_path: Path) -> None:
    """With windows shorter than some centers, too."""
    data = write_corpus(tmp_path / "corpus", seconds=2.0)
    values = {"checkpoint": str(folder("tiny-whisper"))}
    recipe = resolve(recipes.load("probe", ["evaluate.window_seconds=1.5", "data.split=random"], values=values))
    corpus = prepare(read(data, recipe), recipe, lambda *_: None)
    embeddings = closed_form.embed_once(corpus, ProgressReporter())
    fold = corpus.split.folds[0]
    trained = closed_form.fit_fold(FoldData(corpus, fold, RunFolder(tmp_path / "run"), ProgressReporter()), embeddings)
    kept = trained.embeddings
    assert kept is not None and kept.centers is not None and set(kept.centers) == {1.0, 2.0}
    full = scores_of(corpus, fold.test, kept.logits(trained.model, fold.test), fold.name)
    found = Scorer(trained.model, corpus, kept).centers(full, 1000)
    heard = Scorer(trained.model, corpus, replace(kept, centers=None)).centers(full, 1000)
    assert (found.ids, found.seconds.tolist()) == (heard.ids, heard.seconds.tolist()) and len(found) > 4
    assert np.abs(found.logits - heard.logits).max() < 1e-4


def test_an_efficientat_file_is_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path / "corpus", per_class=8)
    command = ["train", str(tmp_path / "corpus"), "--recipe", "probe", "--checkpoint", str(small_efficientat())]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert config["sample_rate"] == 32_000 and len(config["layer_sizes"]) == 19
    capsys.readouterr()


def test_what_cannot_work_is_refused_before_anything_is_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", per_class=4)
    monkeypatch.setattr("auricle.training.run.decode", lambda *a, **k: pytest.fail("decoded"))
    command = ["train", str(tmp_path / "corpus"), "--recipe", "probe", "--checkpoint", str(folder("tiny-wavlm"))]
    for setting, expected in {
        "model.layers=[9]": "has the layers 0 to 3",
        "model.layers=[1,1]": "each at most once",
        "audio.sample_rate=8000": "takes 16000 Hz",
        "audio.channels=2": "one channel",
    }.items():
        assert main([*command, "--set", setting, "--out", str(tmp_path / "run")]) == 2
        assert expected in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "nothing.pt")]) == 2
    assert "nothing.pt" in capsys.readouterr().err


def test_the_same_weights_have_the_same_digest() -> None:
    def digest(network: nn.Module) -> str:
        return OpenEncoder(network, {}, {}, None).digest

    ours = statistics_of("tiny-wavlm")[1]
    theirs = copy.deepcopy(ours)
    assert digest(ours) == digest(theirs)
    with torch.no_grad():
        next(theirs.parameters())[0] += 1e-3
    assert digest(ours) != digest(theirs)


def test_an_encoder_is_opened_once_while_its_files_stay_the_same(tmp_path: Path) -> None:
    copied = shutil.copytree(folder("tiny-hubert"), tmp_path / "copy")
    first = shared_encoder(str(copied), None, {}, False)
    assert shared_encoder(str(copied), None, {}, False) is first
    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({**weights, name: weights[name] + 1e-2}, copied / "model.safetensors", {"format": "pt"})
    changed = shared_encoder(str(copied), None, {}, False)
    assert changed is not first and changed.digest != first.digest


def test_descriptors_are_those_of_the_baseline() -> None:
    model, baseline = build("probe", {"checkpoint": "tiny-wavlm"}), build("baseline", {})
    assert baseline.config.n_mels == network.N_MELS and baseline.config.n_mfcc == network.N_MFCC
    assert list(model.config.descriptor_sizes) == list(baseline.config.part_sizes)
