"""Wrong usage is answered at once: arguments, paths and the recipe are checked before a heavy library is imported."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "gradio", "datasets", "av", "accelerate", "peft", "sklearn", "onnxruntime", "onnx"}
# Runs commands one after the other in one process; reports of each its exit code, its standard output and error, and
# the modules that are imported by then.
PROGRAM = """
import contextlib, io, json, sys
from auricle.cli.main import main
class Recorder(io.TextIOBase):
    def __init__(self):
        self.lines = []
    def write(self, text):
        if text.strip():
            self.lines.append((text, bool({"torch", "transformers"} & set(sys.modules))))
        return len(text)
results = []
for arguments in json.load(sys.stdin):
    out, err = Recorder(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    results.append({"code": code, "lines": out.lines, "message": err.getvalue(), "modules": sorted(sys.modules)})
json.dump(results, sys.stdout)
"""


# Prints when recordings are decoded.
WATCH = """
from auricle.audio import store
decode = store.parallel_map
def watched(*arguments):
    print("decoding")
    return decode(*arguments)
store.parallel_map = watched
"""


def call(*commands: list[object], cwd: Path, before: str = "") -> list[dict]:
    """Run commands in one fresh process."""
    given = json.dumps([[*map(str, arguments)] for arguments in commands])
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM], input=given, capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def imported(result: dict) -> set[str]:
    return {name.partition(".")[0] for name in result["modules"]} & HEAVY


# Each command, the arguments that are wrong, and what the message names. CORPUS and RUN stand for ones that exist.
WRONG = [
    ("inspect", "NOWHERE", "no file or folder at"),
    ("inspect", "CORPUS --recipe sond", "Did you mean 'sound'"),
    ("inspect", "CORPUS --set data.lable=x", "Did you mean 'label'"),
    ("inspect", "CORPUS --folds many", "--folds"),
    ("inspect", "CORPUS --reader foldr", "Did you mean 'folder'"),
    ("train", "NOWHERE", "no file or folder at"),
    ("train", "CORPUS --recipe none.yaml", "No recipe file at 'none.yaml'"),
    ("train", "CORPUS --set train.epochz=3", "Did you mean 'epochs'"),
    ("train", "CORPUS --set model.family=cnnn", "Did you mean 'cnn'"),
    ("train", "CORPUS --set model.sise=tutorial", "Did you mean 'size'"),
    ("train", "CORPUS --recipe genre --set model.chekpoint=x", "Did you mean 'checkpoint'"),
    ("train", "CORPUS --recipe speaker --set model.sise=x", "Did you mean 'size'"),
    ("train", "CORPUS --recipe baseline --set model.sise=x", "'sise'"),
    ("train", "CORPUS --epochs many", "--epochs"),
    ("train", "CORPUS --epochs 0", "--epochs is 0"),
    ("train", "CORPUS --batch-size 0", "--batch-size is 0"),
    ("train", "CORPUS --checkpoint some/model", "--checkpoint received 'some/model'"),
    ("train", "CORPUS --device gpu", "--device: 'gpu' is not a device"),
    ("train", "CORPUS --resume", "--out RUN"),
    ("train", "CORPUS --label colour", "'colour'"),
    ("train", "CORPUS --split halves", "'halves'"),
    ("evaluate", "NOWHERE", "no run folder at"),
    ("evaluate", "CORPUS", "neither a run folder"),
    ("evaluate", "RUN NOWHERE", "no file or folder at"),
    ("compare", "RUN", "Name at least two"),
    ("compare", "NOWHERE RUN", "no run folder at"),
    ("compare", "RUN RUN", "has no report.json"),
    ("compare", "RUN RUN --page answers.txt", "--page received 'answers.txt'"),
    ("predict", "NOWHERE a.wav", "no run folder at"),
    ("predict", "CORPUS a.wav", "neither a run folder"),
    ("predict", "RUN a.wav --top none", "--top"),
    ("predict", "RUN a.wav --out answers.xlsx", "--out received 'answers.xlsx'"),
    ("predict", "RUN a.wav --resume", "--out FILE"),
    ("tag", "a.wav", "auricle encoders --fetch mn04"),
    ("tag", "a.wav --checkpoint NOWHERE", "no such file"),
    ("tag", "a.wav --top-k 0", "--top-k"),
    ("listen-live", "NOWHERE", "no run folder at"),
    ("listen-live", "RUN --hop never", "--hop"),
    ("serve", "NOWHERE", "no run folder at"),
    ("serve", "RUN --token-file NOWHERE", "--token-file"),
    ("export", "NOWHERE --onnx", "no run folder at"),
    ("export", "RUN", "Add --onnx"),
    ("push", "NOWHERE me/model", "no run folder at"),
    ("listen", "NOWHERE", "no file or folder at"),
    ("listen", "CORPUS --run NOWHERE", "no run folder at"),
    ("listen", "CORPUS --recipe sond", "Did you mean 'sound'"),
    ("enrol", "voices.db anna a.wav --run NOWHERE", "no run folder at"),
    ("identify", "NOWHERE a.wav", "NOWHERE"),
    ("verify", "NOWHERE anna a.wav", "NOWHERE"),
    ("voices", "NOWHERE", "NOWHERE"),
    ("trials", "NOWHERE list.txt", "no run folder at"),
    ("demo", "--out CORPUS", "holds other files"),
    ("demo", "--seed none", "--seed"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Path]) -> dict[tuple[str, str], dict]:
    """What each wrong command says; as one process runs them all, a heavy import is found in all that follow it."""
    folder = tmp_path_factory.mktemp("startup")
    run = folder / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text('{"model_type": "auricle-baseline"}')
    (run / "recipe.yaml").write_text("name: baseline\nmodel: {family: baseline}\n")
    given = {"CORPUS": make_corpus(folder / "corpus"), "RUN": run}
    commands = [[command, *(given.get(word, word) for word in words.split())] for command, words, _ in WRONG]
    return {
        (command, words): result for (command, words, _), result in zip(WRONG, call(*commands, cwd=folder), strict=True)
    }


@pytest.mark.parametrize(("command", "arguments", "expected"), WRONG, ids=lambda value: str(value).replace(" ", "_"))
def test_wrong_usage_is_answered_without_heavy_imports(
    command: str, arguments: str, expected: str, answers: dict[tuple[str, str], dict]
) -> None:
    result = answers[command, arguments]
    assert result["code"] == 2, result["message"]
    assert expected in result["message"] and "Traceback" not in result["message"]
    assert not imported(result)


def test_commands_import_what_they_need_when_they_need_it_and_never_the_trainer(corpus: Path, tmp_path: Path) -> None:
    """`inspect` imports PyTorch for groups only; `train` names the corpus and decodes it before."""
    unnamed = shutil.copytree(corpus, tmp_path / "unnamed")
    for number, path in enumerate(sorted(unnamed.rglob("*.wav"))):
        path.rename(path.with_name(f"{number * 7919:x}.wav"))  # no field of the names could be a group
    train = ["train", corpus, "--recipe", "baseline", "--out", tmp_path / "run"]
    predict = ["predict", tmp_path / "run", corpus]
    without_groups, trained, grouped, answered = call(
        ["inspect", unnamed], train, ["inspect", corpus], predict, cwd=tmp_path, before=WATCH
    )
    for result in (without_groups, trained, grouped, answered):
        assert result["code"] == 0, result["message"]
        # transformers' own base class of models imports accelerate; its Trainer is another matter.
        assert not imported(result) & {"peft", "datasets", "gradio"} and "transformers.trainer" not in result["modules"]
        # Encoders are for those who use one.
        assert "auricle.models.encoders" not in result["modules"]
    assert not imported(without_groups) - {"av"}
    text, after_torch = trained["lines"][0]
    assert text.startswith("Class folders: 24 clips, 3 classes") and not after_torch
    assert ["decoding", False] in trained["lines"]
