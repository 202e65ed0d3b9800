"""Several seeds: the same split again, its variance, and that the result stays that of the first seed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from auricle import recipes
from auricle.cli.main import main
from auricle.errors import UsageError
from auricle.evaluation.metrics import variance_across_seeds
from auricle.evaluation.scoring import Scores
from auricle.recipe import Recipe
from auricle.training.progress import ProgressReporter
from auricle.training.run import run


def small(seed: int = 0, seeds: int = 1, **data: object) -> Recipe:
    content = {
        "name": "small",
        "data": {"test_size": 0.25, "validation_size": 0.25, **data},
        "model": {"family": "cnn", "ensemble_baseline": False},
        "train": {"epochs": 2, "batch_size": 8, "precision": "float32", "seed": seed, "seeds": seeds},
        "evaluate": {"bootstrap_resamples": 100, "embed_audio": False},
    }
    return recipes.parse(content, "test")


def scores(logits: list[list[float]]) -> Scores:
    count = len(logits)
    return Scores(
        ("a", "b"),
        tuple(map(str, range(count))),
        ("a",) * count,
        np.array(logits, np.float32),
        np.ones(count),
        (None,) * count,
        ("test",) * count,
    )


def test_the_variance_is_that_of_the_values() -> None:
    right, wrong = [2.0, 0.0], [0.0, 2.0]
    found = variance_across_seeds([5, 6, 7], [scores([right] * k + [wrong] * (4 - k)) for k in (4, 2, 3)], 1)
    row = found.metrics["accuracy"]
    assert found.seeds == (5, 6, 7) and row.values == (1.0, 0.5, 0.75)
    assert row.mean == pytest.approx(0.75) and row.deviation == pytest.approx(0.25)
    assert (row.low, row.high) == (0.5, 1.0)


def test_the_result_is_the_first_seeds_and_the_others_are_what_they_would_be_alone(
    corpus: Path, tmp_path: Path
) -> None:
    alone = {seed: run(corpus, small(seed), tmp_path / f"alone-{seed}", ProgressReporter()) for seed in (4, 5)}
    together = run(corpus, small(4, seeds=2), tmp_path / "run", ProgressReporter())
    assert alone[4].seeds is None and together.metrics == alone[4].metrics and together.seeds is not None
    assert together.split == alone[5].split and together.seeds.seeds == (4, 5)
    for name, row in together.seeds.metrics.items():
        assert row.values == tuple(alone[seed].metrics[name].value for seed in (4, 5))
    weights = "model/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "alone-4" / weights).read_bytes()
    assert (tmp_path / "run" / "seeds" / "05" / weights).read_bytes() == (tmp_path / "alone-5" / weights).read_bytes()
    assert together.training.trainings == 2


def test_folds_are_trained_again_without_a_model_to_keep(corpus: Path, tmp_path: Path) -> None:
    report = run(corpus, small(seeds=2, split="folds", folds=2), tmp_path / "run", ProgressReporter())
    folder = tmp_path / "run" / "seeds" / "01"
    assert sorted(path.name for path in folder.iterdir()) == ["folds"]
    assert sorted(path.name for path in (folder / "folds").iterdir()) == ["01", "02"]
    assert report.training.trainings == 5


def test_a_finished_seed_is_not_trained_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = small(seeds=3), tmp_path / "run"
    run(corpus, recipe, out, ProgressReporter())
    before = (out / "report.json").read_bytes()
    (out / "seeds" / "02" / "trained.json").unlink()
    run(corpus, recipe, out, ProgressReporter(), resume=True)
    stamps = [(out / "seeds" / f"{seed:02d}" / "trained.json").stat().st_mtime_ns for seed in (1, 2)]
    assert stamps[0] < stamps[1]
    assert (out / "report.json").read_bytes() == before
    with pytest.raises(UsageError, match="section train differs"):
        run(corpus, small(seeds=2), out, ProgressReporter(), resume=True)


def test_a_closed_form_family_is_fitted_again_too(corpus: Path, tmp_path: Path) -> None:
    report = run(corpus, recipes.load("baseline", ["train.seeds=2"]), tmp_path / "run", ProgressReporter())
    assert report.seeds is not None
    assert report.seeds.metrics["accuracy"].values == (1.0, 1.0)
    assert report.seeds.metrics["accuracy"].deviation == 0


def test_the_variance_is_shown_on_the_page_in_the_card_and_on_the_terminal(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(corpus), "--recipe", "baseline", "--set", "train.seeds=3", "--out", str(out)]
    assert main(arguments) == 0
    row = json.loads((out / "report.json").read_text())["seeds"]["metrics"]["accuracy"]
    told = f"{row['mean']:.3f} ± {row['deviation']:.3f}"
    assert f"Variance across 3 seeds: accuracy {told}" in capsys.readouterr().out
    assert told in (out / "model" / "README.md").read_text()
    page = (out / "report.html").read_text()
    section = re.search(r'<section id="seeds">.*?</section>', page, flags=re.DOTALL)
    assert section is not None and section[0].count("<th>Seed") == 3
    assert f"<td>{row['deviation']:.3f}</td>" in section[0]


def test_fewer_than_one_seed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.seeds"):
        small(seeds=0)
