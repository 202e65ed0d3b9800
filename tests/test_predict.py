"""`auricle predict` on recordings of any length and number: views, formats, and jobs that are killed and resumed."""

import csv
import io
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auricle.audio import recordings
from auricle.cli.main import main
from auricle.inference import writer
from auricle.preparation.windows import WindowSpec
from tests.conftest import RATE, tone, write_corpus
from tests.processes import run_python

# Seconds of the scene: low from 2 to 4, high from 6 to 8, low from 8 to 9; silence elsewhere.
SCENE = (("low", 2.0, 4.0), ("high", 6.0, 8.0), ("low", 8.0, 9.0))
EVENTS = ["--events", "--windows", "0.5", "--hop", "0.25"]


def scene(path: Path, times: int = 1) -> Path:
    """Ten seconds with three known events, repeated."""
    path.parent.mkdir(exist_ok=True)
    sound = np.zeros(10 * RATE)
    for seed, (label, start, end) in enumerate(SCENE):
        sound[round(start * RATE) : round(end * RATE)] = steady(label, end - start, seed)
    soundfile.write(path, np.tile(sound, times), RATE, subtype="PCM_16", format="WAV")
    return path


def steady(label: str, seconds: float, seed: int) -> np.ndarray:
    """Sound of a class that does not die away."""
    return np.concatenate([tone(label, 0.25, seed) for _ in range(round(seconds * 4))])


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


@pytest.fixture
def short_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings of more than three seconds are streamed, in batches of two seconds."""
    monkeypatch.setattr(recordings, "WHOLE_SECONDS", 3.0)
    batch = WindowSpec.batch
    monkeypatch.setattr(WindowSpec, "batch", lambda self, seconds=2.0: batch(self, min(seconds, 2.0)))


@pytest.mark.parametrize("streamed", [False, True])
def test_events_are_found_where_they_are(
    streamed: bool, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if streamed:
        request.getfixturevalue("short_is_long")
    assert main(["predict", str(trained), str(scene(tmp_path / "scene.wav")), *EVENTS, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in found] == [label for label, _, _ in SCENE]
    for row, (_, start, end) in zip(found, SCENE, strict=True):
        assert abs(row["start"] - start) <= 0.5 and abs(row["end"] - end) <= 0.5 and 0.5 < row["probability"] <= 1


def test_a_streamed_recording_has_the_windows_of_a_whole_one(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scene(tmp_path / "scene.wav", 2)
    assert main(["predict", str(trained), str(path), "--windows", "1", "--out", str(tmp_path / "whole.csv")]) == 0
    monkeypatch.setattr(recordings, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(recordings, "WHOLE_SECONDS", 3.0)
    assert main(["predict", str(trained), str(path), "--windows", "1", "--out", str(tmp_path / "long.csv")]) == 0
    whole, long = (rows((tmp_path / name).read_text()) for name in ("whole.csv", "long.csv"))
    assert [float(row["start"]) for row in whole] == [0.5 * number for number in range(39)]
    assert whole[-1]["end"] == "20.000" and len(whole) == len(long)
    for one, other in zip(whole, long, strict=True):
        assert one["label"] == other["label"]
        assert abs(float(one["probability_1"]) - float(other["probability_1"])) < 1e-4


def test_a_file_too_large_to_be_read_at_once_but_short_gets_the_same_answer(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", steady("high", 2.0, 0), RATE, subtype="PCM_16")
    assert main(["predict", str(trained), str(tmp_path / "a.wav"), "--json"]) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(recordings, "WHOLE_BYTES", 1000)
    assert main(["predict", str(trained), str(tmp_path / "a.wav"), "--json"]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.usefixtures("short_is_long")
def test_a_long_recording_is_answered_by_the_mean_of_its_windows(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "long.wav", steady("high", 20.3, 0), RATE, subtype="PCM_16")
    assert main(["predict", str(trained), str(tmp_path / "long.wav"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["label"] == "high" and row["seconds"] == 20.25 and row["error"] is None
    monkeypatch.setattr(recordings, "WHOLE_BYTES", 1000)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "long.wav").read_bytes())))
    assert main(["predict", str(trained), "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**row, "file": "-"}


def test_silence_and_faults_of_a_long_recording_are_told(
    short_is_long: None, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "still.wav", np.zeros(8 * RATE), RATE, subtype="PCM_16")
    content = (scene(tmp_path / "scene.wav")).read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    files = [str(tmp_path / "still.wav"), str(tmp_path / "cut.wav")]
    assert main(["predict", str(trained), *files, "--json"]) == 0
    still, cut = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert still["warnings"][0].startswith("silent") and cut["warnings"][0].startswith("truncated")
    assert cut["seconds"] == pytest.approx(5.0, abs=0.01)


def test_audacity_and_webvtt_are_as_these_programs_read_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(scene(tmp_path / "scene.wav"))
    assert main(["predict", str(trained), path, *EVENTS, "--out", str(tmp_path / "labels.txt")]) == 0
    labels = (tmp_path / "labels.txt").read_text().splitlines()
    assert len(labels) == 3
    for line, (label, start, end) in zip(labels, SCENE, strict=True):
        begin, stop, told = line.split("\t")
        assert abs(float(begin) - start) <= 0.5 and abs(float(stop) - end) <= 0.5
        assert re.fullmatch(rf"{label} \d+ %", told)
    assert main(["predict", str(trained), path, *EVENTS, "--format", "vtt"]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert blocks[0] == "WEBVTT" and len(blocks) == 4
    for block in blocks[1:]:
        time_line, _ = block.split("\n")
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}", time_line)


def test_several_recordings_get_a_file_each_in_a_folder_with_safe_names(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one/a b.wav", "two/a b.wav", "two/A B.wav", "two/!.wav", "bad/x.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        scene(tmp_path / "in" / name)
    (tmp_path / "in" / "bad" / "x.wav").write_bytes(b"garbage")
    out = f"{tmp_path / 'out'}/"
    files = [str(tmp_path / "in" / name) for name in ("one", "two", "two/!.wav", "bad")]
    assert main(["predict", str(trained), *files, *EVENTS, "--format", "vtt", "--out", out]) == 1
    assert "x.wav" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["A_B-2.vtt", "_-2.vtt", "_.vtt", "a_b-3.vtt", "a_b.vtt"]
    assert "recordings" in refused(capsys, "predict", str(trained), *files, *EVENTS, "--format", "vtt")


def test_a_name_that_is_not_utf8_is_written_with_its_bytes(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    scene(tmp_path / "scene.wav").rename(tmp_path / "in" / os.fsdecode(b"Caf\xe9.wav"))
    assert main(["predict", str(trained), str(tmp_path / "in"), "--out", str(tmp_path / "rows.csv")]) == 0
    assert "Caf\\xe9.wav" in (tmp_path / "rows.csv").read_text(encoding="utf-8")


def test_a_failed_file_stands_beside_the_events_of_others(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"garbage")
    files = [str(tmp_path / "bad.wav"), str(scene(tmp_path / "scene.wav")), str(tmp_path / "none.wav")]
    out = tmp_path / "events.csv"
    assert main(["predict", str(trained), *files, *EVENTS, "--out", str(out)]) == 1
    found = rows(out.read_text())
    assert [row["label"] for row in found] == ["", "low", "high", "low", ""]
    assert found[0]["error"].startswith("unreadable") and found[-1]["error"].startswith("unreadable")


def test_what_cannot_be_is_refused_in_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*more: str) -> str:
        return refused(capsys, "predict", str(trained), "a.wav", *more)

    assert "--events or --windows" in said("--format", "vtt")
    assert "one of events" in said("--format", "submission", "--events")
    assert "no file" in said("--resume")
    assert "up to that" in said("--events", "--windows", "1", "--hop", "2")
    assert "offset ≤ onset" in said("--events", "--onset", "0.3", "--offset", "0.4")
    assert "folder" in said("--events", "--format", "csv", "--out", f"{tmp_path}/")
    with pytest.raises(SystemExit):
        main(["predict", str(trained), "--windows", "a.wav"])
    assert "'a.wav' is no number of seconds" in capsys.readouterr().err


KILLED = """
import os, signal
from auricle.audio import recordings
from auricle.cli.main import main
from auricle.inference import writer
from auricle.preparation.windows import WindowSpec
recordings.WHOLE_SECONDS, recordings.CHUNK_FILES, writer.JOURNAL_SECONDS = 3.0, 3, 0.0
batch = WindowSpec.batch
WindowSpec.batch = lambda self, seconds=2.0: batch(self, min(seconds, 2.0))
noted, left = writer.Output.checkpoint, [{notes}]
def checkpoint(self, state, *, now=False):
    noted(self, state, now=now)
    self.write("what was written after the last note\\n")
    left[0] -= 1
    if not left[0]:
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    self._file.seek(-37, 1)
    self._file.truncate()
writer.Output.checkpoint = checkpoint
main({arguments})
"""


def killed(notes: int, *arguments: str) -> None:
    """Run a command that is killed, behind so many notes and a line that no note vouches for."""
    assert run_python(KILLED.format(notes=notes, arguments=list(arguments))) == -signal.SIGKILL


@pytest.mark.usefixtures("short_is_long")
def test_a_job_killed_in_a_long_file_goes_on_to_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    path = scene(tmp_path / "long.wav", 6)
    command = ["predict", str(trained), str(path), *EVENTS, "--out"]
    assert main([*command, str(tmp_path / "expected.csv")]) == 0
    out = tmp_path / "out.csv"
    killed(30, *command, str(out))
    kept = json.loads((tmp_path / ".out.csv.journal").read_text())
    assert not out.exists() and kept["state"]["current"]["windows"] > 100
    assert (tmp_path / ".out.csv.partial").stat().st_size > kept["offset"] > 200
    assert main([*command, str(out), "--resume"]) == 0
    assert out.read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["expected.csv", "long.wav", "out.csv"]


@pytest.mark.usefixtures("short_is_long")
def test_a_job_killed_in_a_tree_goes_on_and_refuses_another_one(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "CHUNK_FILES", 3)
    folder = write_corpus(tmp_path / "tree", per_class=20, seconds=0.2)
    (folder / "low" / "device0_bad.wav").write_bytes(b"garbage")
    scene(folder / "high" / "device9_long.wav")
    command = ["predict", str(trained), str(folder), "--out"]
    assert main([*command, str(tmp_path / "expected.jsonl")]) == 1
    out = tmp_path / "out.jsonl"
    killed(18, *command, str(out))
    again = [*command, str(out), "--resume"]
    assert "another job" in refused(capsys, *again, "--top", "1")
    assert "another job" in refused(capsys, *again[:3], str(folder / "low"), *again[3:])
    first = min((folder / "high").iterdir())
    known = first.stat()
    os.utime(first, ns=(known.st_atime_ns, known.st_mtime_ns + 1))
    assert "were changed" in refused(capsys, *again)
    os.utime(first, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert main(again) == 1
    assert out.read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize(
    ("more", "ending"),
    [(["--windows", "0.5"], "csv"), ([], "csv"), ([*EVENTS, "--format", "vtt"], "/"), ([*EVENTS], "txt")],
    ids=["windows", "answers", "folder", "audacity"],
)
def test_every_view_goes_on_to_the_same_bytes(
    more: list[str], ending: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "JOURNAL_SECONDS", 0.0)
    files = [str(scene(tmp_path / "long.wav", 3))]
    if ending != "txt":
        files = [str(scene(tmp_path / "a.wav", 1)), *files, str(scene(tmp_path / "long" / "a.wav", 1))]
    expected, out = (f"{tmp_path / name}{'.' * (ending != '/')}{ending}" for name in ("expected", "out"))
    assert main(["predict", str(trained), *files, *more, "--out", expected]) == 0
    noted, count = writer.Output.checkpoint, 0

    def stop(self: writer.Output, state: dict[str, object], *, now: bool = False) -> None:
        nonlocal count
        noted(self, state, now=now)
        count += 1
        if count == 15:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer.Output, "checkpoint", stop)
        assert main(["predict", str(trained), *files, *more, "--out", out]) == 130
    assert main(["predict", str(trained), *files, *more, "--out", out, "--resume"]) == 0
    if ending == "/":
        for path in Path(expected).iterdir():
            assert (Path(out) / path.name).read_bytes() == path.read_bytes()
        assert len(list(Path(out).iterdir())) == len(list(Path(expected).iterdir())) == 3
    else:
        assert Path(out).read_bytes() == Path(expected).read_bytes()


def test_an_interrupted_job_says_how_to_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(recordings, "CHUNK_FILES", 2)
    folder = write_corpus(tmp_path / "in")
    command = ["predict", str(trained), str(folder), "--out", str(tmp_path / "out.csv")]
    write, count = writer.Output.write, 0

    def stop(self: writer.Output, text: str) -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt
        write(self, text)

    monkeypatch.setattr(writer.Output, "write", stop)
    assert main(command) == 130
    assert "Resume with the same command" in capsys.readouterr().err and not (tmp_path / "out.csv").exists()
    assert main([*command, "--resume"]) == 0
    assert "after 8 recordings" in capsys.readouterr().err
    assert [row["label"] for row in rows((tmp_path / "out.csv").read_text())] == ["high"] * 8 + ["low"] * 8 + [
        "noise"
    ] * 8


def test_a_tree_is_answered_before_all_of_it_is_read(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpus(tmp_path / "in", per_class=60, seconds=0.05)
    monkeypatch.setattr(recordings, "CHUNK_FILES", 5)
    seen: list[int] = []
    look, opened = recordings._read_ahead, [0]

    def counted(*arguments: object) -> object:
        opened[0] += 1
        return look(*arguments)  # type: ignore[arg-type]

    def noted(self: writer.Output, state: object, *, now: bool = False) -> None:
        seen.append(opened[0])

    monkeypatch.setattr(recordings, "_read_ahead", counted)
    monkeypatch.setattr(writer.Output, "checkpoint", noted)
    assert main(["predict", str(trained), str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    assert seen[1] < 60 and seen[-1] == 180
