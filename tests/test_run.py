"""Whole runs: what they leave behind, that they repeat, and that a kill changes nothing."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from auricle import recipes
from auricle.errors import DataError, UsageError
from auricle.evaluation.evaluate import evaluate
from auricle.evaluation.report import Report
from auricle.recipe import Recipe
from auricle.run_folder import atomic_write
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import RATE
from tests.processes import run_python

SMALL = {
    "name": "small",
    "data": {"group": "name:1", "test_size": 0.25, "validation_size": 0.25},
    "augment": {"shift_fraction": 0.5, "mixup_alpha": 0.3},
    "train": {"epochs": 3, "batch_size": 6, "learning_rate": 0.003, "precision": "float32"},
    "evaluate": {"bootstrap_resamples": 100, "examples": 2},
}


def small(**sections: dict[str, object]) -> Recipe:
    changed = {name: {**SMALL.get(name, {}), **values} for name, values in sections.items()}  # type: ignore[dict-item]
    content = {**SMALL, **changed}
    return recipes.parse(content, "test")


def test_a_run_leaves_the_folder_that_the_design_names(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = run(corpus, small(), out, ProgressReporter())
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "recipe.yaml",
        "index.parquet",
        "split.json",
        "audit.json",
        "history.jsonl",
        "checkpoints",
        "model",
        "scores.parquet",
        "report.json",
        "report.html",
        "cost.json",
    }
    model = {path.name for path in (out / "model").iterdir()}
    assert model >= {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert Report.load(out / "report.json") == report
    for name, figure in report.metrics.items():
        if name != "calibration_error":
            assert figure.low <= figure.value <= figure.high
    names = {"metrics", "majority", "baseline", "folds", "accuracy_by_clip_duration", "slices", "audit", "split"}
    assert set(json.loads((out / "report.json").read_text())) >= names | {"training"}
    assert report.test_clips == 6 and report.split.grouped
    assert recipes.load(out / "recipe.yaml").audio.sample_rate == RATE
    assert yaml.safe_load((out / "model" / "README.md").read_text().split("---")[1])["library_name"] == "transformers"
    cost = json.loads((out / "cost.json").read_text())
    assert cost["prepare_seconds"] > 0 and cost["train_seconds"] > 0 and cost["clips_per_second"] > 0


def test_the_same_recipe_data_and_machine_give_the_same_report(corpus: Path, tmp_path: Path) -> None:
    first = run(corpus, small(), tmp_path / "first", ProgressReporter())
    second = run(corpus, small(), tmp_path / "second", ProgressReporter())
    assert first == second
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


def test_folds_train_a_model_each_and_one_on_everything(corpus: Path, tmp_path: Path) -> None:
    recipe = small(data={"split": "leave-one-group-out", "validation_size": 0.0}, train={"epochs": 1})
    report = run(corpus, recipe, tmp_path / "run", ProgressReporter())
    assert [row.name for row in report.folds] == [f"device{number}" for number in range(4)]
    assert report.test_clips == 24 and report.training.trainings == 5
    assert len(list((tmp_path / "run" / "folds").iterdir())) == 4
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    judged = evaluate(tmp_path / "run", None, lambda *_: None)
    assert judged.metrics == report.metrics


def test_the_baseline_recipe_goes_the_same_way(corpus: Path, tmp_path: Path) -> None:
    report = run(corpus, recipes.load("baseline"), tmp_path / "run", ProgressReporter())
    assert report.metrics["accuracy"].value == 1.0
    assert report.baseline.is_this_model
    assert evaluate(tmp_path / "run", None, lambda *_: None).metrics["accuracy"].value == 1.0


def test_other_recordings_are_judged_by_the_kept_model(
    corpus: Path, tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    run(corpus, recipes.load("baseline"), tmp_path / "run", ProgressReporter())
    others = make_corpus(tmp_path / "others", per_class=3, seconds=0.9)
    found = evaluate(tmp_path / "run", str(others), lambda *_: None)
    assert found.test_clips == 9 and found.metrics["accuracy"].value > 0.8
    (others / "high").rename(others / "unheard")
    with pytest.raises(DataError, match="not trained on 'unheard'"):
        evaluate(tmp_path / "run", str(others), lambda *_: None)


def test_bad_clips_are_set_aside_and_strict_refuses_them(corpus: Path, tmp_path: Path) -> None:
    (corpus / "low" / "device0_777.wav").write_bytes(b"not a sound")
    report = run(corpus, recipes.load("baseline"), tmp_path / "run", ProgressReporter())
    assert [(row.id, row.kind) for row in report.audit.quarantined] == [("low/device0_777.wav", "unreadable")]
    with pytest.raises(DataError, match=r"'low/device0_777\.wav' is unreadable"):
        run(corpus, recipes.load("baseline", ["data.strict=true"]), tmp_path / "strict", ProgressReporter())
    assert not (tmp_path / "strict").exists()


def test_a_random_split_on_groups_says_what_it_is_worth(corpus: Path, tmp_path: Path) -> None:
    report = run(
        corpus,
        recipes.load("baseline", ["data.split=random", "data.group=name:1"]),
        tmp_path / "run",
        ProgressReporter(),
    )
    assert any("are on both sides" in caution for caution in report.cautions)
    assert "are on both sides" in (tmp_path / "run" / "report.html").read_text()


def test_a_mislabelled_clip_is_doubted(corpus: Path, tmp_path: Path) -> None:
    (corpus / "high" / "device1_001.wav").rename(corpus / "noise" / "device1_901.wav")
    report = run(corpus, recipes.load("baseline"), tmp_path / "run", ProgressReporter())
    assert "noise/device1_901.wav" in [row.id for row in report.suspect_labels]


def test_a_run_folder_is_not_overwritten_nor_resumed_with_another_recipe(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(corpus, recipes.load("baseline"), out, ProgressReporter())
    with pytest.raises(UsageError, match="exists already"):
        run(corpus, recipes.load("baseline"), out, ProgressReporter())
    with pytest.raises(UsageError, match=r"started with another recipe \(section train differs\)"):
        run(corpus, recipes.load("baseline", ["train.seed=9"]), out, ProgressReporter(), resume=True)
    before = (out / "report.json").read_bytes()
    run(corpus, recipes.load("baseline"), out, ProgressReporter(), resume=True)
    assert (out / "report.json").read_bytes() == before


KILLS = {
    "while preparing": "from auricle.audio import store\nstore._row = kill",
    "after the first epoch": (
        "from auricle.training.loop import ProgressCallback as one\none._emit = after(one._emit, 1)"
    ),
    "while a checkpoint is written": (
        "from auricle.training import loop\nloop.AudioTrainer._save_scaler = after(loop.AudioTrainer._save_scaler, 2)"
    ),
    "before the report": "from auricle.training import outcome\noutcome.build_report = kill",
}
KILLER = """
import os, signal, sys
from pathlib import Path
def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def after(function, calls):
    count = []
    def counted(*arguments, **named):
        count.append(1)
        result = function(*arguments, **named)
        if len(count) > calls: kill()
        return result
    return counted
{patch}
from auricle import recipes
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
run({corpus!r}, recipes.load({recipe!r}), Path({out!r}), ProgressReporter())
"""


def test_a_run_killed_at_any_moment_and_resumed_is_the_run_never_killed(corpus: Path, tmp_path: Path) -> None:
    """SIGKILL at four moments; each resumed run ends in the weights and report.json of the undisturbed one."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(SMALL))
    whole = tmp_path / "whole"
    run(corpus, recipes.load(recipe), whole, ProgressReporter())
    for number, (moment, patch) in enumerate(KILLS.items()):
        out = tmp_path / f"killed-{number}"
        code = KILLER.format(patch=patch, corpus=str(corpus), recipe=str(recipe), out=str(out))
        environment = {**os.environ, "AURICLE_CACHE": str(tmp_path / f"cache-{number}")}
        assert run_python(code, environment) == -signal.SIGKILL, moment
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("AURICLE_CACHE", environment["AURICLE_CACHE"])
            run(corpus, recipes.load(recipe), out, ProgressReporter(), resume=True)
        for name in ("report.json", "model/model.safetensors", "split.json", "audit.json"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), (moment, name)


def test_a_run_s_files_are_complete_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_write(path) as partial:
        partial.mkdir()
        (partial / "weights").write_text("first")
    with pytest.raises(ValueError), atomic_write(path) as partial:
        partial.mkdir()
        raise ValueError
    assert (path / "weights").read_text() == "first" and [file.name for file in tmp_path.iterdir()] == ["model"]
    with atomic_write(path) as partial:
        partial.mkdir()
    assert not list(path.iterdir())
