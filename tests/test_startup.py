"""Wrong usage is answered at once: arguments, paths and the recipe are checked before a heavy library is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "gradio", "datasets", "av", "accelerate", "peft", "sklearn", "onnxruntime", "onnx"}
# Runs a command, and reports its exit code, its standard output and the modules that it imported.
PROGRAM = """
import contextlib, io, json, sys
from auricle.cli.main import main
lines, out = [], sys.stdout
class Recorder(io.TextIOBase):
    def write(self, text):
        if text.strip():
            lines.append((text, "torch" in sys.modules))
        return len(text)
sys.stdout = Recorder()
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
json.dump({"code": code, "lines": lines, "modules": sorted(sys.modules)}, out)
"""


def call(*arguments: object, cwd: Path | None = None) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


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


@pytest.mark.parametrize(("command", "arguments", "expected"), WRONG, ids=lambda value: str(value).replace(" ", "_"))
def test_wrong_usage_is_answered_without_heavy_imports(
    command: str, arguments: str, expected: str, corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text('{"model_type": "auricle-baseline"}')
    (run / "recipe.yaml").write_text("name: baseline\nmodel: {family: baseline}\n")
    given = {"CORPUS": str(corpus), "RUN": str(run)}
    result, message = call(command, *(given.get(word, word) for word in arguments.split()), cwd=tmp_path)
    assert result["code"] == 2, message
    assert expected in message and "Traceback" not in message
    assert not imported(result)


def test_a_baseline_names_the_corpus_before_torch_and_never_imports_the_trainer(corpus: Path, tmp_path: Path) -> None:
    result, message = call("train", corpus, "--recipe", "baseline", "--out", tmp_path / "run")
    assert result["code"] == 0, message
    text, after_torch = result["lines"][0]
    assert "24 clips, 3 classes" in text and not after_torch
    # transformers' own base class of models imports accelerate; its Trainer is another matter.
    assert not imported(result) & {"peft", "datasets", "gradio"}
    assert "transformers.trainer" not in result["modules"]


def test_inspecting_imports_torch_only_for_groups_and_never_the_trainer(corpus: Path) -> None:
    result, _ = call("inspect", corpus)
    assert result["code"] == 0
    assert not imported(result) & {"peft", "datasets", "gradio"} and "transformers.trainer" not in result["modules"]
    for number, path in enumerate(sorted(corpus.rglob("*.wav"))):
        path.rename(path.with_name(f"{number * 7919:x}.wav"))  # no field of the names could be a group
    result, _ = call("inspect", corpus)
    assert result["code"] == 0
    assert not imported(result) - {"av"}
