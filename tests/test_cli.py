"""The command line as a person or a program meets it: answers, errors, exit codes."""

import argparse
import csv
import gc
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import auricle
from auricle.cli.main import _parser, main
from auricle.errors import DataError
from auricle.training import grouping
from tests.conftest import RATE, tone, usage_error, write_corpus


def test_inspect_prints_what_is_there_and_the_same_as_json(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(corpus)]) == 0
    assert "24 of 24 clips usable, 3 classes" in capsys.readouterr().out
    assert main(["inspect", str(corpus), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] == 24 and len(found["index"]) == 24 and found["split"]["kind"] == "holdout"


def test_cycles_are_looked_for_rarely_during_a_command_and_as_usual_after_it(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, seen = gc.get_threshold(), []

    def inspect(*_: object, **__: object) -> None:
        seen.append(gc.get_threshold())
        raise DataError("enough")

    monkeypatch.setattr(grouping, "inspect", inspect)
    assert main(["inspect", str(corpus)]) == 2 and "enough" in capsys.readouterr().err
    assert seen[0][0] > usual[0] and gc.get_threshold() == usual


def test_train_prints_the_verdict_and_names_the_report(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(corpus), "--recipe", "baseline", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "held-out test clips" in out and "report.html" in out and "95 % interval" in out


def test_predict_answers_for_files_folders_globs_and_archives(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "some.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(corpus / "low" / "device0_000.wav", "deep/inside.wav")
    inputs = [
        str(corpus / "high" / "device0_000.wav"),
        str(corpus / "low"),
        str(corpus / "noise" / "*.wav"),
        str(archive),
    ]
    assert main(["predict", str(trained), *inputs, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == ["high"] + ["low"] * 8 + ["noise"] * 8 + ["low"]
    assert all(abs(sum(choice["probability"] for choice in row["choices"]) - 1) < 1e-4 for row in rows)


def test_predict_reports_a_bad_file_in_its_row_and_exits_with_1(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"garbage")
    out = tmp_path / "answers.csv"
    good = str(corpus / "low" / "device0_000.wav")
    assert (
        main(["predict", str(trained), str(tmp_path / "bad.wav"), good, str(tmp_path / "no.wav"), "--out", str(out)])
        == 1
    )
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["label_1"] for row in rows] == ["", "low", ""]
    assert rows[0]["error"].startswith("unreadable") and rows[2]["error"].startswith("unreadable")
    assert float(rows[1]["probability_1"]) > 0.5 and rows[1]["error"] == ""


def test_predict_reads_a_recording_from_standard_input(
    trained: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (corpus / "high" / "device0_000.wav").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["predict", str(trained), "-"]) == 0
    assert capsys.readouterr().out.startswith("-\thigh")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_any_format_and_rate_gets_the_same_answer(trained: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, tone("low", 1.0, 5, rate=32000), 32000)
    answer = auricle.load(trained)(path)
    assert answer.label == "low" and answer.probability > 0.5 and answer.error is None


def test_python_answers_for_files_and_arrays_alike(trained: Path, corpus: Path) -> None:
    classifier = auricle.load(trained)
    path = corpus / "high" / "device0_000.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    assert classifier(path).choices == classifier.classify(samples, rate).choices
    assert auricle.load(trained / "model")(path).choices == classifier(path).choices


def test_an_answer_does_not_depend_on_the_other_files(trained: Path, corpus: Path) -> None:
    from auricle.audio.recordings import recordings

    classifier = auricle.load(trained)
    together = list(classifier.predict(recordings([str(corpus)])))
    for answer in together[::5]:
        alone = classifier(answer.name)
        for ours, theirs in zip(answer.choices, alone.choices, strict=True):
            assert ours.label == theirs.label and abs(ours.probability - theirs.probability) < 1e-4


def test_evaluate_measures_the_run_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    report = json.loads((trained / "report.json").read_text())
    assert again["metrics"] == report["metrics"]
    assert main(["evaluate", str(trained)]) == 0
    assert "balanced accuracy" in capsys.readouterr().out


def one_class(folder: Path) -> None:
    (folder / "only").mkdir(parents=True)
    soundfile.write(folder / "only" / "a.wav", tone("high", 1, 0), RATE)


def no_labels(folder: Path) -> None:
    folder.mkdir()
    soundfile.write(folder / "a.wav", tone("low", 1, 0), RATE)
    (folder / "table.csv").write_text("path,length\na.wav,3\n")


def single_clip(folder: Path) -> None:
    one_class(folder)
    (folder / "other").mkdir()
    soundfile.write(folder / "other" / "b.wav", tone("low", 1, 0), RATE)


def escaping_zip(folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / "corpus.zip", "w") as file:
        file.writestr("../outside/a.wav", b"RIFF")
        file.writestr("inside/b.wav", b"RIFF")


CASES: list[tuple[Callable[[Path], object], str, tuple[str, ...], tuple[str, ...]]] = [
    (lambda folder: None, "", (), ("There is no file or folder at",)),
    (lambda folder: folder.mkdir(), "", (), ("is empty", "no ")),
    (one_class, "", (), ("'only'",)),
    (no_labels, "table.csv", (), ("label", "length")),
    (single_clip, "", (), ("two usable clips or more", "'only', 'other'")),
    (escaping_zip, "corpus.zip", (), ("../outside/a.wav",)),
    (write_corpus, "", ("--set", "train.epochz=3"), ("'epochz'", "Did you mean 'epochs'")),
    (write_corpus, "", ("--set", "train.epochs=many"), ("'train.epochs'", "'many'")),
    (write_corpus, "", ("--set", "trane.epochs=3"), ("'trane'", "Did you mean 'train'")),
    (write_corpus, "", ("--set", "epochs"), ("section.key=value",)),
    (write_corpus, "", ("--set", "model.family=cnnn"), ("'cnnn'", "Did you mean 'cnn'")),
    (write_corpus, "", ("--set", "model.sise=tutorial"), ("'sise'", "Did you mean 'size'")),
    (write_corpus, "", ("--set", "data.test_size=2"), ("'data.test_size'", "less than 0.9")),
    (write_corpus, "", ("--recipe", "sond"), ("'sond'", "Did you mean 'sound'")),
    (write_corpus, "", ("--recipe", "none.yaml"), ("No recipe file",)),
    (write_corpus, "", ("--reader", "foldr"), ("'foldr'", "Did you mean 'folder'")),
    (write_corpus, "", ("--set", "data.split=halves"), ("'halves'",)),
    (write_corpus, "", ("--set", "data.label=colour"), ("'colour'",)),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_bad_input_gets_one_clear_message_and_leaves_nothing(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, inner, options, told = CASES[number]
    make(tmp_path / "data")
    out = tmp_path / "run"
    said = usage_error(capsys, "train", str(tmp_path / "data" / inner), *options, "--out", str(out))
    assert any(word in said for word in told) if number == 1 else all(word in said for word in told), said
    assert not out.exists()


def test_some_missing_labels_are_left_out_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path / "sounds")
    rows = ["path,label"]
    for place, path in enumerate(sorted((tmp_path / "sounds").rglob("*.wav"))):
        rows.append(f"{path.relative_to(tmp_path)},{'' if place in (2, 5) else path.parent.name}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    assert main(["inspect", str(tmp_path / "table.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == 22 and len(found["excluded"]) == 2
    assert all("no label" in row["reason"] for row in found["excluded"])


def test_a_declared_two_gigabytes_in_a_kilobyte_is_a_finding(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = 2_000_000_000
    head = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    (corpus / "low" / "device0_800.wav").write_bytes(
        head + b"data" + struct.pack("<I", size) + bytes(range(1, 241)) * 4
    )
    assert main(["inspect", str(corpus), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["kind"]) for row in found["quarantined"]] == [("low/device0_800.wav", "truncated")]


def test_a_folder_of_another_kind_is_no_run(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run folder at" in usage_error(capsys, "predict", str(tmp_path / "nothing"), "a.wav")
    assert "neither a run folder" in usage_error(capsys, "predict", str(corpus), "a.wav")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    assert "'bert'" in usage_error(capsys, "predict", str(tmp_path / "bert"), "a.wav")


def test_every_option_is_explained_and_every_command_has_an_example() -> None:
    commands = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
    assert set(commands) >= {"inspect", "train", "evaluate", "predict", "serve", "export", "push", "listen", "demo"}
    for name, command in commands.items():
        example = (command.epilog or "").removeprefix("example:").split()
        assert command.epilog.startswith("example:") and f"auricle {name}" in " ".join(example), name
        assert all(action.help for action in command._actions), name
    for name in ("predict", "serve", "listen-live"):
        assert {"--precision", "--runtime", "--no-unknown", "--device"} <= set(commands[name]._option_string_actions)


def test_a_message_names_the_option_that_was_typed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--learning-rate is 0" in usage_error(capsys, "train", str(corpus), "--learning-rate", "0")
    assert "--folds is 1" in usage_error(capsys, "inspect", str(corpus), "--folds", "1")
    assert "'train.epochs' is 0" in usage_error(capsys, "train", str(corpus), "--set", "train.epochs=0")


def test_wrong_usage_is_said_in_one_line(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert "--epoch-count" in usage_error(capsys, "train", "somewhere", "--epoch-count", "3")
    assert "invalid choice" in usage_error(capsys, "trian", "somewhere")
    assert "--out RUN" in usage_error(capsys, "train", "somewhere", "--resume")
    assert ".csv or .jsonl" in usage_error(capsys, "predict", str(trained), "a.wav", "--out", "answers.xlsx")
    assert "folder that exists" in usage_error(capsys, "predict", str(trained), "a.wav", "--out", "/nowhere/at/all.csv")


def test_a_tracker_that_is_not_installed_is_named_before_any_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = usage_error(capsys, "train", str(corpus), "--set", "train.report_to=wandb", "--out", str(tmp_path / "run"))
    assert "pip install 'auricle[track]'" in said and not (tmp_path / "run").exists()


def test_errors_are_json_too_when_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "/no/such/place", "--json"]) == 2
    assert "no file or folder" in json.loads(capsys.readouterr().out)["error"]


def test_long_recordings_are_answered_in_bounded_memory(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(tone("low", 10, 0), 12), RATE)
    answer = auricle.load(trained)(path)
    assert answer.label == "low" and answer.seconds == pytest.approx(120)


def test_a_misspelt_option_and_a_stray_argument_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No option named '--epocs'. Did you mean '--epochs'?" in usage_error(capsys, "train", "x", "--epocs", "3")
    assert "'recordings', which is one argument too many" in usage_error(capsys, "train", "my", "recordings")
