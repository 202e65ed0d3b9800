"""The verbs of Python: they do what the commands do, take what the commands take, and show themselves in a notebook."""

import sys
import types
from pathlib import Path

import pytest
import soundfile

import auricle
from auricle import recipes
from auricle.cli.main import _parser
from auricle.cli.options import recipe_of
from auricle.errors import DataError, RunError, UsageError
from auricle.inference.run import resolve
from auricle.recipes import NAMED_SETTINGS
from tests.conftest import write_corpus

VALUES = {
    "reader": "folder",
    "label": "class",
    "group": "group",
    "pattern": "{label}_{take}.wav",
    "split": "random",
    "folds": 3,
    "test": 0.3,
    "corrections": "corrections.csv",
    "strict": True,
    "checkpoint": "some/model",
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 0.5,
    "seed": 7,
    "embed_audio": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> auricle.Run:
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(folder / "cache"))
        return auricle.train(write_corpus(folder / "corpus"), "baseline", folder / "run")


def test_the_public_names_are_exactly_these() -> None:
    assert auricle.__all__ == [
        "Audition",
        "AuricleError",
        "Classifier",
        "Clip",
        "Comparison",
        "Evaluation",
        "Index",
        "Inspection",
        "Prediction",
        "Recipe",
        "Report",
        "Run",
        "VoiceStore",
        "__version__",
        "audition",
        "compare",
        "enrol",
        "evaluate",
        "identify",
        "inspect",
        "load",
        "open_run",
        "read_index",
        "train",
        "verify",
    ]
    assert all(getattr(auricle, name) is not None for name in auricle.__all__)
    assert dir(auricle) == auricle.__all__


def test_an_inspection_shows_itself(corpus: Path) -> None:
    inspection = auricle.inspect(corpus)
    assert "24 of 24 clips usable, 3 classes" in str(inspection)
    assert inspection.split is not None and inspection.split.description in str(inspection)
    page = inspection._repr_html_()
    assert "24 of 24" in page and "<script" not in page


def test_what_an_inspection_shows_cannot_run_in_the_notebook(corpus: Path) -> None:
    (corpus / "low").rename(corpus / "<img src=x onerror=alert(1)>")
    page = auricle.inspect(corpus)._repr_html_()
    assert "<img" not in page and "&lt;img" in page


def test_training_returns_a_run_that_opens_everything(run: auricle.Run) -> None:
    assert isinstance(run, auricle.Run) and run.path.name == "run"
    assert run.report.verdict in str(run)
    assert run.recipe.model.family == "baseline" and run.recipe.audio.sample_rate is not None
    assert isinstance(run.report, auricle.Report) and "report.html" in run._repr_html_()
    again = auricle.open_run(run.path)
    assert again == run and again.report == run.report


def test_a_run_measures_itself_again(run: auricle.Run) -> None:
    assert run.evaluate().metrics == run.report.metrics
    assert auricle.evaluate(run).metrics == run.report.metrics
    other = run.evaluate(run.path.parent / "corpus")
    assert other.test_clips == 24


def test_a_run_classifies_files_folders_and_samples(run: auricle.Run) -> None:
    corpus = run.path.parent / "corpus"
    path = corpus / "high" / "device0_000.wav"
    answers = run.predict(path, corpus / "low")
    assert [answer.label for answer in answers] == ["high"] + ["low"] * 8
    samples, rate = soundfile.read(path, dtype="int16")
    (alone,) = run.predict(path)
    assert run.classifier.classify(samples, rate).choices == alone.choices
    assert auricle.load(run)(path).choices == alone.choices
    assert "high" in answers[0]._repr_html_()


def test_nothing_is_printed_unless_verbose(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auricle.train(corpus, "baseline", tmp_path / "run")
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == ""
    auricle.train(corpus, "baseline", tmp_path / "run2", verbose=True)
    assert "24 clips, 3 classes" in capsys.readouterr().out


def test_python_takes_the_names_of_the_command_line() -> None:
    assert set(VALUES) == set(NAMED_SETTINGS)
    for contradicting in ({"folds"}, {"split", "test"}):
        values = {name: value for name, value in VALUES.items() if name not in contradicting}
        words = ["--strict", "--no-audio"]
        for name, value in values.items():
            if name not in ("strict", "embed_audio"):
                words += [f"--{name.replace('_', '-')}", str(value)]
        options = _parser().parse_args(["train", ".", "--recipe", "emotion", *words])
        assert recipe_of(options) == resolve("emotion", values)


def test_any_recipe_key_can_be_set_in_python() -> None:
    flat = resolve("genre", {"train__crop_seconds": 3, "model__freeze": "none"})
    nested = resolve("genre", {"train": {"crop_seconds": 3}, "model": {"freeze": "none"}})
    assert flat == nested and flat.train.crop_seconds == 3
    assert resolve(flat, {"epochs": 3}).train == flat.train.model_copy(update={"epochs": 3})


def test_folds_alone_ask_for_cross_validation() -> None:
    assert resolve("sound", {"folds": 4}).data.split == "folds"
    assert resolve("sound", {"data__folds": 4}).data.split == "folds"


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"folds": 4, "split": "predefined"}, "`--split folds --folds 4`, or `--split predefined` without `--folds`"),
        ({"folds": 4, "split": "auto"}, "`--split folds --folds 4`"),
        ({"folds": 4, "test": 0.3}, "`--split holdout --test 0.3`"),
        ({"test": 0.2, "split": "leave-one-group-out"}, "`--split holdout --test 0.2`"),
        ({"data__fold": "part", "split": "holdout"}, "`--split predefined --set data.fold=part`"),
    ],
)
def test_settings_without_effect_on_the_split_are_refused(settings: dict[str, object], instead: str) -> None:
    with pytest.raises(UsageError, match="has no effect with the split") as caught:
        resolve("genre", settings)  # a recipe's own test_size is not given
    assert instead in str(caught.value)
    assert resolve("genre", {name: value for name, value in settings.items() if name == "split"}).data.test_size == 0.1


def test_one_key_with_two_values_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.folds received two values: folds 4 and --set data\.folds=3"):
        recipes.load("sound", ["data.folds=3"], {"folds": 4})


def test_wrong_settings_raise_what_the_command_line_says(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(UsageError, match=r"No setting named 'epoch'\. Did you mean 'epochs'"):
        auricle.train(corpus, epoch=3)
    with pytest.raises(UsageError, match="epochs is 0"):
        auricle.train(corpus, epochs=0)
    with pytest.raises(UsageError, match="Did you mean 'crop_seconds'"):
        auricle.train(corpus, train__crop_second=3)
    with pytest.raises(UsageError, match="'gpu' is not a device"):
        auricle.train(corpus, device="gpu")
    with pytest.raises(UsageError, match="out=RUN"):
        auricle.train(corpus, resume=True)
    with pytest.raises(DataError, match="no file or folder"):
        auricle.inspect(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no finished run"):
        auricle.Run(tmp_path)


def test_a_device_that_is_not_there_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"This machine has no device 'cuda:99'\. It has: auto, cpu"):
        auricle.train(corpus, "baseline", tmp_path / "run", device="cuda:99")
    assert not (tmp_path / "run").exists()


def test_training_shows_progress_in_a_notebook(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Output:
        def update(self, content) -> None:
            shown.append(content._repr_html_())

    display = types.SimpleNamespace(display=lambda content, display_id: Output())
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    auricle.train(corpus, "sound", tmp_path / "run", epochs=1, device="cpu", model__ensemble_baseline=False)
    assert any("24 clips, 3 classes" in page for page in shown)
    assert any("<progress" in page and "epoch 1 of 1" in page for page in shown)
