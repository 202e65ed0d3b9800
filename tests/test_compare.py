"""Comparisons: clips that all runs tested, differences clip by clip, and no winner where the data cannot tell."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

import auricle
from auricle.cli.main import main
from auricle.errors import RunError, UsageError
from auricle.evaluation.compare import MOST_DISAGREEMENTS, Candidate, Comparison, compare_candidates
from auricle.evaluation.intervals import MIN_RARER, paired_difference, unit_mean
from auricle.evaluation.metrics import evaluate_logits
from auricle.evaluation.page import write_comparison
from auricle.evaluation.scoring import Scores
from auricle.run_folder import RunFolder
from tests.conftest import usage_error, write_corpus
from tests.test_page import seen

LABELS = ("a", "b", "c")


def scores(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None, start: int = 0) -> Scores:
    """Scores of clips named by number, with a logit of 2 for the prediction."""
    names = (None,) * len(truth) if groups is None else tuple(f"g{group}" for group in groups)
    return Scores(
        LABELS,
        tuple(f"{start + number}.wav" for number in range(len(truth))),
        tuple(LABELS[number] for number in truth),
        2 * np.eye(3)[predicted],
        np.ones(len(truth)),
        names,
        ("test",) * len(truth),
    )


def example(count: int = 60, errors: tuple[int, int] = (6, 24)) -> tuple[Candidate, Candidate]:
    """Two models that err on their first clips, in 6 groups across the classes."""
    truth, groups = np.arange(count) % 3, np.arange(count) // 2 % 6
    wrong = [np.where(np.arange(count) < number, (truth + 1) % 3, truth) for number in errors]
    first, second = (scores(truth, predicted, groups) for predicted in wrong)
    return Candidate("good", first, group_name="speaker"), Candidate("poor", second, group_name="speaker")


def test_a_difference_by_hand() -> None:
    # Three units of two clips: sums 1, 0 and 1, around 2 / 3 each, over 6 clips; 3 / 2 is G / (G - 1).
    found = unit_mean(np.array([1.0, 0, 0, 0, 1, 0]), np.repeat(np.arange(3), 2))
    error = np.sqrt(3 / 2 * ((1 / 3) ** 2 + (2 / 3) ** 2 + (1 / 3) ** 2)) / 6
    assert (found.value, found.error, found.freedom) == pytest.approx((1 / 3, error, 2))
    # Two classes of two units of one clip: the mean of each class has variance s^2 / 2, and one degree of freedom.
    found = unit_mean(np.array([1.0, 0, 1, -1]), np.arange(4), np.array([0, 0, 1, 1]))
    assert (found.value, found.error, found.freedom) == pytest.approx((0.25, np.sqrt((0.5 / 2 + 2 / 2) / 4), 2))


@pytest.mark.parametrize("seed", range(4))
def test_the_closed_form_is_cr2_of_the_regression_on_classes(seed: int) -> None:
    random = np.random.default_rng(seed)
    unit_of, classes = random.integers(0, 6, 50), random.integers(0, 3, 50)
    values = random.integers(-1, 2, 50).astype(float)
    design = np.eye(3)[classes]
    inverse = np.linalg.inv(design.T @ design)
    rest, weight = np.eye(50) - design @ inverse @ design.T, inverse @ np.full(3, 1 / 3)
    vectors = []
    for unit in range(6):
        own = unit_of == unit
        adjust = np.linalg.inv(np.real(sqrtm(rest[np.ix_(own, own)])))
        vectors.append(rest[:, own] @ adjust @ design[own] @ weight)
    products = np.array(vectors) @ np.array(vectors).T
    error = np.sqrt(np.square(np.array(vectors) @ values).sum())
    found = unit_mean(values, unit_of, classes)
    assert (found.error, found.freedom) == pytest.approx((error, np.trace(products) ** 2 / np.square(products).sum()))


@pytest.mark.parametrize(("units", "nested"), [(5, False), (12, True), (40, True)], ids=str)
def test_intervals_of_balanced_differences_cover_the_truth(units: int, nested: bool) -> None:
    """Units differ in both models; every unit has all of three classes, or only one of them."""
    random = np.random.default_rng(units)
    covered = []
    for _ in range(1500):
        sizes = random.integers(6, 19, units)
        unit_of = np.repeat(np.arange(units), sizes)
        classes = unit_of % 3 if nested else random.integers(0, 3, len(unit_of))
        difficulty = random.uniform(-0.2, 0.2, units)
        right = [
            random.random(len(unit_of)) < mean + (difficulty + random.uniform(-0.1, 0.1, units))[unit_of]
            for mean in (0.7, 0.6)
        ]
        found = paired_difference(right[0].astype(float) - right[1], unit_of, classes)
        covered.append(found.low <= 0.1 <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.975


def test_a_class_of_one_unit_makes_a_balanced_difference_rough() -> None:
    random = np.random.default_rng(0)
    unit_of, values = np.repeat(np.arange(8), 10), random.integers(-1, 2, 80).astype(float)
    assert paired_difference(values, unit_of, unit_of % 2).reliable
    assert not paired_difference(values, unit_of, np.where(unit_of == 7, 2, unit_of % 2)).reliable


def test_the_same_answers_differ_by_exactly_zero() -> None:
    good, _ = example()
    compared = compare_candidates([good, replace(good, name="copy")])
    for row in compared.runs:
        assert all((gap.value, gap.low, gap.high) == (0, 0, 0) for gap in row.differences.values())
        assert not row.is_distinguishable
    assert "predict the same on 60 shared test clips" in compared.verdict
    assert compared.disagreements == ()


def test_the_better_run_is_named_with_the_paired_difference_and_the_discordant_clips() -> None:
    good, poor = example()
    compared = compare_candidates([poor, good])
    best, other = compared.runs
    assert (best.name, other.name, compared.interval.description) == ("good", "poor", "6 speakers")
    counts = other.counts
    assert (counts.both_correct, counts.only_best_correct, counts.only_this_correct, counts.both_wrong) == (
        36,
        18,
        0,
        6,
    )
    gap = other.differences["accuracy"]
    assert gap.value == pytest.approx(-0.3) and gap.high < 0 and other.is_distinguishable
    assert compared.verdict.startswith("'good' is better than 'poor': accuracy 90.0 % against 60.0 %")
    # The same by the metric that is better when it is lower.
    assert [row.name for row in compare_candidates([poor, good], "log_loss").runs] == ["good", "poor"]


def test_the_difference_in_balanced_accuracy_is_that_of_the_recalls() -> None:
    truth = np.repeat([0, 1, 2], [40, 12, 8])
    predicted = np.where(np.arange(60) % 4 == 0, (truth + 1) % 3, truth)
    first, second = scores(truth, truth), scores(truth, predicted)
    compared = compare_candidates([Candidate("one", first), Candidate("two", second)], "balanced_accuracy")
    recalls = [float(np.mean(predicted[truth == label] == label)) for label in range(3)]
    assert compared.runs[1].differences["balanced_accuracy"].value == pytest.approx(np.mean(recalls) - 1)
    imbalanced = compare_candidates([Candidate("one", first), Candidate("two", second)])
    assert any("--metric balanced_accuracy" in caution for caution in imbalanced.cautions)


def test_a_few_discordant_clips_decide_nothing() -> None:
    few = int(MIN_RARER) - 1
    truth = np.arange(60) % 3
    predicted = np.where(np.arange(60) < few, (truth + 1) % 3, truth)
    right, wrong = Candidate("right", scores(truth, truth)), Candidate("wrong", scores(truth, predicted))
    compared = compare_candidates([right, wrong])
    assert compared.runs[1].differences["accuracy"].excludes_zero and not compared.runs[1].is_distinguishable
    assert "not distinguishable" in compared.verdict and f"{few} with 'wrong'" in compared.cautions[0]
    assert "rough" in compared.verdict


def test_only_the_clips_that_all_tested_with_one_label_count() -> None:
    good, poor = example()
    part = np.arange(60) >= 10
    classes = list(poor.scores.classes)
    classes[12] = "b" if classes[12] != "b" else "c"
    shuffled = np.random.default_rng(0).permutation(50)
    relabelled = replace(poor.scores, classes=tuple(classes)).select(part).take(shuffled)
    order = [2, 0, 1]
    reordered = replace(relabelled, labels=("c", "a", "b"), logits=relabelled.logits[:, order])
    compared = compare_candidates([good, replace(poor, scores=reordered)])
    assert (compared.clips, [row.test_clips for row in compared.runs]) == (49, [60, 50])
    rest = part & (np.arange(60) != 12)
    assert [row.metrics["accuracy"].value for row in compared.runs] == pytest.approx(
        [good.scores.correct[rest].mean(), poor.scores.correct[rest].mean()]
    )
    assert "the 49 clips that all runs tested" in compared.cautions[0]
    assert "'12.wav' is" in compared.cautions[1]


def test_groups_are_those_of_the_run_that_knows_the_fewest() -> None:
    good, poor = example()
    ungrouped = replace(good, scores=replace(good.scores, groups=(None,) * 60), group_name="group")
    compared = compare_candidates([ungrouped, poor])
    assert compared.interval.description == "6 speakers"
    assert any("groups of 'poor'" in caution for caution in compared.cautions)


def test_what_cannot_be_compared_is_refused_in_a_sentence() -> None:
    good, poor = example()
    truth = np.arange(60) % 3
    with pytest.raises(RunError, match=r"'good' and 'far' share no test clip.*'0\.wav' .*'100\.wav'"):
        compare_candidates([good, Candidate("far", scores(truth, truth, start=100))])
    other = replace(poor, scores=replace(poor.scores, labels=("a", "b", "d")))
    with pytest.raises(RunError, match="different classes: only 'good' has 'c'; only 'poor' has 'd'"):
        compare_candidates([good, other])
    twice = replace(poor, scores=poor.scores.take(np.array([0, 1, 1])))
    with pytest.raises(RunError, match=r"'poor' tested '1.wav' in more than one fold"):
        compare_candidates([good, twice])
    with pytest.raises(UsageError, match="Did you mean 'macro_f1'"):
        compare_candidates([good, poor], "macro-f1")


def test_disagreements_are_ordered_by_the_labels_probability_and_limited() -> None:
    truth = np.zeros(90, np.int64)
    first, second = scores(truth, truth), scores(truth, truth + 1)
    second.logits[:, 1] = np.linspace(1, 9, 90)
    compared = compare_candidates([Candidate("one", first), Candidate("two", second)])
    assert compared.total_disagreements == 90 and len(compared.disagreements) == MOST_DISAGREEMENTS
    assert compared.disagreements[0].id == "89.wav" and compared.disagreements[0].predicted == ("a", "b")
    probabilities = evaluate_logits(truth, second.logits).confidence
    assert compared.disagreements[0].probabilities[1] == pytest.approx(probabilities[89])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two baselines on one corpus: tested on each group in turn, and on a part of the clips."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(folder / "cache"))
        corpus, settings = write_corpus(folder / "corpus"), {"embed_audio": False, "group": "name:1"}
        whole = auricle.train(corpus, "baseline", folder / "whole", split="leave-one-group-out", **settings)
        part = auricle.train(corpus, "baseline", folder / "part", split="holdout", test=0.3, **settings)
    return whole.path, part.path


def test_runs_of_different_splits_are_compared_on_the_smaller_test_part(runs: tuple[Path, Path]) -> None:
    whole, part = (auricle.open_run(run) for run in runs)
    compared = auricle.compare([whole, part])
    assert isinstance(compared, auricle.Comparison)
    assert compared.clips == part.report.test_clips < whole.report.test_clips
    rows = {row.name: row for row in compared.runs}
    assert rows[str(part.path)].metrics == part.report.metrics
    assert rows[str(part.path)].parameters == part.report.model.parameters
    assert rows[str(part.path)].train_seconds is not None and rows[str(part.path)].recipe == "baseline"
    assert str(compared) == compared.verdict and "<table" in compared._repr_html_()


def test_the_command_prints_a_table_json_and_a_page(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "comparison.html"
    arguments = ["compare", *map(str, runs), "--metric", "balanced_accuracy", "--page", str(page)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "balanced accuracy" in printed and "shared test clips" in printed and str(page) in printed
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    compared = auricle.compare(runs, "balanced_accuracy")
    assert content["verdict"] == compared.verdict and content["clips"] == compared.clips
    assert {row["name"] for row in content["runs"]} == set(map(str, runs))


def test_a_run_without_scores_and_an_unknown_metric_are_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(runs[1], bare)
    RunFolder(bare).scores.unlink()
    assert "no readable scores.parquet" in usage_error(capsys, "compare", str(runs[0]), str(bare))
    message = usage_error(capsys, "compare", *map(str, runs), "--metric", "acuracy")
    assert "Did you mean 'accuracy'" in message
    with pytest.raises(UsageError, match="Name at least two"):
        auricle.compare(str(runs[0]))


@pytest.fixture
def hostile() -> Comparison:
    good, poor = example()
    labels = ("<img src=x onerror=alert(1)>", "b", "c")
    named = [
        replace(
            one,
            name=f"<b>{one.name}",
            scores=replace(
                one.scores, labels=labels, classes=tuple(labels[LABELS.index(label)] for label in one.scores.classes)
            ),
        )
        for one in (good, poor)
    ]
    return compare_candidates(named)


def test_the_page_shows_every_run_and_disagreement_and_is_harmless(hostile: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path / "page.html", hostile)
    page = seen(tmp_path / "page.html")
    assert not page.open and not page.all("img") and len(page.all("script")) == 1
    assert "<b>good" in page.text and "All 18 clips that runs predict differently" in page.text
    assert all(clip.id in page.text for clip in hostile.disagreements)
    assert "-30.0 points" in page.text.replace("\u00a0", " ")
    (mark,) = page.all("circle")
    low, high = (hostile.runs[1].differences["accuracy"].low, hostile.runs[1].differences["accuracy"].high)
    assert float(mark["cx"].rstrip("%")) == pytest.approx(50 - 15 / max(abs(low), abs(high)), abs=0.01)
