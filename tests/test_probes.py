"""The probe of a cached encoder: in every report, as the default recipe where it is better, never by the network."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import auricle
from auricle import recipes
from auricle.cli.main import main
from auricle.evaluation.intervals import Interval
from auricle.evaluation.page import loss_by_layer
from auricle.evaluation.report import FrozenEncoder, ProbeComparison, Report
from auricle.models import catalogue, hub_files
from auricle.models.catalogue import ENCODERS, CachedEncoder, cached_encoders, find, published_as
from auricle.preparation.prepare import prepare, read
from auricle.training import probes
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.checkpoints import make
from tests.conftest import write_corpus

NAME, COMMIT = "whisper-tiny.en", "a" * 40
SETTINGS = ("data.group=name:1", "data.test_size=0.25", "evaluate.bootstrap_resamples=100")


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the network was used")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the Hub that holds a tiny Whisper under a published name, on a machine without network."""
    folder = tmp_path_factory.mktemp("hf")
    repository = folder / "hub" / "models--openai--whisper-tiny.en"
    make("tiny-whisper", repository / "snapshots" / COMMIT, head=False)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(folder / "assets"))
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setenv("AURICLE_CACHE", str(folder / "auricle"))
        hub_files.hub_model.cache_clear()
        yield folder
        hub_files.hub_model.cache_clear()


@pytest.fixture(scope="module")
def clips(cache: Path) -> Path:
    return write_corpus(cache / "corpus")


@pytest.fixture(scope="module")
def baseline(cache: Path, clips: Path) -> Report:
    return run(clips, recipes.load("baseline", SETTINGS), cache / "baseline", ProgressReporter())


@pytest.fixture(scope="module")
def probed(cache: Path, clips: Path) -> Report:
    """A run of the probe of the cached encoder."""
    recipe = recipes.load("probe", SETTINGS, {"checkpoint": "openai/whisper-tiny.en", "model.revision": COMMIT})
    return run(clips, recipe, cache / "probe", ProgressReporter())


def test_a_report_has_the_probe_that_its_recipe_would_give(baseline: Report, probed: Report, cache: Path) -> None:
    assert baseline.probe is not None and baseline.probe.encoder == NAME
    for name, metric in probed.metrics.items():
        assert baseline.probe.metrics[name].value == pytest.approx(metric.value, abs=1e-6)
    gain = baseline.metrics["log_loss"].value - probed.metrics["log_loss"].value
    assert baseline.probe.gain["log_loss"].value == pytest.approx(gain, abs=1e-6)
    assert set(baseline.probe.losses) == {NAME} and f"{baseline.probe.losses[NAME]:.3f}" in baseline.probe_note
    assert Report.load(cache / "baseline" / "report.json") == baseline
    assert f"probe of {NAME}" in (cache / "baseline" / "report.html").read_text()
    assert f"probe of {NAME} |" in (cache / "baseline" / "model" / "README.md").read_text()
    assert f"Probe of {NAME}" in baseline.summary_html()


def test_a_probe_of_that_encoder_has_no_second_one(probed: Report) -> None:
    assert probed.probe is None and f"itself the probe of a cached encoder, {NAME}" in probed.probe_note


def test_a_probe_reports_its_layers(probed: Report, cache: Path) -> None:
    encoder = probed.model.encoder
    assert encoder is not None and Report.load(cache / "probe" / "report.json").model.encoder == encoder
    config = json.loads((cache / "probe" / "model" / "config.json").read_text())
    assert list(encoder.layers) == config["layers"] and len(encoder.layer_losses) == 4
    assert encoder.held_out_loss <= min(encoder.layer_losses) and encoder.license == find(NAME).license
    page, card = (cache / "probe" / "report.html").read_text(), (cache / "probe" / "model" / "README.md").read_text()
    for text in ("<dt>Frozen encoder</dt><dd>openai/whisper-tiny.en (apache-2.0)", encoder.description, "No test clip"):
        assert text in page
    assert "Fine-tuned from" not in page and "fine-tuned" not in card
    assert "the frozen encoder `openai/whisper-tiny.en`, whose licence (apache-2.0) applies too" in card


def test_the_curve_has_a_dot_on_each_layer_that_is_used() -> None:
    encoder = FrozenEncoder((1, 2), False, (0.8, 0.4, 0.2), 0.1, None)
    plot = loss_by_layer(encoder)
    assert plot is not None
    (line,) = plot.lines
    assert plot.dots == line.points[1:]
    heights = [1 - y for _, y in line.points]
    assert np.allclose(np.array(heights) / heights[0], np.array(encoder.layer_losses) / 0.8)
    assert loss_by_layer(None) is None and loss_by_layer(replace(encoder, layer_losses=())) is None


@pytest.mark.parametrize(
    ("layers", "text"), [((3,), "layer 3"), ((2, 3), "layers 2 to 3"), ((0, 2, 3, 4), "layers 0, 2 to 4")]
)
def test_layers_are_named_in_runs(layers: tuple[int, ...], text: str) -> None:
    assert FrozenEncoder(layers, True, (), 0.1, None).description == text


def test_a_better_probe_is_named_only_where_the_difference_shows() -> None:
    def advice(low: float, high: float) -> tuple[str, ...]:
        gain = {"accuracy": Interval((low + high) / 2, low, high)}
        return ProbeComparison(NAME, gain, gain, {}).advice

    (text,) = advice(-0.12, -0.04)
    assert "8.0 points more accurate" in text and "(4.0 to 12.0)" in text
    assert text.endswith(f"--recipe probe --checkpoint {NAME}.")
    assert not advice(-0.12, 0.01) and not advice(0.01, 0.1)


def test_without_a_cached_encoder_the_command_that_fetches_one_is_named(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / "empty"))
    report = run(clips, recipes.load("baseline", SETTINGS), tmp_path / "run", ProgressReporter())
    assert report.probe is None and not (tmp_path / "run" / "probe.parquet").exists()
    for name in ("mn04", NAME):
        assert f"`auricle encoders --fetch {name}`" in report.probe_note
    # Nothing is read either to choose a recipe.
    monkeypatch.setattr(probes, "read", refuse)
    sound = recipes.load("sound")
    messages: list[str] = []
    reporter = ProgressReporter(messages.append)
    assert probes.choose_recipe(clips, sound, recipes.alternative(), reporter, None) == sound and not messages


def test_tests_do_not_see_the_developers_own_cache() -> None:
    assert "auricle-hf-" in huggingface_hub.constants.HF_HOME


def test_a_cached_encoder_is_named_with_its_commit(cache: Path) -> None:
    assert cached_encoders() == [CachedEncoder(find(NAME), "openai/whisper-tiny.en", COMMIT)]
    assert hub_files.hub_model("openai/whisper-tiny.en", COMMIT).commit == COMMIT


def test_only_an_exact_source_names_the_licence() -> None:
    assert published_as("openai/whisper-tiny.en") == find(NAME) and published_as("mn04_as_mAP_432") == find("mn04")
    assert published_as("mn04_as") is None and published_as("") is None and published_as(None) is None


def test_the_largest_encoder_of_each_kind_within_the_limit_is_tried() -> None:
    cached = [CachedEncoder(encoder, encoder.name, None) for encoder in ENCODERS if encoder.is_supported]
    for seconds in (10.0, 1000.0, 10_000.0, 1e9):
        tried = probes.within_budget(cached, seconds)
        assert len(tried) <= 2
        for is_audioset in (False, True):
            sizes = [
                one.encoder.parameters
                for one in cached
                if (one.encoder.good_for == catalogue.AUDIOSET) == is_audioset
                and one.encoder.parameters * seconds <= probes.MAX_COST
            ]
            chosen = [one for one in tried if (one.encoder.good_for == catalogue.AUDIOSET) == is_audioset]
            assert [one.encoder.parameters for one in chosen] == ([max(sizes)] if sizes else [])


def test_too_much_audio_is_not_embedded(clips: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MAX_COST", 1.0)
    report = run(clips, recipes.load("baseline", SETTINGS), cache / "costly", ProgressReporter())
    assert report.probe is None and report.probe_note.endswith(f"--recipe probe --checkpoint {NAME}.")


def test_labels_of_test_clips_choose_nothing(clips: Path, cache: Path) -> None:
    recipe = recipes.load("probe", SETTINGS)
    corpus = prepare(read(clips, recipe), recipe.replace("audio", sample_rate=16_000), lambda done, total: None)
    tested = set(corpus.split.folds[0].test)
    swapped = tuple(replace(clip, label="low") if clip.id in tested else clip for clip in corpus.usable)
    changed = replace(corpus, usable=replace(corpus.usable, clips=swapped))
    assert set(changed.classes(tuple(tested))) != set(corpus.classes(tuple(tested)))
    (one,), _ = probes._try(cached_encoders(), corpus, recipe, ProgressReporter())
    (other,), _ = probes._try(cached_encoders(), changed, recipe, ProgressReporter())
    assert one.loss == other.loss and probes._baseline_loss(one.corpus) == probes._baseline_loss(other.corpus)


@pytest.mark.parametrize(("loss", "chosen"), [(float("inf"), "probe"), (0.0, "sound")])
def test_the_recipe_that_wins_on_held_out_training_clips_is_the_default(
    clips: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, loss: float, chosen: str
) -> None:
    monkeypatch.setattr(probes, "_baseline_loss", lambda corpus: loss)
    messages: list[str] = []
    recipe, alternative = recipes.load("sound", SETTINGS), recipes.alternative(SETTINGS)
    result = probes.choose_recipe(clips, recipe, alternative, ProgressReporter(messages.append), None)
    (message,) = messages
    assert result.name == chosen and message.startswith(f"Recipe {chosen}") and NAME in message
    other = "sound" if chosen == "probe" else f"probe --checkpoint {NAME}"
    assert message.endswith(f"Choose otherwise: --recipe {other}.")
    assert result.data == recipe.data


@pytest.mark.parametrize("setting", ["train.epochs=3", "model.size=tutorial", "audio.channels=2"])
def test_whoever_configures_the_network_gets_the_network(setting: str) -> None:
    assert recipes.alternative([setting]) is None and recipes.alternative((), {"batch_size": 4}) is None
    alternative = recipes.alternative(["train.seeds=3"], {"seed": 2, "group": "name:1"})
    assert alternative is not None and (alternative.train.seed, alternative.data.group) == (2, "name:1")


def test_train_without_a_recipe_chooses_and_resumes_what_it_chose(
    clips: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cache)
    monkeypatch.setattr(probes, "_baseline_loss", lambda corpus: float("inf"))
    words = ["train", str(clips), "--set", SETTINGS[1], "--set", SETTINGS[2], "--group", "name:1"]
    assert main(words) == 0
    assert "Choose otherwise: --recipe sound." in capsys.readouterr().out
    out = cache / "runs" / "corpus-probe"
    before = (out / "report.json").read_bytes()
    monkeypatch.setattr(probes, "_baseline_loss", refuse)
    assert main([*words, "--out", str(out), "--resume"]) == 0
    assert (out / "report.json").read_bytes() == before
    assert main([*words, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_python_chooses_as_the_command_line_does(
    clips: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probes, "_baseline_loss", lambda corpus: float("inf"))
    made = auricle.train(clips, out=tmp_path / "run", group="name:1", evaluate__bootstrap_resamples=100)
    assert made.recipe.name == "probe" and made.recipe.model.options["revision"] == COMMIT
