"""The benchmarks: the reference pipelines do what the tutorials do, and the measurements are right."""

import argparse
import importlib
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoFeatureExtractor, HubertForSequenceClassification

from auricle import recipes
from auricle.models.families.conformer import Options, network
from auricle.models.options import ModelSpec
from auricle.preparation.prepare import prepare, read

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import (  # noqa: E402
    _environment,
    _flops,
    _memory_monitor,
    _prepare_side,
    _reference_emotion,
    classify,
    conformer,
    device,
    finetune,
    growth,
    hour,
    lowdata,
    memory,
)
from benchmarks import _reference_sound as reference  # noqa: E402
from benchmarks import all as all_benchmarks  # noqa: E402
from benchmarks.__main__ import benchmarks  # noqa: E402
from docs import make_figures  # noqa: E402

from tests import checkpoints  # noqa: E402
from tests.conftest import write_corpus  # noqa: E402

CLASSES = 10
# librosa looks for all decoders that it could use, old ones too.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and slated for removal:DeprecationWarning")


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Six clips of different lengths, rates and channels, two of each of three classes."""
    generator = np.random.default_rng(0)
    paths = []
    for number, (seconds, rate, channels) in enumerate(
        [(0.5, 22_050, 1), (1.0, 44_100, 2), (4.5, 44_100, 1), (2.0, 16_000, 1), (0.2, 48_000, 2), (4.0, 44_100, 1)]
    ):
        path = tmp_path / "corpus" / f"class{number % 3}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.normal(0.0, 0.1, (int(seconds * rate), channels)), rate)
        paths.append(path)
    return paths


def batch(recordings: list[Path]) -> torch.Tensor:
    random.seed(0)  # the tutorial draws its masks from there
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
    assert torch.equal(reference.pad_or_crop(long), long[:, : reference.SAMPLES])
    short = torch.ones(2, 100)
    padded = reference.pad_or_crop(short)
    assert padded.shape == (2, reference.SAMPLES) and float(padded.sum()) == 200.0


def test_all_sides_of_the_preparation_prepare_every_clip(recordings: list[Path], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for side in _prepare_side.SIDES:
        found = _prepare_side.measure(side, corpus, tmp_path / side)
        assert found["clips"] == len(recordings)
        assert found["seconds"] > 0 and found["peak_mb"] > 1


def test_medians_are_those_of_numpy() -> None:
    values = [3.0, 9.0, 1.0, 4.0]
    assert _environment.median(values) == np.median(values)
    assert _environment.median(values[:3]) == np.median(values[:3])


def test_a_benchmark_without_its_recordings_names_the_layout_it_expects() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "prepare"], cwd=REPOSITORY, env={}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "AURICLE_DATA is not set" in done.stderr and "emodb/03a01Fa.wav" in done.stderr


def test_json_output_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = _environment.Screen(json=True)
    screen.machine()
    screen.table([("a", "b"), ("1", "2")])
    screen.result("sound", "ratio", 5.0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"] for line in lines] == ["machine", "result"]
    assert lines[-1] == {"record": "result", "name": "sound", "metric": "ratio", "value": 5.0}


def test_every_benchmark_understands_its_options() -> None:
    for name, title in benchmarks().items():
        own = argparse.ArgumentParser()
        importlib.import_module(f"benchmarks.{name}").add_arguments(own)
        assert title and "--" in own.format_help().replace("--help", "")
    parser = argparse.ArgumentParser()
    finetune.add_arguments(parser)
    given = parser.parse_args(["--full", "--epochs", "3", "--set", "train.seed=1", "--set", "train.learning_rate=1e-4"])
    assert given.full and given.epochs == 3 and given.set == ["train.seed=1", "train.learning_rate=1e-4"]


@pytest.mark.parametrize(("name", "top"), [("tiny-hubert", 2), ("tiny-wav2vec2-large", 1), ("tiny-distilhubert", 2)])
def test_operations_are_those_that_torch_counts(name: str, top: int) -> None:
    config = checkpoints.config_of(name, labels=7)
    model = checkpoints.AutoModelForAudioClassification.from_config(config, attn_implementation="eager").eval()
    for samples in (9_000, 16_000, 20_011):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, samples))
        work = _flops.forward_flops(config, samples, top)
        assert work.total == counter.get_total_flops()
        assert 0 < work.top < work.total
        assert _flops.forward_flops(config, samples, top + 1).top > work.top


def test_the_tutorial_runs_the_frozen_layers_in_every_epoch_and_auricle_once() -> None:
    config = checkpoints.config_of("tiny-hubert")
    work = _flops.forward_flops(config, 16_000, finetune.TOP)
    theirs, ours = finetune.operations(config, [16_000] * 3, [16_000], epochs=5)
    assert ours == pytest.approx(4 * work.below + 5 * 10 * work.top)
    assert theirs - ours == pytest.approx(4 * 4 * work.below)


def test_the_reference_pads_a_batch_to_its_longest_clip(tmp_path: Path) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(checkpoints.make("tiny-wav2vec2-large", tmp_path))
    rows = [{"input_values": [0.5] * count, "labels": label} for count, label in ((5, 1), (9, 0), (2, 2))]
    padded = _reference_emotion.PadBatch(extractor)(rows)
    assert padded["input_values"].shape == (3, 9)
    assert padded["attention_mask"].sum(1).tolist() == [5, 9, 2]
    assert padded["input_values"].sum(1).tolist() == pytest.approx([2.5, 4.5, 1.0])
    assert padded["labels"].tolist() == [1, 0, 2]


def test_the_reference_trains_the_top_layers_and_the_head_alone(recordings: list[Path], tmp_path: Path) -> None:
    checkpoint = checkpoints.make("tiny-hubert", tmp_path / "checkpoint", head=False)
    part = _reference_emotion.Part([str(path) for path in recordings], [0, 1, 2, 0, 1, 2])
    plan = _reference_emotion.Plan(epochs=2, batch_size=2, accumulation=2, learning_rate=1e-3, top=2)
    done = _reference_emotion.finetune(checkpoint, part, part, 3, plan, tmp_path)
    assert done.steps == 4 and 0 <= done.accuracy <= 1
    assert all(value > 0 for value in done.seconds.values())
    before = _reference_emotion.build(checkpoint, 3, plan).state_dict()
    after = HubertForSequenceClassification.from_pretrained(tmp_path / "model").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    top = ("hubert.encoder.layers.1.", "hubert.encoder.layers.2.", "projector.", "classifier.")
    assert moved and all(name.startswith(top) for name in moved)


@pytest.mark.parametrize("to_waveform", [False, True])
def test_the_references_gradients_stop_where_they_should(to_waveform: bool, tmp_path: Path) -> None:
    plan = _reference_emotion.Plan(1, 1, 1, 1e-3, top=2, to_waveform=to_waveform)
    checkpoint = checkpoints.make("tiny-hubert", tmp_path, head=False)
    front = _reference_emotion.build(checkpoint, 3, plan).train().base_model.feature_extractor
    assert front(torch.zeros(1, 2000)).requires_grad is to_waveform


def test_a_monitored_process_has_its_phases_output_and_memory() -> None:
    script = "import sys, time; block = bytearray(80_000_000); print('done'); time.sleep(0.5); sys.exit(3)"
    monitored = _memory_monitor.run_monitored([sys.executable, "-c", script], 0.05, lambda: "holding")
    assert (monitored.code, monitored.out, monitored.errors) == (3, "done\n", "")
    assert list(monitored.peaks) == ["holding"]
    assert 0.08 < monitored.peak.anonymous <= monitored.peak.total < 0.2


def test_labels_may_change_only_at_near_ties() -> None:
    reference_rows = [{"a": 0.6, "b": 0.4}, {"a": 0.505, "b": 0.495}, {"a": 0.2, "b": 0.8}]
    near = [{"a": 0.61, "b": 0.39}, {"a": 0.495, "b": 0.505}, {"a": 0.2, "b": 0.8}]
    found = classify.compare(reference_rows, near, 2e-2)
    assert (found.same, found.wrong, found.clips) == (2, 0, 3)
    assert found.difference == pytest.approx(0.01)
    assert classify.compare(reference_rows, near, 1e-4).wrong == 1


def test_the_generated_archive_is_laid_out_as_crema_d(tmp_path: Path) -> None:
    names = ["1001_DFA_ANG_XX.wav", "1002_IEO_SAD_HI.wav", "1003_TAI_NEU_XX.wav"]
    seconds = memory.write_archive(tmp_path / "archive.zip", names, b"ActorID\n1001\n")
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert archive.namelist() == ["VideoDemographics.csv", *(f"AudioWAV/{name}" for name in names)]
        with archive.open("AudioWAV/1002_IEO_SAD_HI.wav") as file:
            info = soundfile.info(file)
    assert info.samplerate == 16_000 and memory.MIN_SECONDS <= info.duration <= memory.MAX_SECONDS
    assert 3 * memory.MIN_SECONDS <= seconds <= 3 * memory.MAX_SECONDS


def test_clips_are_evenly_spaced(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.wav").touch()
    assert [path.stem for path in _environment.evenly_spaced(tmp_path, 5)] == ["0", "2", "4", "6", "8"]
    assert len(_environment.evenly_spaced(tmp_path, 99)) == 10


def test_the_plain_conformer_is_the_one_that_ours_is_measured_against() -> None:
    plain = conformer.Plain()
    labels = tuple(str(number) for number in range(conformer.SPEAKERS))
    ours = network.build(Options(size="reference"), ModelSpec(100, 1, labels, conformer.BANDS))
    weights = [sum(weight.numel() for weight in model.parameters()) for model in (plain, ours)]
    # Ours has no biases in its projections of attention; everything else is there on both sides.
    assert abs(weights[0] - weights[1]) == 6 * 3 * 512
    loss = plain(torch.randn(2, conformer.BANDS, 32), torch.tensor([1, 2]))
    assert torch.isfinite(loss)


def test_an_hour_is_monitored_through_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hour, "SECONDS", {"utterance": 2})
    hour.run(argparse.Namespace(size=["tutorial"]), _environment.Screen(True))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(row.get("size") == "tutorial" and 0.1 < row["peak_gb"] < 2 for row in rows)


def test_a_family_that_fails_on_the_device_is_reported_and_the_others_still_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(name: str, *_: object) -> device.Row:
        if name == "cnn":
            raise ValueError("no kernel")
        return device.Row(name, fault="logits differ" if name == "conformer" else "")

    monkeypatch.setattr(device, "_measure", measure)
    monkeypatch.setattr(device, "_corpus", lambda *_: None)
    monkeypatch.setattr(device, "_ratio", lambda *_: 1.0)
    with pytest.raises(SystemExit, match="1"):
        device.run(argparse.Namespace(clips=4, only=None), _environment.Screen(False))
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["cnn"].endswith("ValueError: no kernel") and rows["conformer"].endswith("logits differ")
    assert set(checkpoints.TINY) < set(rows) and rows["device"] == "device ratio 1"


def test_draws_of_few_training_clips_have_other_groups_than_their_tests(tmp_path: Path) -> None:
    recipe = recipes.load("baseline", values={"group": "name:1"})
    corpus = write_corpus(tmp_path / "corpus", per_class=12, groups=6)
    prepared = prepare(read(corpus, recipe), recipe, lambda done, total: None)
    draws = list(lowdata.draws_of(prepared, 3, count=4))
    for draw in draws:
        assert len(set(draw.train)) == 9 and (np.bincount(prepared.classes(draw.train)) == 3).all()
        assert not set(prepared.groups(draw.train)) & set(prepared.groups(draw.test)) and len(draw.test) == 12
    assert len({frozenset(draw.test) for draw in draws}) > 1
    (everything,) = lowdata.draws_of(prepared, 50, count=1)
    assert len(everything.train) + len(everything.test) == len(prepared.usable)
    accuracies = lowdata.measure(prepared, {3: draws})[3]
    assert len(accuracies) == 4 and accuracies.min() > 0.8


def test_results_are_kept_in_a_column_for_each_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        json.dumps({"record": "result", "name": "prepare emodb", "metric": "ratio", "value": 12.0}),
        "progress",
        json.dumps({"record": "machine", "cores": 2}),
    ]
    assert all_benchmarks.results_of("\n".join(lines)) == {"prepare emodb ratio": 12.0}
    path = tmp_path / "figures.json"
    for processor, value in (("one", 3.0), ("two", 5.0), ("one", 4.0)):
        monkeypatch.setattr(all_benchmarks, "machine", lambda processor=processor: {"processor": processor, "cores": 2})
        all_benchmarks.keep(path, {"prepare: ratio": value})
    columns = json.loads(path.read_text())
    assert [column["figures"]["prepare: ratio"]["value"] for column in columns] == [4.0, 5.0]
    assert make_figures.span(columns, "prepare: ratio") == "4.0 to 5.0"
    table = make_figures.table(columns).splitlines()
    assert (
        table[0].startswith("| `python -m benchmarks …` | result | one, 2 cores | two, 2 cores |") and "(20" in table[2]
    )


def test_growth_is_the_power_of_the_size_beyond_start_up() -> None:
    sizes = (100, 1000, 3000, 10_000)
    assert growth.exponent({size: 7.0 + 0.01 * (size - 100) for size in sizes}) == pytest.approx(1.0, abs=0.06)
    assert growth.exponent({size: 7.0 + (size / 100) ** 2 for size in sizes}) == pytest.approx(2.0, abs=0.02)
    assert growth.exponent(dict.fromkeys(sizes, 7.0)) == 0.0
