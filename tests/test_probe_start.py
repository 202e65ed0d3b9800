"""Fine-tuning from the fitted probe: the head it begins with, what it returns, and that it never returns less."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import pipeline

from auricle import recipes
from auricle.errors import UsageError
from auricle.evaluation import metrics, scoring
from auricle.evaluation.intervals import Interval
from auricle.inference.classifier import load
from auricle.models import registration
from auricle.models.families.probe import network as probe_network
from auricle.models.features.ridge import CLIP_LIMIT, LinearClassifier, RidgeFit
from auricle.models.load import build_model, load_model, save_model
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.recipe import Recipe, Train
from auricle.run_folder import RunFolder
from auricle.training import finetune, freezing, probe_start
from auricle.training.embeddings import ClipVectors
from auricle.training.finetune import FineTuning
from auricle.training.fold import FoldData, TrainedFold
from auricle.training.probe_start import ProbeStart
from auricle.training.progress import ProgressReporter
from auricle.training.run import resolve, run
from auricle.training.schedule import FROM_NOISE, schedule
from tests.conftest import write_corpus
from tests.processes import run_python
from tests.test_encoders import folder
from tests.test_finetuning import KILLER, classifier_input, small

# Wav2Vec2's kind without and with a final norm, the conformer, and the two of a fixed length.
KINDS = ("tiny-hubert", "tiny-wav2vec2-large", "tiny-w2v-bert", "tiny-whisper", "tiny-ast")
TOP = "model.freeze={top: 1}"


def recipe(kind: str, *settings: str) -> Recipe:
    return small(folder(kind), *settings, recipe="emotion")


def prepared(tmp_path: Path, settings: Recipe) -> PreparedCorpus:
    settings = resolve(settings)
    return prepare(read(write_corpus(tmp_path / "corpus"), settings), settings, lambda *_: None)


def choose(monkeypatch: pytest.MonkeyPatch, *layers: int) -> None:
    """Let every probe choose these layers; of negative ones -1 is the last."""
    monkeypatch.setattr(probe_network, "choose_layers", lambda count, loss: ([layer % count for layer in layers], []))


@pytest.fixture(autouse=True)
def a_single_validation_group_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """These corpora have four groups."""
    monkeypatch.setattr(finetune, "MIN_UNITS", 1)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every probe give all clips the same logits, and any gain count, so that fine-tuning wins."""
    monkeypatch.setattr(finetune, "gain", lambda *_: Interval(1.0, 1.0, 1.0))
    monkeypatch.setattr(ProbeStart, "logits", lambda self, probe, ids: np.zeros((len(ids), 3), np.float32))


def trained(corpus: PreparedCorpus, out: Path, said: list[str] | None = None) -> TrainedFold:
    reporter = ProgressReporter(message=(said if said is not None else []).append)
    out.mkdir()
    return FineTuning.prepare(corpus, reporter).train(FoldData(corpus, corpus.split.folds[0], RunFolder(out), reporter))


def network_of(corpus: PreparedCorpus) -> tuple[Any, np.ndarray]:
    """The network as fine-tuning begins with it, and the logits of the linear classifier for the training clips."""
    start = ProbeStart.prepare(corpus, registration.parse_options(corpus.recipe), ProgressReporter())
    ids, heads = corpus.split.folds[0].train, list[tuple[LinearClassifier, np.ndarray]]()
    whole = probe_start.fit_ridge

    def kept(vectors: ClipVectors, *arguments: Any, **named: Any) -> RidgeFit:
        fitted = whole(vectors, *arguments, **named)
        heads.append((fitted.linear_classifier(), vectors.everything()))
        return fitted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(probe_start, "fit_ridge", kept)
        model = start.network(build_model(corpus.recipe, corpus.labels), start.fit(ids), ids)
    [(head, vectors)] = heads
    standard = np.clip((vectors - head.mean) * head.scale, -CLIP_LIMIT, CLIP_LIMIT)
    return model, standard @ head.weights + head.bias


@pytest.mark.parametrize("layers", [(0,), (1,), (1, 2), (-1,), (0, 1, 2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_begins_as_the_linear_ridge_classifier(
    kind: str, layers: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, *layers)
    corpus = prepared(tmp_path, recipe(kind))
    model, expected = network_of(corpus)
    audio = corpus.audio(corpus.split.folds[0].train)
    logits = scoring.score(model, audio, batch_seconds=8)
    assert np.ptp(expected, 0).min() > 0.1 and np.abs(logits - expected).max() < 1e-4
    assert len(model.encoder.layers) == max(layer % 4 for layer in layers), "what lies above is not run"
    alone = np.concatenate(
        [scoring.score(model, corpus.audio([id]), batch_seconds=8) for id in corpus.split.folds[0].train]
    )
    assert np.abs(alone - logits).max() < 1e-4
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert np.abs(scoring.score(back, audio, batch_seconds=8) - logits).max() < 1e-5
    half = scoring.score(load_model(tmp_path / "model", "bf16"), audio, batch_seconds=8)
    assert np.abs(half - logits).max() < 0.1 * np.abs(logits).max()
    sample = audio.get(0)[0].astype(np.float32) / 32768
    rows = pipeline("audio-classification", model=str(tmp_path / "model"), device="cpu")(sample, top_k=3)
    answers = {row["label"]: row["score"] for row in rows}
    assert [answers[label] for label in corpus.labels] == pytest.approx(list(scoring.softmax(logits)[0]), abs=1e-4)


@pytest.mark.parametrize("freeze", ["all", "{top: 1}", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_features_of_chosen_layers_give_the_logits_of_the_waveform(
    kind: str, freeze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, 0, 2)
    corpus = prepared(tmp_path, recipe(kind, f"model.freeze={freeze}"))
    tuning = FineTuning.prepare(corpus, ProgressReporter())
    model, _ = network_of(corpus)
    plan = freezing.plan(model, tuning.options, 1e-3)
    ids = list(tuning.positions)
    features = finetune._frozen_features(corpus, ids, model, tuning.options, plan, ProgressReporter())
    assert (features is None) == (freeze == "none" and kind in ("tiny-hubert", "tiny-wav2vec2-large"))
    (tmp_path / "fold").mkdir()
    data = FoldData(corpus, corpus.split.folds[0], RunFolder(tmp_path / "fold"), ProgressReporter())
    task = tuning._task(data, model, plan, features)
    assert task.validation is not None
    expected = scoring.score(model, data.validation.audio, batch_seconds=0.1)
    assert np.abs(task.validation.logits() - expected).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_where_fine_tuning_gains_the_network_is_returned(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(monkeypatch)
    said: list[str] = []
    data = write_corpus(tmp_path / "corpus")
    report = run(data, recipe(kind, TOP), tmp_path / "run", ProgressReporter(message=said.append))
    assert report.model.type == "auricle-encoder" and np.isfinite(report.metrics["log_loss"].value), said
    assert any(line.startswith("Fine-tuning gains (") for line in said)
    summary = json.loads((tmp_path / "run" / "trained.json").read_text())
    assert report.folds[0].best_epoch == summary["chosen_epoch"]
    file = data / "low" / "device0_000.wav"
    ours = {choice.label: choice.probability for choice in load(tmp_path / "run", "float32")(file).choices}
    saved = str(tmp_path / "run" / "model")
    rows = pipeline("audio-classification", model=saved, device="cpu")(classifier_input(file), top_k=3)
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(ours, abs=1e-4)


def test_where_nothing_can_gain_the_probe_is_returned_and_named(tmp_path: Path) -> None:
    said: list[str] = []
    data = write_corpus(tmp_path / "corpus")
    report = run(data, recipe("tiny-whisper", TOP), tmp_path / "run", ProgressReporter(message=said.append))
    assert report.model.type == "auricle-probe" and report.metrics["accuracy"].value > 0.8
    assert any(line.endswith("the model is the probe.") for line in said)
    assert not (tmp_path / "run" / "checkpoints").exists()
    page, card = ((tmp_path / "run" / name).read_text() for name in ("report.html", "model/README.md"))
    assert "Frozen encoder" in page and "the frozen encoder of a checkpoint in a folder" in card
    assert "fine-tuned" not in (page + card).lower()


@pytest.mark.parametrize("rate", [1e-5, 0.3])
@pytest.mark.parametrize("metric", ["balanced_accuracy", "log_loss"])
def test_never_less_than_the_probe_on_validation_clips(
    metric: str, rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that no sound explains, with a rate that changes little and one that spoils the network."""
    settings = recipe("tiny-hubert", TOP, f"train.metric_for_best_model={metric}", f"train.learning_rate={rate}")
    corpus = prepared(tmp_path, settings)
    shuffled = dict(zip(corpus.positions, np.random.default_rng(0).integers(0, 3, len(corpus.positions)), strict=True))
    monkeypatch.setattr(PreparedCorpus, "classes", lambda self, ids: np.array([shuffled[id] for id in ids]))
    found: list[np.ndarray] = []
    whole = ProbeStart.logits
    monkeypatch.setattr(ProbeStart, "logits", lambda *given: found.append(whole(*given)) or found[-1])
    ids, said = corpus.split.folds[0].valid, list[str]()
    fold = trained(corpus, tmp_path / "fold", said)

    def value(logits: np.ndarray) -> float:
        scored = metrics.compute_metrics(metrics.evaluate_logits(corpus.classes(ids), logits, 1))[metric]
        return -scored if metric == "log_loss" else scored

    if fold.model.config.model_type == "auricle-probe":
        assert fold.summary.chosen_epoch == 0 and any(line.endswith("validation clips.") for line in said)
        assert fold.embeddings is not None
    else:
        assert fold.validation_logits is not None
        assert value(fold.validation_logits * fold.summary.temperature) > value(found[0])


def test_a_gain_counts_where_validation_groups_agree() -> None:
    """Each of six groups has two clips of each class; half of them are wrong before, and better in some groups."""
    labels, units = np.tile([0, 0, 1, 1], 6), np.repeat(np.arange(6), 4)
    right, wrong = np.eye(2)[labels] * 9, np.eye(2)[1 - labels] * 9
    before = np.where((np.arange(24) % 2 == 0)[:, None], right, wrong)

    def gain(fixed: int, metric: str = "balanced_accuracy") -> Interval:
        return finetune.gain(labels, before, np.where((units < fixed)[:, None], right, before), units, metric)

    assert gain(5).value == pytest.approx(5 / 12) and gain(5).low > 0
    assert gain(1).value == pytest.approx(1 / 12) and gain(1).low < 0  # one group gains, as chance would have it
    assert gain(0).value == 0 == gain(0, "log_loss").value
    assert gain(5, "log_loss").value == pytest.approx(9 * 5 / 12)
    assert gain(5, "log_loss").low > 0 > gain(1, "log_loss").low


def test_few_validation_groups_show_nothing_and_the_model_is_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "MIN_UNITS", 7)
    said: list[str] = []
    data, reporter = write_corpus(tmp_path / "corpus"), ProgressReporter(message=said.append)
    report = run(data, recipe("tiny-hubert", TOP), tmp_path / "run", reporter)
    assert report.model.type == "auricle-probe" and not (tmp_path / "run" / "checkpoints").exists()
    assert any(line.startswith("Fine-tuning is not tried: 6 validation clips cannot show") for line in said), said


def test_weights_return_to_the_start_where_no_epoch_beats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear head, perfect as it begins, is better than a probe that knows nothing, and than every epoch."""
    blind(monkeypatch)
    corpus = prepared(tmp_path, recipe("tiny-hubert", TOP, "train.learning_rate=0.5", "train.max_grad_norm=0"))
    before, _ = network_of(corpus)
    fold = trained(corpus, tmp_path / "fold")
    ids = corpus.split.folds[0].valid
    logits = scoring.score(before, corpus.audio(ids), batch_seconds=8)
    assert fold.summary.chosen_epoch == 0 and fold.model.config.model_type == "hubert"
    assert fold.validation_logits is not None
    assert np.abs(fold.validation_logits * fold.summary.temperature - logits).max() < 1e-4


def test_without_validation_clips_the_model_is_the_probe(tmp_path: Path) -> None:
    said: list[str] = []
    settings = recipe("tiny-hubert", TOP, "data.validation_size=0")
    report = run(write_corpus(tmp_path / "corpus"), settings, tmp_path / "run", ProgressReporter(message=said.append))
    assert report.model.type == "auricle-probe"
    assert any("0 validation" in line and "data.validation_size" in line for line in said), said


def test_folds_decide_for_themselves_and_share_the_frozen_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, 1, 2)
    monkeypatch.setattr(finetune, "gain", lambda labels, before, *_: Interval(1.0, 1.0 - before.any(), 1.0))
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    whole, calls = ProbeStart.logits, list[int]()

    def every_other(self: ProbeStart, probe: Any, ids: Sequence[str]) -> np.ndarray:
        calls.append(len(ids))
        return whole(self, probe, ids) if len(calls) % 2 else np.zeros((len(ids), 3), np.float32)

    monkeypatch.setattr(ProbeStart, "logits", every_other)
    short = ["train.epochs=1", "train.precision=float32", "evaluate.bootstrap_resamples=100"]
    split = ["data.split=folds", "data.folds=3", "data.validation_size=0.2"]
    settings = recipes.load("emotion", [f"model.checkpoint={folder('tiny-hubert')}", TOP, *short, *split])
    report = run(write_corpus(tmp_path / "corpus"), settings, tmp_path / "run", ProgressReporter())
    types = [
        json.loads((path / "model" / "config.json").read_text())["model_type"]
        for path in [*sorted((tmp_path / "run" / "folds").iterdir()), tmp_path / "run"]
    ]
    assert types == ["auricle-probe", "auricle-encoder"] * 2 and report.model.type == types[-1]
    assert len(list((tmp_path / "cache").rglob("frozen-*"))) == 1


@pytest.mark.parametrize("layer", [0, 2])
def test_adapters_are_trained_from_the_probe_and_merged(
    layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    choose(monkeypatch, layer)
    blind(monkeypatch)
    settings = recipe("tiny-hubert", TOP, "model.lora={rank: 2, alpha: 8}", "train.gradient_accumulation_steps=2")
    report = run(write_corpus(tmp_path / "corpus"), settings, tmp_path / "run", ProgressReporter())
    assert report.model.type == "auricle-encoder" and report.training.batch_size == 12
    assert not [name for name, _ in load_model(tmp_path / "run" / "model").named_parameters() if "lora" in name]


BLIND = """
import numpy as np
from auricle.evaluation.intervals import Interval
from auricle.training import finetune
from auricle.training.probe_start import ProbeStart
finetune.MIN_UNITS, finetune.gain = 1, lambda *_: Interval(1.0, 1.0, 1.0)
ProbeStart.logits = lambda self, probe, ids: np.zeros((len(ids), 3), np.float32)
"""


def test_killed_and_resumed_it_is_the_run_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its second checkpoint is written, and between the last epoch and the choice of one."""
    blind(monkeypatch)
    data, path = write_corpus(tmp_path / "corpus"), tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe("tiny-hubert", TOP, "train.epochs=3").model_dump()))
    run(data, recipes.load(path), tmp_path / "whole", ProgressReporter())
    for module, name, calls in (("loop", "AudioTrainer._save_scaler", 1), ("train", "_load_chosen", 0)):
        out = tmp_path / f"killed-{module}"
        code = KILLER.format(module=module, name=name, calls=calls, corpus=str(data), recipe=str(path), out=str(out))
        assert run_python(BLIND + code) == -signal.SIGKILL, name
        assert not (out / "trained.json").exists()
        run(data, recipes.load(path), out, ProgressReporter(), resume=True)
        for file in ("report.json", "model/model.safetensors"):
            assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), (name, file)


def test_the_schedule_follows_the_number_of_clips_and_the_recipe_comes_first() -> None:
    followed = Train(epochs=None, batch_size=None, gradient_accumulation_steps=None, learning_rate=None)
    sizes = [10, 50, 400, 3000, 6000, 100_000]
    made = [schedule(followed, clips) for clips in sizes]
    batches = [one.batch_size * one.gradient_accumulation_steps for one in made]
    assert batches == sorted(batches) and len(set(batches)) > 2
    assert [one.epochs for one in made] == sorted((one.epochs for one in made), reverse=True)
    assert [one.learning_rate for one in made] == sorted(one.learning_rate for one in made)
    assert all(one.batch_size <= 16 for one in made)
    given = Train(epochs=7, batch_size=5, gradient_accumulation_steps=3, learning_rate=0.2)
    assert schedule(given, 1000).model_dump() == given.model_dump()
    part = schedule(followed.model_copy(update={"batch_size": 4}), 3000)
    assert part.batch_size == 4 and part.gradient_accumulation_steps > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.weighted_sum=true"], r"model\.weighted_sum is given.*model\.start=random"),
        (["model.pooling=attention"], r"model\.pooling is given.*model\.start=random"),
        (["model.head={kind: am-softmax}"], r"model\.head is given.*model\.start=random"),
        (["train.load_best_model_at_end=false"], "set it to true, or set model.start=random"),
        (
            ["model.start=random", "train.learning_rate=null"],
            r"train\.learning_rate received null.*learning_rate=0\.001",
        ),
        (["train.epochs=null", "model.freeze=null", "model.stages=[{freeze: all}, {from_epoch: 2}]"], "2 stages"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(recipe("tiny-hubert", *settings))


def test_other_families_need_numbers() -> None:
    with pytest.raises(UsageError, match=r"train\.learning_rate received null.*train\.learning_rate=0\.001"):
        resolve(recipes.load("sound", ["train.learning_rate=null"]))
    assert resolve(recipes.load("sound", ["train.epochs=null"])).train.epochs is None


def test_epochs_of_a_network_from_noise_follow_the_number_of_clips() -> None:
    sound = recipes.load("sound").train
    made = [schedule(sound, clips, FROM_NOISE).epochs for clips in (50, 400, 2500, 7442, 100_000)]
    assert made == [60, 60, round(4000 / (2500 / 16)), 10, 10]


@pytest.mark.parametrize("name", ["emotion", "genre"])
def test_the_recipe_and_its_reference_differ_in_where_they_begin(name: str) -> None:
    here, reference = recipes.load(name), recipes.load(f"{name}-reference")
    assert here.model.options["start"] == "probe" and reference.model.options["start"] == "random"
    assert here.train.epochs is None and reference.train.epochs is not None
    assert here.model.options["checkpoint"] == reference.model.options["checkpoint"]


def test_the_table_of_the_documentation_is_the_schedule() -> None:
    followed = Train(epochs=None, batch_size=None, gradient_accumulation_steps=None, learning_rate=None)
    page = (Path(__file__).parent.parent / "docs" / "finetuning.md").read_text(encoding="utf-8")
    table = page.partition("| training clips |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len(rows) > 4
    for clips, batch, epochs, rate in rows:
        made = schedule(followed, int(clips.replace(",", "")))
        assert int(batch) == made.batch_size * made.gradient_accumulation_steps
        assert int(epochs) == made.epochs and rate == f"{made.learning_rate:.1e}"
