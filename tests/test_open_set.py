"""Rejection: the threshold holds on clips that did not set it, from arithmetic to the command line."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.metrics import roc_auc_score

from auricle import recipes
from auricle.cli.main import main
from auricle.errors import UsageError
from auricle.evaluation import calibration, open_set
from auricle.evaluation.evaluate import evaluate
from auricle.evaluation.intervals import Resampling
from auricle.evaluation.scoring import Scores, confidence
from auricle.inference.classifier import load
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import RATE, tone, write_corpus
from tests.test_run import small

RESAMPLING = Resampling(200, 0, "speaker")


def logits_of(confidence: np.ndarray) -> np.ndarray:
    """Logits of three classes whose first has these probabilities."""
    rest = (1 - confidence) / 2
    return np.log(np.stack([confidence, rest, rest], 1)).astype(np.float32)


def out_of_set(confidence: np.ndarray, classes: list[str], folds: int = 1) -> Scores:
    count = len(confidence) // folds
    names = [f"{number}.wav" for number in range(count)]
    return Scores(
        ("a", "b", "c"),
        tuple(names * folds),
        tuple(classes),
        logits_of(confidence),
        np.ones(len(confidence)),
        (None,) * len(confidence),
        tuple(str(number // count) for number in range(len(confidence))),
    )


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    of_weights = open_set.weighted_auroc(known, unknown, np.zeros(len(known)), np.zeros(len(unknown)))
    return of_weights(np.ones(len(known)), np.ones(len(unknown)))


def known(confidence: np.ndarray, right: np.ndarray, groups: list[str] | None = None, folds: int = 1) -> Scores:
    count = len(confidence)
    return Scores(
        ("a", "b", "c"),
        tuple(f"k{number}.wav" for number in range(count)),
        tuple(np.where(right, "a", "b").tolist()),
        logits_of(confidence),
        np.ones(count),
        tuple(groups or [None] * count),
        tuple(str(number * folds // count) for number in range(count)),
    )


@pytest.mark.parametrize("target", [0.01, 0.05, 0.1, 0.29, 0.5])
@pytest.mark.parametrize("impostors", [1, 7, 20, 100, 1000])
def test_no_more_impostors_are_accepted_than_asked_for(target: float, impostors: int) -> None:
    scores = np.random.default_rng(0).uniform(0, 1, impostors)
    least = open_set.rejection_threshold(scores, target)
    assert least is not None
    accepted = (scores >= least).mean()
    assert accepted <= target + 1e-9
    assert accepted > target - 1 / impostors - 1e-9


def test_ties_are_refused_together_and_without_impostors_there_is_no_threshold() -> None:
    least = open_set.rejection_threshold(np.ones(40), 0.05)
    assert least is not None and least > 1.0
    assert open_set.rejection_threshold(np.zeros(0), 0.05) is None


@pytest.mark.parametrize("digits", [1, 2, 12])
def test_auroc_is_that_of_scikit_learn_also_with_ties(digits: int) -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.normal(0.5, 1, 300).round(digits), random.normal(0, 1, 200).round(digits)
    judged = roc_auc_score([1] * 300 + [0] * 200, np.concatenate([ours, theirs]))
    assert auroc(ours, theirs) == pytest.approx(judged, abs=1e-12)


def test_a_weight_of_two_is_a_clip_twice_in_auroc() -> None:
    random = np.random.default_rng(2)
    ours, theirs = random.normal(0.5, 1, 30).round(1), random.normal(0, 1, 20).round(1)
    weights = (random.integers(0, 3, 30), random.integers(0, 3, 20))
    twice = auroc(np.repeat(ours, weights[0]), np.repeat(theirs, weights[1]))
    of_weights = open_set.weighted_auroc(ours, theirs, np.zeros(30), np.zeros(20))
    weighted = of_weights(weights[0].astype(float), weights[1].astype(float))
    assert weighted == pytest.approx(twice, abs=1e-12)


def test_coverage_takes_the_most_confident_first() -> None:
    confidence = np.linspace(0.4, 0.99, 100)
    rows = calibration.risk_coverage(known(confidence, confidence > 0.6))
    assert [row.clips for row in rows] == list(range(10, 101, 10))
    assert rows[0].accuracy == 1.0 and rows[-1].accuracy == pytest.approx((confidence > 0.6).mean())
    assert [row.accuracy for row in rows] == sorted((row.accuracy for row in rows), reverse=True)
    assert rows[-1].confidence == pytest.approx(0.4, abs=1e-6)


def test_the_threshold_for_each_class_is_set_by_the_others() -> None:
    """Class x is always less sure than class y: x's threshold lets all of y through, y's none of x."""
    confidence = np.concatenate([np.linspace(0.4, 0.5, 50), np.linspace(0.6, 0.7, 50)])
    found = open_set.by_held_out_classes(
        known(np.linspace(0.65, 0.99, 40), np.ones(40, bool)),
        out_of_set(confidence, ["x"] * 50 + ["y"] * 50),
        out_of_set(confidence, ["x"] * 50 + ["y"] * 50),
        0.1,
        RESAMPLING,
    )
    assert found.measured_false_accept_rate is not None and found.measured_false_accept_rate.value == 0.5
    rate = found.measured_false_accept_rate
    assert rate.low < 0.01 and rate.high > 0.99 and not rate.reliable and found.unit == "class"
    # The kept threshold is that of both: a tenth of all.
    assert found.threshold is not None and (confidence >= found.threshold).sum() == 10
    assert found.false_rejection_rate == pytest.approx((np.linspace(0.65, 0.99, 40) < found.threshold).mean())


@pytest.mark.parametrize("folds", [1, 3])
def test_the_rate_that_is_reached_covers_the_one_that_was_asked_for(folds: int) -> None:
    """Over many draws of one unknown class, halves of it stand for each other."""
    inside = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        confidence = random.uniform(0.4, 0.9, 200 * folds)
        scores = known(random.uniform(0.7, 0.99, 90), np.ones(90, bool), folds=folds)
        found = open_set.by_held_out_classes(
            scores,
            out_of_set(confidence, ["x"] * len(confidence), folds),
            out_of_set(confidence[:200], ["x"] * 200),
            0.05,
            Resampling(200, seed, "speaker"),
        )
        assert found.measured_false_accept_rate is not None and found.unit == "clip" and found.impostor_clips == 200
        inside += found.measured_false_accept_rate.low <= 0.05 <= found.measured_false_accept_rate.high
    assert inside >= 32


def test_auroc_of_folds_compares_each_model_with_itself() -> None:
    """The second model is surer of everything: pooled scores would blur what each tells apart."""
    tested = known(np.repeat([0.6, 0.9], 10), np.ones(20, bool), folds=2)
    met = out_of_set(np.repeat([0.5, 0.8], 10), ["x", "y"] * 10, folds=2)
    found = open_set.by_held_out_classes(tested, met, met, 0.05, RESAMPLING)
    assert found.auroc is not None and found.auroc.value == found.auroc.high == 1.0


def test_without_unknown_classes_mistakes_on_other_groups_set_the_threshold() -> None:
    random = np.random.default_rng(3)
    groups = [f"s{number % 8}" for number in range(400)]
    right = random.uniform(size=400) < 0.8
    confidence = np.where(right, random.uniform(0.6, 0.99, 400), random.uniform(0.4, 0.8, 400))
    scores = known(confidence, right, groups)
    valid = known(confidence, right, [f"v{number % 8}" for number in range(400)])
    valid = Scores(valid.labels, tuple(f"v{id}" for id in valid.ids), *(getattr(valid, name) for name in FIELDS))
    found = open_set.by_misclassified_clips(scores, valid, 0.1, RESAMPLING)
    assert (
        found.impostors == "misclassified clips"
        and found.measured_false_accept_rate is not None
        and found.measured_false_accept_rate.value <= 0.1
    )
    assert (
        found.measured_false_accept_rate.low <= 0.1
        and found.unit == "speaker"
        and found.impostor_clips == (~right).sum()
    )
    assert found.auroc is not None
    assert found.auroc.value == pytest.approx(auroc(confidence[right], confidence[~right]), abs=1e-3)
    # The same clips on both sides are no held-out evidence: then nothing is refused.
    same = open_set.by_misclassified_clips(scores, scores, 0.1, RESAMPLING)
    assert (
        same.measured_false_accept_rate is not None
        and same.measured_false_accept_rate.value == 1.0
        and same.false_rejection_rate == 0.0
    )


FIELDS = ("classes", "logits", "seconds", "groups", "folds")


def test_too_few_impostors_give_a_caution() -> None:
    found = open_set.by_misclassified_clips(known(np.full(9, 0.9), np.arange(9) > 0), None, 0.05, RESAMPLING)
    assert found.threshold is None and found.measured_false_accept_rate is None
    assert "no clip is answered 'unknown'" in open_set.cautions(found)[0]
    few = out_of_set(np.linspace(0.4, 0.5, 12), ["x", "y"] * 6)
    rough = open_set.by_held_out_classes(known(np.full(9, 0.9), np.ones(9, bool)), few, few, 0.05, RESAMPLING)
    assert "12 clips of held-out classes" in open_set.cautions(rough)[0]
    assert not open_set.cautions(
        open_set.by_held_out_classes(known(np.full(9, 0.9), np.ones(9, bool)), few, few, 0.1, RESAMPLING)
    )


def test_out_of_set_scores_are_saved_and_read_again(tmp_path: Path) -> None:
    met = out_of_set(np.linspace(0.4, 0.5, 12), ["x", "y"] * 6)
    met.save(tmp_path / "met.parquet")
    back = Scores.load(tmp_path / "met.parquet")
    assert (back.ids, back.classes, back.groups, back.folds) == (met.ids, met.classes, met.groups, met.folds)
    assert np.array_equal(back.logits, met.logits) and np.array_equal(back.seconds, met.seconds)


@pytest.fixture
def four(corpus: Path) -> Path:
    """The three-class corpus, and a fourth class, between two of them in pitch."""
    (corpus / "middle").mkdir()
    for number in range(8):
        time = np.arange(RATE // 2) / RATE
        wave = 0.3 * np.sin(2 * np.pi * (700 + 10 * number) * time) + tone("noise", 0.5, number) * 0.1
        soundfile.write(corpus / "middle" / f"device{number % 4}_{number:03d}.wav", wave, RATE, subtype="PCM_16")
    return corpus


def prepared_with(folder: Path, *settings: str) -> PreparedCorpus:
    recipe = recipes.load("baseline", settings)
    return prepare(read(folder, recipe), recipe, lambda *_: None)


def test_unknown_classes_are_never_learnt_nor_tested_and_must_be_classes(four: Path) -> None:
    prepared = prepared_with(four, "data.held_out_classes=[middle]")
    assert prepared.labels == ("high", "low", "noise") and len(prepared.held_out) == 8
    parts = {id for fold in prepared.split.folds for part in (fold.train, fold.valid, fold.test) for id in part}
    assert not any(id.startswith("middle") for id in parts) and len(prepared.usable) == 24
    for setting, told in (("[midle]", "Did you mean 'middle'"), ("[middle,high,low]", "needs two to train on")):
        with pytest.raises(UsageError, match=told):
            prepared_with(four, f"data.held_out_classes={setting}")


def test_a_class_called_unknown_is_held_out_or_refused(four: Path) -> None:
    (four / "middle").rename(four / "unknown")
    prepared = prepared_with(four, "data.held_out_classes=[unknown]")
    assert prepared.labels == ("high", "low", "noise")
    assert prepared_with(four).labels[-1] == "unknown"
    for setting in ("data.held_out_classes=[high]", "evaluate.max_false_accept_rate=0.1"):
        with pytest.raises(UsageError, match="has a class 'unknown'"):
            prepared_with(four, setting)


@pytest.mark.parametrize("family", ["baseline", "cnn"])
def test_a_run_with_unknown_classes_keeps_a_threshold_and_answers_by_it(
    family: str, four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    recipe = small(data={"held_out_classes": ["middle"]}, evaluate={"max_false_accept_rate": 0.25}, train={"epochs": 2})
    if family == "baseline":
        recipe = recipes.load("baseline", ["data.held_out_classes=[middle]", "evaluate.max_false_accept_rate=0.25"])
    report = run(four, recipe, out, ProgressReporter())
    assert report.labels == ("high", "low", "noise")
    assert report.rejection is not None
    assert report.rejection.classes == ("middle",) and report.rejection.impostor_clips == 8
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["threshold"] == report.rejection.threshold and config["max_false_accept_rate"] == 0.25
    met = Scores.load(out / "fold-out-of-set.parquet")
    assert (confidence(met.logits) >= config["threshold"]).sum() == 2
    classifier = load(out)
    answers = [classifier(four / "middle" / f"device{number % 4}_{number:03d}.wav") for number in range(8)]
    assert sum(answer.label == "unknown" for answer in answers) == sum(answer.unknown for answer in answers) == 6
    assert all(len(answer.choices) == 3 and answer.choices[0].label != "unknown" for answer in answers)
    assert not any(load(out, refuse=False)(answer.name).unknown for answer in answers)
    refused = next(answer.name for answer in answers if answer.unknown)
    assert main(["predict", str(out), refused]) == 0
    assert f"{refused}\tunknown (" in capsys.readouterr().out
    assert main(["predict", str(out), refused, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["label"] == "unknown" and row["unknown"] and row["choices"][0]["label"] in report.labels
    assert main(["predict", str(out), refused, "--out", str(tmp_path / "a.csv"), "--no-unknown"]) == 0
    named = next(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert named["label"] == named["label_1"] in report.labels
    assert "Rejection of unknown sounds" in (out / "report.html").read_text()
    assert "`unknown` where the greatest probability" in (out / "model" / "README.md").read_text()


def test_evaluate_judges_again_and_counts_unknown_clips_of_other_recordings(
    four: Path, tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    report = run(
        four, recipes.load("baseline", ["data.held_out_classes=[middle]"]), tmp_path / "run", ProgressReporter()
    )
    again = evaluate(tmp_path / "run", None, lambda *_: None)
    assert again.metrics == report.metrics and again.risk_coverage == report.risk_coverage
    assert again.rejection is None
    others = make_corpus(tmp_path / "others", per_class=3, seconds=0.9)
    (four / "middle").rename(others / "middle")
    found = evaluate(tmp_path / "run", str(others), lambda *_: None)
    assert found.test_clips == 9 and found.unusable == 0 and found.rejection is not None
    assert found.rejection.measured_false_accept_rate is not None
    assert found.rejection.measured_false_accept_rate.value == 0.0 and found.rejection.impostor_clips == 8


def test_folds_of_a_run_meet_the_unknown_and_the_kept_model_sets_the_threshold(four: Path, tmp_path: Path) -> None:
    recipe = recipes.load(
        "baseline", ["data.held_out_classes=[middle, noise]", "data.split=leave-one-group-out", "data.group=name:1"]
    )
    report = run(four, recipe, tmp_path / "run", ProgressReporter())
    found = report.rejection
    assert found is not None and found.impostor_clips == 16
    assert found.unit == "class" and found.max_false_accept_rate == 0.05
    assert any("16 clips of held-out classes" in caution for caution in report.cautions)
    kept = confidence(Scores.load(tmp_path / "run" / "fold-out-of-set.parquet").logits)
    assert found.threshold == open_set.rejection_threshold(kept, 0.05)
    resumed = run(four, recipe, tmp_path / "run", ProgressReporter(), resume=True)
    assert resumed == report


def test_a_run_without_unknown_classes_refuses_what_it_would_get_wrong(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", per_class=16)
    for number in range(0, 16, 2):
        # Half the low tones are called high, so that there are mistakes.
        name = f"device{number % 4}_{number:03d}.wav"
        (folder / "low" / name).rename(folder / "high" / f"x{name}")
    settings = ["evaluate.max_false_accept_rate=0.2", "data.split=folds", "data.folds=4", "data.validation_size=0.3"]
    report = run(folder, recipes.load("baseline", settings), tmp_path / "run", ProgressReporter())
    found = report.rejection
    assert found is not None and found.impostors == "misclassified clips"
    assert not found.classes and found.impostor_clips > 0
    assert (rate := found.measured_false_accept_rate) is not None and 0 <= rate.low <= rate.value <= rate.high <= 1
    assert (tmp_path / "run" / "fold-validation.parquet").is_file()
    assert "Measured false-accept rate" in (tmp_path / "run" / "report.html").read_text()
