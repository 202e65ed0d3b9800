"""Exported models: they answer as PyTorch does, for any batch, length and family, and without PyTorch being there."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

import auricle
from auricle import recipes
from auricle.audio import recordings as files
from auricle.cli.main import main
from auricle.errors import RunError, UsageError
from auricle.evaluation import scoring
from auricle.export import onnx as onnx_export
from auricle.export.onnx import export
from auricle.export.parity import check_parity
from auricle.export.quantize import Int8Result, compare_int8, quantize
from auricle.export.trace import OUTPUTS, trace
from auricle.inference.classifier import Classifier
from auricle.models.families.conformer import network as conformer
from auricle.models.onnx_runtime import OnnxModel
from auricle.preparation.windows import from_arrays
from auricle.recipe import parse
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import write_corpus
from tests.test_encoders import NAMES
from tests.test_families import LABELS, PROBED, RATE, arrays, build, built_once

BANDS = 20
# The cheapest to trace that together pass through every branch which is there for graphs alone, with the network of two
# channels below, which has the instant baseline in it.
QUICK: list[tuple[str, dict[str, object]]] = [
    ("conformer", {"size": "default", "ensemble_baseline": False}),
    ("pretrained", {"checkpoint": "tiny-hubert"}),
]
REST: list[tuple[str, dict[str, object]]] = [
    ("baseline", {}),
    ("cnn", {"size": "default"}),
    ("cnn", {"size": "tutorial"}),
    ("conformer", {"size": "default"}),
    ("conformer", {"size": "tutorial"}),
    ("conformer", {"size": "reference"}),
    *(("pretrained", {"checkpoint": kind}) for kind in NAMES if kind != "tiny-hubert"),
    *(("probe", {"checkpoint": kind}) for kind in PROBED),
    ("pretrained", {"checkpoint": "tiny-hubert", "pooling": "attention", "head": {"kind": "am-softmax"}}),
    ("pretrained", {"checkpoint": "tiny-wav2vec2", "pooling": "statistics"}),
    ("pretrained", {"checkpoint": "tiny-hubert", "weighted_sum": True}),
]


def traced(model: Any) -> tuple[OnnxModel, Path, set[str]]:
    path = Path(mkdtemp()) / "model.onnx"
    products = trace(model, path)
    return OnnxModel.open(path), path, products


@cache
def cheap() -> tuple[Any, OnnxModel, Path, set[str]]:
    """A model that is traced in seconds, with settings of its own, and its graph."""
    model = build("conformer", {"size": "tutorial"})
    model.apply_temperature(1.7)
    model.config.threshold, model.config.max_false_accept_rate = 0.61, 0.05
    model.config.window_seconds, model.config.median_clip_seconds = 2.0, 1.25
    return model, *traced(model)


def max_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(scoring.softmax(ours) - scoring.softmax(theirs)).max())


def check_agreement(model: Any, graph: OnnxModel, clips: list[np.ndarray]) -> None:
    """Alone, in a padded batch, behind longer padding that is no silence: the graph gives what the model gives."""
    expected, vectors = (
        judge(model, from_arrays(clips), batch_seconds=1000) for judge in (scoring.score, scoring.vectors)
    )
    assert expected.std(0).max() > 0.1, "answers that do not differ prove nothing"
    assert max_difference(scoring.score(graph, from_arrays(clips), batch_seconds=1000), expected) < 1e-4
    assert np.abs(scoring.vectors(graph, from_arrays(clips), batch_seconds=1000) - vectors).max() < 1e-4
    for clip in (2, 0, len(clips) - 1):
        assert (
            max_difference(
                scoring.score(graph, from_arrays([clips[clip]]), batch_seconds=1000), expected[clip : clip + 1]
            )
            < 1e-4
        )
    scale = 32768 if clips[0].dtype == np.int16 else 1
    first = clips[0].astype(np.float32) / scale
    dirty = np.concatenate([first, np.full((len(first), 7_777), 0.7, np.float32)], 1)
    values = dirty[None] if len(dirty) > 1 else dirty
    assert max_difference(graph.logits(values, np.array([first.shape[-1]])), expected[:1]) < 1e-4


def check_extreme_inputs(model: Any, graph: OnnxModel) -> None:
    """The shortest clip, silence and full scale."""
    for values in (*(np.full((1, count), 0.3, np.float32) for count in (1, 16, 80, 500)), np.zeros((1, RATE))):
        values = values.astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(values)).logits.numpy()
        found = graph.logits(values, np.array([values.shape[-1]]))
        assert np.isfinite(found).all() and max_difference(found, expected) < 1e-4
    assert np.isfinite(graph.logits(np.ones((2, RATE), np.float32), np.array([RATE, 1]))).all()


@pytest.mark.parametrize(("name", "options"), QUICK)
def test_a_graph_answers_as_its_model(name: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    # All blocks are alike, and tracing takes seconds for each.
    monkeypatch.setitem(conformer.SIZES["default"], "num_hidden_layers", 1)
    model = built_once.__wrapped__(name, json.dumps(options))
    graph, _, _ = traced(model)
    check_agreement(model, graph, arrays())
    check_extreme_inputs(model, graph)


def test_a_graph_of_precomputed_features_and_one_of_two_channels_answer_as_their_models() -> None:
    settings = {"audio": {"sample_rate": 100, "num_features": BANDS}, "model": {"family": "baseline"}}
    from auricle.models.load import build_model

    model = build_model(parse(settings, "t"), LABELS)
    random = np.random.default_rng(0)
    clips = [random.normal(number % 3, 1, (BANDS, 30 + 11 * number)).astype(np.float32) for number in range(9)]
    embedded = scoring.embed(model, from_arrays(clips), batch_seconds=100)
    model.fit(embedded, np.arange(9) % 3, groups=None, class_weighted=False, seed=0)
    graph, _, products = traced(model.eval())
    assert graph.info.num_features == BANDS and not products
    check_agreement(model, graph, clips)
    stereo = build("cnn", {"size": "tutorial", "ensemble_baseline": True}, channels=2)
    graph, _, _ = traced(stereo)
    clips = [np.concatenate([clip, clip[:, ::-1]]) for clip in arrays()]
    check_agreement(stereo, graph, clips)


@pytest.mark.recordings
@pytest.mark.parametrize(("name", "options"), [*QUICK, *REST])
def test_every_kind_of_model_agrees_with_its_export_on_real_clips(
    name: str, options: dict[str, object], recordings: Path
) -> None:
    model = build(name, options)
    graph, _, _ = traced(model)
    check_agreement(model, graph, arrays())
    check_extreme_inputs(model, graph)
    some = files.recordings(sorted(map(str, (recordings / "emodb").glob("*.wav")))[::20])
    chunks = files.read_recordings(some, Classifier(model).settings, whole=True)
    clips = [clip.samples for chunk in chunks for clip in chunk]
    assert check_parity(model, graph, from_arrays(clips)).max_difference < 1e-4


def test_the_metadata_holds_the_models_settings() -> None:
    model, graph, _, _ = cheap()
    metadata = graph.info
    assert metadata.labels == LABELS == tuple(model.config.id2label[number] for number in range(3))
    assert (metadata.sample_rate, metadata.channels, metadata.num_features, metadata.model_type) == (
        RATE,
        1,
        None,
        "auricle-conformer",
    )
    assert (metadata.temperature, metadata.threshold, metadata.max_false_accept_rate) == (1.7, 0.61, 0.05)
    assert (metadata.window_seconds, metadata.overlap, metadata.median_clip_seconds, metadata.precision) == (
        2.0,
        0.5,
        1.25,
        "float32",
    )
    assert tuple(output.name for output in graph.session.get_outputs()) == OUTPUTS
    values, lengths = np.zeros((2, RATE), np.float32), np.array([RATE, 500])
    probabilities = graph.session.run(["probabilities"], {"waveform": values, "lengths": lengths})[0]
    assert np.abs(probabilities - scoring.softmax(graph.logits(values, lengths))).max() < 1e-6
    check_agreement(model, graph, arrays())  # windows are averaged alike


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, trained for a moment, with its export in RUN/onnx."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["model.size=tutorial", "model.ensemble_baseline=false", "train.epochs=2", "evaluate.embed_audio=false"]
    settings.append("data.validation_size=0.3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(folder / "cache"))
        run(write_corpus(folder / "corpus"), recipes.load("sound", settings), folder / "run", ProgressReporter())
        products: list[set[str]] = []
        patch.setattr(onnx_export, "trace", lambda *given: products.append(trace(*given)) or products[0])
        assert main(["export", str(folder / "run"), "--onnx"]) == 0
    (folder / "products.json").write_text(json.dumps(sorted(products[0])))
    return folder / "run"


@pytest.fixture
def traced_before(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further exports of the small network have the graph of the first."""

    def copied(_: Any, path: Path) -> set[str]:
        shutil.copyfile(trained / "onnx" / path.name, path)
        return set(json.loads((trained.parent / "products.json").read_text()))

    monkeypatch.setattr(onnx_export, "trace", copied)


def test_an_exported_folder_answers_without_pytorch(trained: Path) -> None:
    corpus = trained.parent / "corpus"
    facts = json.loads((trained / "onnx" / "export.json").read_text())
    parity = facts["parity"]
    assert parity["clips"] >= 4 and parity["max_difference"] < 1e-4
    assert min(parity["pytorch_clips_per_second"], parity["onnx_clips_per_second"]) > 0
    assert "| `waveform` (in) |" in (trained / "onnx" / "README.md").read_text()
    code = (
        "import sys, json\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxscript', 'sklearn', 'scipy'): sys.modules[name] = None\n"
        "import auricle\n"
        "from auricle.audio.recordings import recordings\n"
        f"classifier = auricle.load({str(trained / 'onnx')!r})\n"
        f"answers = classifier.predict(recordings([{str(corpus)!r}]))\n"
        "print(json.dumps([[one.name, {row.label: row.probability for row in one.choices}] for one in answers]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {answer.name: answer for answer in auricle.load(trained).predict(files.recordings([str(corpus)]))}
    rows = json.loads(done.stdout)
    assert len(rows) == len(expected) == 24
    for name, found in rows:
        for choice in expected[name].choices:
            assert found[choice.label] == pytest.approx(choice.probability, abs=1e-4)


def test_the_command_line_answers_from_an_exported_folder_without_pytorch(trained: Path) -> None:
    file = trained.parent / "corpus" / "low" / "device0_000.wav"
    heavy = ("torch", "transformers", "sklearn", "datasets", "accelerate", "onnx")
    code = (
        f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
        "from auricle.cli.main import main\n"
        f"sys.exit(main(['predict', {str(trained / 'onnx')!r}, {str(file)!r}, '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["error"] is None


@pytest.mark.usefixtures("traced_before")
def test_a_graph_that_differs_is_refused_and_the_former_export_stays(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (trained / "onnx").iterdir()}
    plain = OnnxModel.logits
    off = np.array([0.01, 0.0, 0.0])
    monkeypatch.setattr(OnnxModel, "logits", lambda graph, values, lengths: plain(graph, values, lengths) + off)
    assert main(["export", str(trained), "--onnx"]) == 2
    message = capsys.readouterr().err
    assert "differs by up to 0.00" in message or "e-03" in message
    assert "0.0001 is allowed" in message and "Traceback" not in message
    assert {path.name: path.read_bytes() for path in (trained / "onnx").iterdir()} == before
    assert not list(trained.glob(".onnx-*"))


@pytest.mark.usefixtures("traced_before")
@pytest.mark.parametrize(
    ("rates", "accuracies", "refused"),
    [
        ((10.0, 20.0), (0.90, 0.895), None),
        ((10.0, 9.0), (0.90, 0.95), "not 1.05 times as fast on this machine"),
        ((10.0, 20.0), (0.90, 0.88), "loses 0.020 of accuracy, and 0.01 is allowed"),
    ],
)
def test_int8_is_kept_where_it_is_faster_and_as_good_and_refused_with_the_measurement(
    rates: tuple[float, float],
    accuracies: tuple[float, float],
    refused: str | None,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = Int8Result(200, *accuracies, *rates, max_difference=0.01, tolerance=0.01)
    monkeypatch.setattr(onnx_export, "compare_int8", lambda *_: result)
    if refused is None:
        exported = export(trained, tmp_path / "out", int8=True)
        assert exported.precision == "int8" and exported.int8 is not None
        assert exported.int8.accuracy_loss == pytest.approx(0.005)
        facts = json.loads((tmp_path / "out" / "export.json").read_text())
        assert facts["precision"] == "int8" and facts["int8"]["int8_accuracy"] == 0.895
        assert OnnxModel.open(tmp_path / "out").info.precision == "int8"
        return
    with pytest.raises(RunError, match=refused) as error:
        export(trained, tmp_path / "out", int8=True)
    assert f"{rates[1]:.1f} clips/s" in str(error.value) and f"{accuracies[1]:.3f}" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_int8_of_a_small_network_is_measured_and_answers_for_each_clip_alone(tmp_path: Path) -> None:
    model, graph, path, products = cheap()
    assert len(products) >= 4
    quantize(path, tmp_path / "model.onnx", products)
    small = OnnxModel.open(tmp_path)
    clips = from_arrays(arrays())
    found = compare_int8(graph, small, clips, np.arange(len(clips)) % 3, 0.01)
    assert found.clips == 12 and 1e-6 < found.max_difference < 0.1 and found.speedup > 0
    together = scoring.score(small, clips, batch_seconds=1000)
    alone = np.concatenate([scoring.score(small, from_arrays([clip]), batch_seconds=1000) for clip in arrays()])
    assert (together == alone).all()
    assert small.info.labels == graph.info.labels and small.info.precision == "int8"
    assert max_difference(scoring.score(model, clips, batch_seconds=1000), together) < 0.1


def test_what_is_no_export_is_refused(tmp_path: Path, trained: Path) -> None:
    import onnx

    with pytest.raises(RunError, match="no exported model"):
        OnnxModel.open(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(RunError, match="no model that ONNX Runtime can open"):
        OnnxModel.open(tmp_path)
    made = onnx.load(trained / "onnx" / "model.onnx")
    del made.metadata_props[:]
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(RunError, match="no export of auricle"):
        OnnxModel.open(tmp_path)


@pytest.mark.usefixtures("traced_before")
def test_without_clips_to_compare_on_an_export_asks_for_some(trained: Path, tmp_path: Path) -> None:
    folder, wav = trained / "model", str(next((trained.parent / "corpus").rglob("*.wav")))
    with pytest.raises(RunError, match=r"none can be opened.*--check FILE"):
        export(folder, tmp_path / "out")
    exported = export(folder, tmp_path / "out", check=[wav])
    assert exported.parity.clips == 1 and auricle.load(tmp_path / "out")(wav).error is None
    with pytest.raises(UsageError, match="something other than an export"):
        export(trained, trained.parent / "corpus")


def test_onnx_runtime_is_named_where_it_is_missing(trained: Path) -> None:
    code = (
        f"import sys\nsys.modules['onnxruntime'] = None\nimport auricle\nauricle.load({str(trained)!r}, runtime='onnx')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "MissingExtra" in done.stderr and "pip install 'auricle[onnx]'" in done.stderr
