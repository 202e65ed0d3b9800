"""Fine-tuning from a checkpoint: frozen once, in stages, resumed exactly, saved as a stock model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, pipeline

from auricle import recipes
from auricle.errors import UsageError
from auricle.evaluation import scoring
from auricle.inference.classifier import load
from auricle.models import registration
from auricle.models.families.pretrained import Options
from auricle.models.families.pretrained.network import Model
from auricle.models.load import build_model
from auricle.preparation.prepare import LabelledClips
from auricle.preparation.windows import from_arrays
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder
from auricle.training import freezing, frozen_features
from auricle.training import train as training
from auricle.training.finetune import report_parts
from auricle.training.freezing import PartiallyFrozenModel
from auricle.training.frozen_features import ClipView, CropPlan, FrozenFeatures, encoder_part
from auricle.training.progress import ProgressReporter
from auricle.training.run import resolve, run
from auricle.training.task import frozen_feature_task, waveform_task
from tests.conftest import PITCHES, tone, write_corpus
from tests.processes import run_python
from tests.test_encoders import NAMES, folder

RATE = 16_000
LABELS = tuple(PITCHES)
TOP = ["model.stages=[]", "model.freeze={top: 1}"]


def small(checkpoint: str | Path, *settings: str, recipe: str = "emotion-reference") -> Recipe:
    """The recipe as it comes, made short."""
    return recipes.load(
        recipe,
        [
            f"model.checkpoint={checkpoint}",
            "train.epochs=2",
            "train.batch_size=6",
            "train.gradient_accumulation_steps=1",
            "train.precision=float32",
            "evaluate.bootstrap_resamples=100",
            "data.validation_size=0.2",
            *([] if "data.split=folds" in settings else ["data.test_size=0.25"]),
            *settings,
        ],
    )


def resolved(recipe: Recipe) -> Recipe:
    return resolve(recipe)


def sounds(count: int, seconds: float = 0.4) -> list[np.ndarray]:
    waves = [tone(LABELS[number % 3], seconds + 0.07 * (number % 5), number, RATE) for number in range(count)]
    return [(wave * 32767).astype(np.int16)[None] for wave in waves]


def material(count: int) -> LabelledClips:
    return LabelledClips(from_arrays(sounds(count)), np.arange(count) % 3)


def learn(
    settings: Recipe, out: Path, *, count: int = 18, stop_after: int | None = None, off: bool = False
) -> tuple[Any, list[float]]:
    """Train on a few sounds, through the prefix where there is one; returns the model and the losses."""
    settings = resolve(settings.replace("audio", sample_rate=None))
    options = registration.parse_options(settings)
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(settings, LABELS, options)
    plan = freezing.plan(model, options, settings.train.learning_rate)
    adapters = freezing.add_adapters(model, options, plan) if options.lora else None
    learnt = material(count)
    depth = freezing.frozen_depth(model, plan)
    if off or depth is None:
        task = waveform_task(model, settings, learnt, material(6), plan)
    else:
        crops = CropPlan.of(settings, RATE, options.cached_crops)
        cut = scoring.windows_of(model.config, learnt.audio.lengths)
        bf16 = settings.train.precision == "bf16"
        computed = FrozenFeatures(
            encoder_part(model, depth, bf16),
            learnt.audio.lengths,
            cut,
            range(count),
            crops,
            folder=out,
            identity="these sounds",
        )
        computed.compute(learnt.audio, lambda *_: None)
        part = (list(range(count)), learnt.labels)
        task = frozen_feature_task(model, settings, plan, computed, part, (part[0][:6], part[1][:6]))
    losses: list[float] = []

    def listen(epoch: Any) -> None:
        losses.append(epoch.loss)
        if stop_after is not None and epoch.epoch > stop_after:
            raise KeyboardInterrupt

    try:
        training.train(model, settings, task, RunFolder(out), listen)
    except KeyboardInterrupt:
        assert stop_after is not None
    if adapters is not None:
        adapters.merge_and_unload()
    return model, losses


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # of WavLM's stock attention
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_is_trained_saved_opened_by_a_stock_pipeline_and_predicts(name: str, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "corpus")
    report = run(data, small(folder(name, head=False), *TOP), tmp_path / "run", ProgressReporter())
    assert report.model.type == AutoConfig.from_pretrained(folder(name)).model_type
    saved = tmp_path / "run" / "model"
    config = json.loads((saved / "config.json").read_text())
    assert set(config["id2label"].values()) == set(LABELS) == set(config["label2id"])
    assert not list(saved.glob("*.bin"))
    file = data / "low" / "device0_000.wav"
    classifier = load(tmp_path / "run", "float32")
    answer = classifier(file)
    samples = classifier_input(file)
    rows = pipeline("audio-classification", model=str(saved), device="cpu")(samples, top_k=3)
    ours = {choice.label: choice.probability for choice in answer.choices}
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(ours, abs=1e-4)


def classifier_input(file: Path) -> np.ndarray:
    """A file as the classifier hears it: resampled, in 16-bit steps."""
    from auricle.audio import decode

    sound = decode.decode(file.read_bytes())
    return decode.resample(sound, RATE, 1)[0].astype(np.float32) / 32768.0


def test_the_saved_model_opens_without_auricle(tmp_path: Path) -> None:
    run(write_corpus(tmp_path / "corpus"), small(folder("tiny-hubert"), *TOP), tmp_path / "run", ProgressReporter())
    code = (
        "import sys, numpy as np\n"
        "from transformers import pipeline\n"
        f"answer = pipeline('audio-classification', model={str(tmp_path / 'run' / 'model')!r})\n"
        "rows = answer(np.sin(np.arange(16000) / 20).astype(np.float32))\n"
        "assert not any(name.startswith('auricle') for name in sys.modules)\n"
        "print(sorted(row['label'] for row in rows))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(LABELS))


@pytest.mark.parametrize("settings", [TOP, ["model.freeze=all", "model.stages=[]"], ["model.weighted_sum=true"]])
def test_training_through_the_prefix_is_training_without_it(settings: list[str], tmp_path: Path) -> None:
    checkpoint = folder("tiny-hubert")
    kept, losses = learn(small(checkpoint, *settings), tmp_path / "kept")
    every, expected = learn(small(checkpoint, *settings), tmp_path / "every", off=True)
    assert losses == pytest.approx(expected, abs=1e-4)
    for name, value in weights(every).items():
        assert (value - weights(kept)[name]).abs().max() < 1e-3, name


def test_what_is_frozen_stays_and_the_rest_moves(tmp_path: Path) -> None:
    before = load_file(folder("tiny-hubert") / "model.safetensors")
    model, _ = learn(small(folder("tiny-hubert"), *TOP), tmp_path)
    after = weights(model)
    for name, value in before.items():
        moved = not torch.equal(value, after[name])
        assert moved == (".layers.2." in name or name.startswith(("projector", "classifier"))), name


def test_stages_train_the_head_first_each_at_its_own_rate(tmp_path: Path) -> None:
    stages = (
        "[{from_epoch: 1, freeze: all, learning_rate: 0.01}, {from_epoch: 3, freeze: {top: 2}, learning_rate: 0.001}]"
    )
    settings = small(folder("tiny-hubert"), f"model.stages={stages}", "train.epochs=4", "train.warmup_ratio=0")
    rates: list[float] = []
    moved: list[set[str]] = []
    before = load_file(folder("tiny-hubert") / "model.safetensors")
    train = PartiallyFrozenModel.begin

    def begin(self: PartiallyFrozenModel, epoch: int) -> None:
        train(self, epoch)
        rates.append(self.stage.learning_rate)
        now = {name: value.clone() for name, value in self.model.network.state_dict().items()}
        moved.append({name for name in before if not torch.equal(before[name], now[name])})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PartiallyFrozenModel, "begin", begin)
        learn(settings, tmp_path)
    assert rates == [0.01, 0.01, 0.01, 0.001, 0.001]
    assert moved[2] == moved[3] == {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"}
    assert any(".layers.1." in name for name in moved[4])
    assert not any(".layers.0." in name for name in moved[4])
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines[1]["learning_rate"] < lines[0]["learning_rate"] <= 0.01
    assert lines[2]["learning_rate"] <= 0.001


def test_the_learning_rate_falls_from_layer_to_layer() -> None:
    settings = resolved(small(folder("tiny-hubert"), "model.layer_decay=0.5", "model.stages=[]", "model.freeze=none"))
    model = build_model(settings, LABELS)
    options = Options.model_validate(settings.model.options)
    learner = PartiallyFrozenModel(model, freezing.plan(model, options, 1e-3))
    groups = learner.parameter_groups(set(), 0.01)
    scale_of = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    named = dict(model.network.named_parameters())
    assert scale_of[id(named["classifier.weight"])] == 1.0
    assert scale_of[id(named["hubert.encoder.layers.2.layer_norm.weight"])] == 0.5
    assert scale_of[id(named["hubert.encoder.layers.0.layer_norm.weight"])] == 0.125
    assert scale_of[id(named["hubert.feature_projection.projection.weight"])] == 0.0625
    assert scale_of[id(named["hubert.feature_extractor.conv_layers.0.conv.weight"])] == 0.03125
    assert len(scale_of) == len(named)


@pytest.mark.parametrize("name", ["tiny-hubert", "tiny-wavlm", "tiny-w2v-bert", "tiny-whisper", "tiny-ast"])
def test_adapters_learn_and_are_merged_into_a_stock_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    checkpoint = folder(name)
    settings = small(checkpoint, "model.stages=[]", "model.freeze={top: 1}", "model.lora={rank: 2, alpha: 8}")
    model, losses = learn(settings.replace("train", learning_rate=0.02, epochs=5), tmp_path)
    before = weights(Model.from_pretrained(checkpoint))
    assert weights(model).keys() == before.keys() and losses[-1] < losses[0]
    changed = {key for key in before if not torch.equal(before[key], weights(model)[key])}
    layers = {key for key in changed if ".layers." in key}
    assert layers and all(any(target in key for target in model.encoder.lora_targets) for key in layers)
    assert all(f".layers.{len(model.encoder.layers) - 1}." in key for key in layers)


@pytest.mark.parametrize("settings", [[], ["model.stages=[]", "model.freeze=none"]])
def test_stopped_and_resumed_it_ends_in_the_same_weights(settings: list[str], tmp_path: Path) -> None:
    """Two stages through the prefix, and everything trained with dropout, left-out layers and hidden spans."""
    recipe = small(folder("tiny-hubert"), *settings, "train.epochs=4", "train.ema_decay=0.5")
    whole, _ = learn(recipe, tmp_path / "whole")
    learn(recipe, tmp_path / "parts", stop_after=2)
    resumed, losses = learn(recipe, tmp_path / "parts")
    assert len(losses) < 4
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_few_steps_leave_their_checkpoints(tmp_path: Path) -> None:
    learn(small(folder("tiny-hubert"), "train.batch_size=18", "train.epochs=2"), tmp_path)
    kept = sorted((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert [path.name for path in kept] == ["checkpoint-1", "checkpoint-2"]
    for path in kept:
        held_names = load_file(path / "model.safetensors")
        assert held_names and not any(".layers.0." in name for name in held_names), "what is frozen is not kept again"


KILLER = """
import os, signal
from pathlib import Path
from auricle.training import {module}
whole, count = {module}.{name}, []
def counted(*arguments, **named):
    count.append(1)
    if len(count) > {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **named)
{module}.{name} = counted
from auricle import recipes
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
run({corpus!r}, recipes.load({recipe!r}), Path({out!r}), ProgressReporter())
"""


def test_killed_while_computing_or_training_and_resumed_it_is_the_run_never_killed(tmp_path: Path) -> None:
    """SIGKILL in the middle of the prefix and between epochs: same weights, same report."""
    data = write_corpus(tmp_path / "corpus")
    recipe = tmp_path / "small.yaml"
    settings = small(folder("tiny-hubert"), *TOP)
    recipe.write_text(yaml.safe_dump(settings.model_dump()))
    os.environ["AURICLE_CACHE"] = str(tmp_path / "cache-whole")
    run(data, recipes.load(recipe), tmp_path / "whole", ProgressReporter())
    moments = [("frozen_features", "pack_state", 1), ("train", "_load_chosen", 0)]
    for moment, (module, name, calls) in enumerate(moments):
        out, cache = tmp_path / f"killed-{moment}", tmp_path / f"cache-{moment}"
        code = KILLER.format(module=module, name=name, calls=calls, corpus=str(data), recipe=str(recipe), out=str(out))
        # Shards of one batch, so that there is something to be saved by.
        small_shards = "from auricle.training import frozen_features as p; p.SHARD_BYTES = 1\n"
        code = code.replace("whole, count", f"{small_shards}whole, count")
        assert run_python(code, {**os.environ, "AURICLE_CACHE": str(cache)}) == -signal.SIGKILL
        shards = sorted(path for path in cache.rglob("rows-*") if path.suffix != ".partial")
        assert shards, "what was computed before the kill is kept"
        written = {path: path.stat().st_mtime_ns for path in shards}
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("AURICLE_CACHE", str(cache))
            patched.setattr(frozen_features, "SHARD_BYTES", 1)
            run(data, recipes.load(recipe), out, ProgressReporter(), resume=True)
        assert {path: path.stat().st_mtime_ns for path in shards} == written, "and is not computed again"
        for name in ("report.json", "model/model.safetensors"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (moment, name)


def test_changed_sounds_are_heard_in_a_stated_number_of_variants(tmp_path: Path) -> None:
    said: list[str] = []
    data = write_corpus(tmp_path / "corpus")
    changes = ["augment.gain_db=6", "augment.shift_fraction=1"]
    settings = small(folder("tiny-hubert"), *TOP, *changes, "model.cached_crops=3")
    run(data, settings, tmp_path / "run", ProgressReporter(message=said.append))
    assert any("3 cached variants" in line for line in said)
    model = build_model(resolved(settings), LABELS)
    heard = from_arrays(sounds(4))
    crops = CropPlan(None, settings.augment, 3, seed=0)
    cut = scoring.windows_of(model.config, heard.lengths)
    computed = FrozenFeatures(
        encoder_part(model, 3, False), heard.lengths, cut, [0, 1], crops, folder=tmp_path, identity="four sounds"
    )
    computed.compute(heard, lambda *_: None)
    assert len(computed.views) == 4 + 2 * 3
    variants = [computed.read(view)[0] for view in crops.views(0, int(heard.lengths[0]))]
    assert len(variants) == 3
    assert all((variants[0] - other).abs().max() > 1e-3 for other in variants[1:])


def test_crops_are_kept_in_variants_and_scored_through_windows(tmp_path: Path) -> None:
    settings = small(
        folder("tiny-hubert"), *TOP, "train.crop_seconds=0.3", "evaluate.window_seconds=0.3", recipe="genre-reference"
    )
    model, losses = learn(settings, tmp_path)
    assert len(losses) == 2 and np.isfinite(losses).all()
    long = sounds(3, seconds=1.0)
    clips = from_arrays(long)
    whole = scoring.score(model, clips, batch_seconds=4)
    cut = [
        clip[:, start : start + 4800] for clip in long[:1] for start in [*range(0, 16_000 - 4800, 2400), 16_000 - 4800]
    ]
    expected = scoring.score(model, from_arrays(cut), batch_seconds=4).mean(0)
    assert np.abs(whole[0] - expected).max() < 1e-4


def test_the_disk_it_takes_is_said_before_and_a_full_disk_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_corpus(tmp_path / "corpus")
    said: list[str] = []
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(frozen_features.shutil, "disk_usage", lambda _: usage)
    run(data, small(folder("tiny-hubert"), *TOP), tmp_path / "run", ProgressReporter(message=said.append))
    assert any("MB, and the disk has less free" in line for line in said)
    assert not list(Path(os.environ["AURICLE_CACHE"]).rglob("rows-00000*")) or "frozen-" not in str(said)
    said.clear()
    run(data, small(folder("tiny-hubert"), "model.stages=[]"), tmp_path / "all", ProgressReporter(message=said.append))
    assert any("Everything is trained" in line for line in said)


def test_the_table_says_what_is_trained() -> None:
    settings = resolved(small(folder("tiny-hubert")))
    model = build_model(settings, LABELS)
    options = Options.model_validate(settings.model.options)
    learner = PartiallyFrozenModel(model, freezing.plan(model, options, 1e-3))
    rows = freezing.summarize(learner)
    assert sum(row.weights for row in rows) == sum(weight.numel() for weight in model.parameters())
    assert {row.part: row.first_epoch for row in rows} == {
        "convolutions": None,
        "embedding": None,
        "layer 1": None,
        "layer 2-3": 2,
        "head": 1,
    }
    said: list[str] = []
    report_parts(learner, ProgressReporter(message=said.append))
    assert "layer 2-3" in "\n".join(said) and "%" in said[0]


def test_the_checkpoints_rate_rules() -> None:
    assert resolved(small(folder("tiny-hubert"))).audio.sample_rate == RATE
    with pytest.raises(UsageError, match="takes 16000 Hz"):
        resolved(small(folder("tiny-hubert"), "audio.sample_rate=44100"))
    with pytest.raises(UsageError, match="one channel"):
        resolved(small(folder("tiny-hubert"), "audio.channels=2"))
    with pytest.raises(UsageError, match=r"augment\.mixup_alpha received 0\.3"):
        resolved(small(folder("tiny-hubert"), "augment.mixup_alpha=0.3"))


def test_a_model_of_fixed_length_gets_windows_of_it() -> None:
    settled = resolved(small(folder("tiny-whisper")))
    assert settled.evaluate.window_seconds == settled.train.crop_seconds == 2.0
    assert resolved(small(folder("tiny-whisper"), "evaluate.window_seconds=1")).evaluate.window_seconds == 1.0


def write_actors(folder: Path) -> Path:
    """Names and table as CREMA-D has them, in its archive: eight actors, two emotions each said by a pitch."""
    emotions = {"ANG": "high", "SAD": "low", "NEU": "noise"}
    names = folder / "files"
    names.mkdir(parents=True)
    rows = ["ActorID,Age,Sex,Race,Ethnicity"]
    for actor in range(1001, 1009):
        rows.append(f"{actor},{20 + actor % 50},{'Male' if actor % 2 else 'Female'},Asian,Not Hispanic")
        for place, (emotion, label) in enumerate(emotions.items()):
            for sentence in ("DFA", "IEO"):
                sound = tone(label, 0.5, actor * 10 + place, RATE)
                soundfile.write(names / f"{actor}_{sentence}_{emotion}_XX.wav", sound, RATE, subtype="PCM_16")
    (names / "VideoDemographics.csv").write_text("\n".join(rows) + "\n")
    archive = folder / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(names.iterdir()):
            file.write(path, f"AudioWAV/{path.name}" if path.suffix == ".wav" else path.name)
    return archive


def test_emotion_from_an_archive_keeps_actors_apart_and_shows_bias_as_numbers(tmp_path: Path) -> None:
    data = write_actors(tmp_path)
    settings = small(
        folder("tiny-hubert"), "evaluate.min_slice_clips=3", "evaluate.embed_audio=false", "data.split=folds"
    )
    report = run(data, settings.replace("data", folds=4), tmp_path / "run", ProgressReporter())
    assert report.split.kind == "folds" and "actor" in report.split.description
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    for fold in split["folds"]:
        parts = [{Path(name).name[:4] for name in fold[part]} for part in ("train", "valid", "test")]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    by_sex = {row.name: row for row in report.slices["sex"]}
    assert set(by_sex) == {"male", "female"}
    assert all(row.accuracy.low <= row.accuracy.value <= row.accuracy.high for row in by_sex.values())
    assert all(row.clips == 24 for row in by_sex.values())
    assert "age" in report.slices
    page = (tmp_path / "run" / "report.html").read_text()
    assert "female" in page and "data:audio" not in page


def test_genre_sets_the_broken_file_aside_and_tells_the_spread_of_seeds(tmp_path: Path) -> None:
    data = tmp_path / "genres"
    for place, (genre, label) in enumerate({"jazz": "low", "metal": "noise", "pop": "high"}.items()):
        (data / genre).mkdir(parents=True)
        for number in range(50, 62):
            sound = tone(label, 1.2, 100 * place + number, 22_050)
            soundfile.write(data / genre / f"{genre}.{number:05d}.wav", sound, 22_050, subtype="PCM_16")
    (data / "jazz" / "jazz.00054.wav").write_bytes(b"RIFF nothing that can be heard")
    shutil.copyfile(data / "pop" / "pop.00050.wav", data / "metal" / "metal.00099.wav")
    settings = small(
        folder("tiny-distilhubert"),
        "train.seeds=2",
        "train.crop_seconds=0.5",
        "evaluate.window_seconds=0.5",
        recipe="genre-reference",
    )
    report = run(data, settings, tmp_path / "run", ProgressReporter())
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert any("jazz.00054" in fault["id"] for fault in audit["quarantined"])
    assert "pop.00050" in json.dumps(audit) and "metal.00099" in json.dumps(audit)
    assert report.recipe.audio.sample_rate == RATE
    assert report.seeds is not None
    accuracy = report.seeds.metrics["accuracy"]
    assert len(accuracy.values) == 2 and min(accuracy.values) <= accuracy.mean <= max(accuracy.values)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["window_seconds"] == 0.5 and config["model_type"] == "hubert"


def test_the_cache_of_frozen_features_can_be_switched_off_in_any_of_yamls_words(tmp_path: Path) -> None:
    said: list[str] = []
    settings = small(folder("tiny-hubert"), *TOP, "model.cache_frozen=off", "train.epochs=1")
    run(write_corpus(tmp_path / "corpus"), settings, tmp_path / "run", ProgressReporter(message=said.append))
    assert any("model.cache_frozen is false" in line for line in said)


def test_rows_in_bfloat16_are_read_back_as_they_were_computed(tmp_path: Path) -> None:
    settings = resolved(small(folder("tiny-hubert")))
    model = build_model(settings, LABELS).eval()
    heard = from_arrays(sounds(5))
    cut = scoring.windows_of(model.config, heard.lengths)
    crops = CropPlan(None, settings.augment, 4, seed=0)
    computed = FrozenFeatures(
        encoder_part(model, 2, True), heard.lengths, cut, range(5), crops, folder=tmp_path, identity="five sounds"
    )
    computed.compute(heard, lambda *_: None)
    assert computed.bytes == sum(path.stat().st_size for path in computed.folder.iterdir())
    for clip in range(5):
        values = torch.from_numpy(heard.get(clip).astype(np.float32) / 32768.0)
        with torch.inference_mode():
            state = model.run_layers(model.extract_features(values, None), 2)
        rows, frames = computed.read(ClipView(clip, 0, int(heard.lengths[clip])))
        assert rows.dtype == torch.bfloat16 and frames == int(state.frames) == len(rows)
        assert (rows.float() - state.hidden[0]).abs().max() < 0.1 * state.hidden.abs().max()


def test_another_checkpoint_or_another_corpus_is_another_prefix(tmp_path: Path) -> None:
    settings = resolved(small(folder("tiny-hubert")))
    heard = from_arrays(sounds(3))

    def place(model: Any, identity: str = "sounds", depth: int = 2, bf16: bool = False) -> Path:
        cut = scoring.windows_of(model.config, heard.lengths)
        crops = CropPlan(None, settings.augment, 4, seed=0)
        computed = FrozenFeatures(
            encoder_part(model, depth, bf16), heard.lengths, cut, [0], crops, folder=tmp_path, identity=identity
        )
        return computed.folder

    model = build_model(settings, LABELS)
    first = place(model)
    assert place(build_model(settings.replace("train", seed=5), LABELS)) == first, "the head is not part of it"
    assert len({first, place(model, "others"), place(model, depth=3), place(model, bf16=True)}) == 4
    with torch.no_grad():
        model.network.hubert.encoder.layers[0].layer_norm.bias.add_(1.0)
    assert place(model) != first


@pytest.mark.parametrize("name", ["tiny-hubert", "tiny-wav2vec2-large", "tiny-w2v-bert", "tiny-whisper"])
@pytest.mark.parametrize(
    "settings", [["model.stages=[]", "model.freeze=none"], [*TOP, "model.cache_frozen=false"], TOP]
)
def test_in_bfloat16_every_way_of_training_runs_to_its_report(name: str, settings: list[str], tmp_path: Path) -> None:
    recipe = small(folder(name), *settings, "train.precision=bf16", "train.epochs=1", "evaluate.embed_audio=false")
    report = run(write_corpus(tmp_path / "corpus", per_class=6), recipe, tmp_path / "run", ProgressReporter())
    assert np.isfinite(report.metrics["log_loss"].value)


def test_even_the_only_step_of_a_stage_learns(tmp_path: Path) -> None:
    one = "model.stages=[{from_epoch: 1, freeze: all, learning_rate: 0.5}]"
    settings = small(folder("tiny-hubert"), one, "train.epochs=1", "train.batch_size=18")
    model, _ = learn(settings, tmp_path)
    before = load_file(folder("tiny-hubert") / "model.safetensors")
    assert (weights(model)["classifier.weight"] - before["classifier.weight"]).abs().max() > 0.01


def test_a_shard_that_was_cut_off_is_computed_anew(tmp_path: Path) -> None:
    settings = resolved(small(folder("tiny-hubert")))
    model, heard = build_model(settings, LABELS), from_arrays(sounds(3))
    cut = scoring.windows_of(model.config, heard.lengths)
    crops = CropPlan(None, settings.augment, 4, seed=0)
    computed = FrozenFeatures(
        encoder_part(model, 2, False), heard.lengths, cut, [0], crops, folder=tmp_path, identity="sounds"
    )
    computed.compute(heard, lambda *_: None)
    [path] = computed.folder.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:100]):
        path.write_bytes(damaged)
        computed.compute(heard, lambda *_: None)
        assert path.read_bytes() == whole
