"""Temperature: it finds the scale that was lost, trusts few clips little, and holds wherever a model answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from auricle import recipes
from auricle.evaluation import calibration, metrics, scoring
from auricle.evaluation.scoring import Scores
from auricle.inference.classifier import load
from auricle.models.load import save_model
from auricle.preparation.windows import from_arrays
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import write_corpus
from tests.test_encoders import folder
from tests.test_families import VARIANTS, arrays, build
from tests.test_finetuning import TOP
from tests.test_finetuning import small as finetuned
from tests.test_run import small


def drawn(clips: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `scale` times as large as those that the truth was drawn by."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (clips, 5))
    chances = scoring.softmax(logits)
    truth = np.array([random.choice(5, p=row) for row in chances])
    return (logits * scale).astype(np.float32), truth


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_the_scale_that_the_truth_was_drawn_by_is_found(scale: float) -> None:
    logits, truth = drawn(4000, scale)
    assert calibration.fit_temperature(logits, truth) == pytest.approx(scale, rel=0.08)


def test_it_minimises_the_likelihood_under_its_prior() -> None:
    logits, truth = drawn(60, 3.0)
    found = calibration.fit_temperature(logits, truth)

    def cost(value: float) -> float:
        loss = metrics.compute_metrics(metrics.evaluate_logits(truth, logits / value))["log_loss"] * len(truth)
        return loss + 0.5 * (np.log(value) / calibration.PRIOR_DEVIATION) ** 2

    assert cost(found) < min(cost(found * 1.01), cost(found / 1.01))


def test_ten_clips_without_a_mistake_do_not_make_it_certain_and_none_say_nothing() -> None:
    logits = np.eye(5, dtype=np.float32)[np.arange(10) % 5] * 4
    found = calibration.fit_temperature(logits, np.arange(10) % 5)
    assert 0.4 < found < 1.0
    assert calibration.fit_temperature(np.zeros((0, 5), np.float32), np.zeros(0, np.int64)) == 1.0


def test_clips_of_one_group_count_as_fewer_than_clips_of_many() -> None:
    logits, truth = drawn(40, 3.0)
    alone = calibration.fit_temperature(logits, truth)
    assert calibration.fit_temperature(logits, truth, [f"s{number}" for number in range(40)]) == alone
    together = calibration.fit_temperature(logits, truth, ["s"] * 40)
    assert (
        1.0 < together < calibration.fit_temperature(logits, truth, [f"s{number % 8}" for number in range(40)]) < alone
    )
    # Forty clips of one group, each counting as much as it does, move the temperature as few clips would.
    assert together < 0.8 * alone


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_calibrated_model_divides_its_logits_here_and_when_opened_again(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    model = build(name, options)
    clips = from_arrays(arrays()[:3])
    before = scoring.score(model, clips, batch_seconds=10)
    model.apply_temperature(1.7)
    after = scoring.score(model, clips, batch_seconds=10)
    assert np.abs(after - before / 1.7).max() < 1e-5
    save_model(model, tmp_path / "model")
    back = type(model).from_pretrained(tmp_path / "model").eval()
    assert (scoring.score(back, clips, batch_seconds=10) == after).all()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["logit_temperature"] == 1.7


@pytest.mark.parametrize("functionals", [True, False])
def test_a_run_calibrates_its_model_on_validation_clips_that_no_part_of_it_learnt(
    functionals: bool, corpus: Path, tmp_path: Path
) -> None:
    report = run(
        corpus, small(model={"family": "cnn", "ensemble_baseline": functionals}), tmp_path / "run", ProgressReporter()
    )
    trained = json.loads((tmp_path / "run" / "trained.json").read_text())
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert trained["temperature"] == config["logit_temperature"] == report.model.temperature != 1.0
    valid = Scores.load(tmp_path / "run" / "fold-validation.parquet")
    again = calibration.fit_temperature(valid.logits * trained["temperature"], valid.truth, valid.groups)
    assert again == pytest.approx(trained["temperature"], rel=1e-3)
    # Test scores, and what the folder answers, come after it.
    scores = Scores.load(tmp_path / "run" / "scores.parquet")
    answer = load(tmp_path / "run")(corpus / scores.ids[0])
    assert answer.probability == pytest.approx(float(scores.probabilities[0].max()), abs=1e-4)


@pytest.mark.parametrize("prefix", ["true", "false"])
def test_a_fine_tuned_model_is_tempered_in_its_weights_and_answers_unknown(prefix: str, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "corpus", per_class=12)
    settings = finetuned(
        folder("tiny-hubert"),
        *TOP,
        f"model.cache_frozen={prefix}",
        "data.held_out_classes=[]",
        "data.validation_size=0.25",
    )
    settings = settings.replace("evaluate", max_false_accept_rate=0.5)
    report = run(data, settings, tmp_path / "run", ProgressReporter())
    trained = json.loads((tmp_path / "run" / "trained.json").read_text())
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["logit_temperature"] == trained["temperature"] == report.model.temperature != 1.0
    assert report.rejection is not None and report.rejection.impostors == "misclassified clips"
    assert config["threshold"] == report.rejection.threshold
    # The saved folder says of validation clips what the threshold was set by: stock weights, tempered.
    valid = Scores.load(tmp_path / "run" / "fold-validation.parquet")
    for row in range(3):
        answer = load(tmp_path / "run", "float32")(data / valid.ids[row])
        assert answer.probability == pytest.approx(float(valid.probabilities[row].max()), abs=1e-4)


def test_without_validation_clips_and_in_closed_form_it_is_one(corpus: Path, tmp_path: Path) -> None:
    short = small(data={"validation_size": 0.0}, train={"epochs": 1})
    for number, recipe in enumerate((short, recipes.load("baseline"))):
        run(corpus, recipe, tmp_path / str(number), ProgressReporter())
        assert json.loads((tmp_path / str(number) / "trained.json").read_text())["temperature"] == 1.0
        assert not (tmp_path / str(number) / "fold-validation.parquet").exists()
