"""The demo finds the faults that it planted, says how many, and ends with the report to open."""

from functools import partial
from pathlib import Path

import pytest

from auricle import demo, recipes
from auricle.audio import synth
from auricle.cli.main import main
from auricle.errors import UsageError


def test_it_names_the_planted_faults_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On fewer clips and with the baseline, for the time's sake: mislabelled clips may then be missed."""
    quick = recipes.load("baseline", ["data.split=folds", "data.folds=3", "evaluate.examples=40"])
    monkeypatch.setattr(synth, "make", partial(synth.make, clips_per_class=6))
    monkeypatch.setattr(demo.recipes, "load", lambda name: quick)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = next(line for line in lines if line.startswith("Planted faults found"))
    assert found in {f"Planted faults found: {number} of 12." for number in (10, 11, 12)}
    assert lines[-1] == f"Open the report: {(tmp_path / 'demo' / 'run' / 'report.html').as_uri()}"
    assert (tmp_path / "demo" / "run" / "report.html").is_file()


def test_it_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        demo.check_folder(tmp_path)
    (tmp_path / ".auricle-demo").touch()
    demo.check_folder(tmp_path)


def test_it_compares_the_network_alone_with_the_baseline_and_chooses_nothing() -> None:
    recipe = recipes.load("demo")
    assert recipe.model.options["ensemble_baseline"] is False
    assert not recipe.train.load_best_model_at_end and recipe.data.split == "folds"
