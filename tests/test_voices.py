"""Voices from the command line and from Python: enrol, identify, verify, list, remove, evaluate trials."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import auricle
from auricle import recipes
from auricle.audio.recordings import Recording, recordings
from auricle.cli.main import main
from auricle.errors import DataError, RunError, UsageError
from auricle.evaluation.intervals import METHOD
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from auricle.voices.cohort import cohort_from_data
from auricle.voices.encoder import load_encoder
from auricle.voices.identify import load_matcher
from tests.conftest import usage_error

RATE = 8000
TRAINED, NEW, IMPOSTORS = range(12), range(120, 123), range(200, 206)


def speech(speaker: int, number: int, seconds: float = 0.8) -> np.ndarray:
    """Something like a voice: a wandering pitch and two resonances of the speaker's own, different each time."""
    own, this = np.random.default_rng(speaker), np.random.default_rng((speaker, number))
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = own.uniform(90, 260) * (1 + 0.05 * np.sin(2 * np.pi * this.uniform(1, 3) * time + this.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    peaks, widths = own.uniform([300, 1000], [900, 3000]), own.uniform(80, 300, 2)
    wave = np.zeros(len(time))
    for harmonic in range(1, 15):
        at = harmonic * pitch.mean()
        wave += np.sin(harmonic * phase) * (0.05 + np.exp(-(((at - peaks) / widths) ** 2)).sum()) / harmonic**0.5
    noise = this.normal(0, 1, len(time))
    return 0.1 * this.uniform(0.7, 1.3) * wave + own.uniform(0.001, 0.01) * noise


def write(folder: Path, speakers: range, count: int) -> Path:
    """A folder per speaker with `count` recordings."""
    for speaker in speakers:
        (folder / f"s{speaker}").mkdir(parents=True)
        for number in range(count):
            soundfile.write(folder / f"s{speaker}" / f"{number}.wav", speech(speaker, number), RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the baseline on twelve speakers, recordings of three new ones, and of impostors."""
    folder = tmp_path_factory.mktemp("voices")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(folder / "cache"))
        run(write(folder / "corpus", TRAINED, 8), recipes.load("baseline"), folder / "run", ProgressReporter())
    write(folder / "new", NEW, 6)
    write(folder / "impostors", IMPOSTORS, 4)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    """A store with the first three recordings of each new speaker."""
    path = folder / "voices.db"
    for speaker in NEW:
        files = [str(folder / "new" / f"s{speaker}" / f"{number}.wav") for number in range(3)]
        first = speaker == NEW[0]
        run, share = (folder / "run", 0.05) if first else (None, None)
        done = auricle.enrol(path, f"s{speaker}", files, run=run, max_false_accept_rate=share)
        assert done.enrolled is not None and done.enrolled.clips == 3 and not done.failed and not done.notes
        assert done.cohort_clips >= 60 and done.max_false_accept_rate == 0.05
    return path


def files(folder: Path, speaker: int) -> list[str]:
    return [str(folder / "new" / f"s{speaker}" / f"{number}.wav") for number in range(3, 6)]


def test_enrolled_speakers_are_identified_and_impostors_are_unknown(folder: Path, store: Path) -> None:
    for speaker in NEW:
        assert [row.voice for row in auricle.identify(store, files(folder, speaker))] == [f"s{speaker}"] * 3
    impostors = list(auricle.identify(store, [str(folder / "impostors")]))
    assert len(impostors) == 24 and sum(row.voice is not None for row in impostors) <= 3
    assert all(len(row.matches) == 3 and row.accepted is not None for row in impostors)


def test_identify_prints_names_scores_and_unknown(
    folder: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = files(folder, NEW[1])[1], str(folder / "impostors" / "s200" / "0.wav")
    assert main(["identify", str(store), mine, other]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{mine}\ts121\ts121 ") and "threshold" in first
    assert second.startswith(f"{other}\tunknown\t")
    assert main(["identify", str(store), mine, str(folder / "no.wav"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["normalised"] and found["max_false_accept_rate"] == 0.05 and found["threshold"] > 0
    good, bad = found["files"]
    assert good["voice"] == good["scores"][0]["voice"] == "s121" and good["scores"][0]["score"] > found["threshold"]
    assert bad["voice"] is None and bad["scores"] == [] and bad["error"].startswith("unreadable")


def test_verify_ends_with_0_only_where_all_are_accepted(
    folder: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(store), "s120", *files(folder, 120)]) == 0
    assert capsys.readouterr().out.count("\taccepted\t") == 3
    assert main(["verify", str(store), "s120", *files(folder, 120), *files(folder, 121)]) == 1
    out = capsys.readouterr().out
    assert out.count("\taccepted\t") == 3 and out.count("\trejected\t") == 3
    assert main(["verify", str(store), "s120", str(folder / "no.wav"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0]["error"] and found["files"][0]["accepted"] is None
    assert "No voice named 's12O'. Did you mean" in usage_error(
        capsys, "verify", str(store), "s12O", files(folder, 120)[0]
    )


def test_the_same_audio_is_reported_and_stored_once_in_any_lossless_file(
    folder: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copy(store, tmp_path / "voices.db")
    samples, rate = soundfile.read(folder / "new" / "s120" / "0.wav", dtype="int16")
    soundfile.write(tmp_path / "copy.flac", samples, rate)
    (tmp_path / "bad.wav").write_bytes(b"garbage")
    arguments = [str(tmp_path / "copy.flac"), str(tmp_path / "bad.wav"), files(folder, 120)[0]]
    assert main(["enrol", str(mine), "s120", *arguments, "--json"]) == 1
    done = json.loads(capsys.readouterr().out)
    assert (done["added"], done["duplicates"], done["clips"]) == ([arguments[2]], [arguments[0]], 4)
    assert [row["file"] for row in done["failed"]] == [arguments[1]]
    assert main(["enrol", str(mine), "s120", *arguments]) == 1
    out = capsys.readouterr().out
    assert "0 added, 4 clips in all" in out and out.count("already has this audio") == 2 and "FAILED" in out


def test_nothing_is_written_where_nothing_was_decoded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"garbage")
    arguments = ["enrol", str(tmp_path / "voices.db"), "Anna", str(tmp_path / "bad.wav"), "--run", str(folder / "run")]
    assert main(arguments) == 1
    assert "Nothing was enrolled" in capsys.readouterr().out and not (tmp_path / "voices.db").exists()


def test_voices_are_listed_and_removed(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = shutil.copy(store, tmp_path / "voices.db")
    assert main(["voices", str(mine), "--remove", "s121", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["voice"] for row in found["voices"]] == ["s120", "s122"] and found["cohort"]["clips"] >= 60
    assert main(["voices", str(mine)]) == 0
    assert "s120" in capsys.readouterr().out
    assert "No voice named 's121'" in usage_error(capsys, "voices", str(mine), "--remove", "s121")


def test_a_store_needs_its_own_model(
    folder: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--run RUN" in usage_error(capsys, "enrol", str(tmp_path / "new.db"), "Anna", files(folder, 120)[0])
    other = shutil.copytree(folder / "run" / "model", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "initializer_range": 0.5}))
    for command in (["enrol", str(store), "Anna"], ["identify", str(store)], ["verify", str(store), "s120"]):
        assert "another model" in usage_error(capsys, *command, files(folder, 120)[0], "--run", str(other))


def test_a_run_that_moved_is_named_again(
    folder: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copy(store, tmp_path / "voices.db")
    shutil.copytree(folder / "run" / "model", tmp_path / "first")
    auricle.enrol(mine, "Anna", files(folder, 122), run=tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    assert "is not there" in usage_error(capsys, "identify", str(mine), files(folder, 120)[0])
    assert main(["identify", str(mine), files(folder, 120)[0], "--run", str(tmp_path / "second")]) == 0
    auricle.enrol(mine, "Anna", files(folder, 122), run=tmp_path / "second")
    assert main(["identify", str(mine), files(folder, 120)[0]]) == 0


def test_without_a_cohort_there_are_scores_and_no_threshold(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mine = shutil.copytree(folder / "run" / "model", tmp_path / "model"), str(tmp_path / "voices.db")
    assert main(["enrol", mine, "Anna", *files(folder, 120), "--run", str(model)]) == 0
    assert "no threshold" in capsys.readouterr().out
    assert main(["identify", mine, files(folder, 120)[0]]) == 0
    out = capsys.readouterr().out
    assert "nothing is accepted" in out and "Anna 0." in out
    assert main(["verify", mine, "Anna", files(folder, 120)[0], "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["threshold"] is None and not found["normalised"] and found["files"][0]["accepted"] is None
    assert 0.5 < found["files"][0]["scores"][0]["score"] <= 1
    cohort = ["--cohort", str(folder / "corpus"), "--max-false-accept-rate", "0.05"]
    assert main(["enrol", mine, "Anna", files(folder, 120)[1], *cohort, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["cohort"]["clips"] == 96 and done["max_false_accept_rate"] == 0.05 and done["clips"] == 3
    assert main(["verify", mine, "Anna", files(folder, 120)[0]]) == 0


def test_a_speaker_that_the_model_was_trained_on_can_be_enrolled(folder: Path, tmp_path: Path) -> None:
    """Its own training clips are in the run's cohort, and count as no impostors: by name, and by their audio."""
    for name in ("s3", "Someone"):
        mine = tmp_path / f"{name}.db"
        clips = [str(folder / "corpus" / "s3" / f"{number}.wav") for number in range(8)]
        auricle.enrol(mine, name, clips[:4], run=folder / "run")
        assert all(row.accepted for row in auricle.verify(mine, name, clips[4:]))
        assert not any(row.accepted for row in auricle.verify(mine, name, [str(folder / "corpus" / "s4")]))
        (note,) = load_matcher(mine, name).notes
        assert "55 impostor clips cannot measure a false-accept rate of 0.01" in note


@pytest.mark.parametrize("share", ["0", "1", "-0.5"])
def test_a_false_accept_rate_lies_between_0_and_1(
    share: str, folder: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "between 0 and 1" in usage_error(
        capsys, "enrol", str(store), "A", files(folder, 120)[0], f"--max-false-accept-rate={share}"
    )


def test_a_cohort_of_too_few_people_is_refused(folder: Path) -> None:
    encoder = load_encoder(folder / "run")
    with pytest.raises(UsageError, match="10 or more"):
        cohort_from_data(encoder, str(folder / "new" / "s120"))
    found = cohort_from_data(encoder, str(folder / "new")).cohort
    assert found is not None and len(found) == 18
    assert [Path(speaker).name for speaker in found.speakers[::6]] == ["s120", "s121", "s122"]


def test_embeddings_have_length_1_and_do_not_depend_on_the_batch(folder: Path) -> None:
    classifier = auricle.load(folder / "run", "float32")
    arguments = [*recordings([str(folder / "new")]), Recording("no.wav", "no.wav")]
    found = list(classifier.embeddings(arguments))
    assert [row.name for row in found] == [row.name for row in arguments]
    assert found[-1].error is not None and found[-1].vector.shape == (0,)
    for row, recording in zip(found[:-1:5], arguments[:-1:5], strict=True):
        (alone,) = classifier.embeddings([recording])
        assert np.linalg.norm(row.vector) == pytest.approx(1, abs=1e-6) and row.vector.dtype == np.float32
        np.testing.assert_allclose(alone.vector, row.vector, atol=1e-4)
        assert alone.content == row.content and row.seconds == pytest.approx(0.8)


def trial_list(folder: Path, name: str = "list.txt") -> Path:
    """All pairs of the recordings in folders of speakers, in VoxCeleb's form."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))
    pairs = [(left, right) for index, left in enumerate(names) for right in names[index + 1 :]]
    lines = [f"{int(left.split('/')[0] == right.split('/')[0])} {left} {right}" for left, right in pairs]
    (folder / name).write_text("\n".join(lines))
    return folder / name


def test_trials_are_evaluated_with_and_without_a_cohort(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial_file = trial_list(folder / "impostors")
    arguments = ["trials", str(folder / "run"), str(trial_file), "--cohort", str(folder / "corpus")]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["trials"], found["targets"], found["files"]) == (276, 36, 24)
    basis = {"unit": "speaker", "units": 6, "resamples": 1000, "level": 0.95, "method": METHOD}
    assert found["interval"] == basis
    assert not found["failed"]
    for kind in ("cosine", "normalised"):
        figures = found["metrics"][kind]
        assert set(figures) == {"eer", "min_dcf_0.01", "min_dcf_0.05"}
        assert all(0 <= row["low"] <= row["value"] <= row["high"] for row in figures.values())
        assert figures["eer"]["value"] < 0.2
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "36 target and 240 non-target trials; intervals over 6 speakers" in out and "Normalised by 96 clips" in out


def test_a_cohort_excludes_the_evaluated_speakers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial_file = trial_list(folder / "impostors")
    everyone = shutil.copytree(folder / "corpus", tmp_path / "everyone")
    shutil.copytree(folder / "impostors", everyone, dirs_exist_ok=True)
    assert main(["trials", str(folder / "run"), str(trial_file), "--cohort", str(everyone), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any("24 clips of the cohort are of the evaluated speakers" in note for note in found["notes"])
    output = usage_error(capsys, "trials", str(folder / "run"), str(trial_file), "--cohort", str(folder / "impostors"))
    assert "of the evaluated speakers" in output


def test_trials_with_files_that_cannot_be_decoded_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial_file = tmp_path / "list.txt"
    trial_file.write_text((trial_list(folder / "impostors").read_text()) + "\n1 s200/0.wav s200/gone.wav")
    assert main(["trials", str(folder / "run"), str(trial_file), "--root", str(folder / "impostors"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["excluded"] == 1 and found["trials"] == 276
    assert [row["file"] for row in found["failed"]] == ["s200/gone.wav"]
    assert "--root" in usage_error(capsys, "trials", str(folder / "run"), str(trial_file))
    assert "no folder" in usage_error(capsys, "trials", str(folder / "run"), str(trial_file), "--root", str(trial_file))


def test_python_raises_auricles_own_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no store at"):
        auricle.identify(tmp_path / "none.db", ["a.wav"])
    with pytest.raises(RunError, match="no run folder"):
        auricle.enrol(tmp_path / "none.db", "Anna", ["a.wav"], run=tmp_path / "none")
    with auricle.VoiceStore.create(tmp_path / "voices.db", load_encoder(folder / "run").id) as store:
        assert store.read().voices == ()
    with pytest.raises(DataError, match="holds no voices"):
        auricle.identify(tmp_path / "voices.db", ["a.wav"])
