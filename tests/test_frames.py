"""Precomputed features in place of sound: opened without trust, kept exactly, and used by every stage."""

import csv
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import auricle
from auricle.audio import frames
from auricle.audio import store as stores
from auricle.audio.inspect import DECLARED_FRAMES, open_clip
from auricle.audio.recordings import DecodedClip, Recording, decode_recording, recordings
from auricle.audio.settings import Settings
from auricle.cli.main import main
from auricle.corpus.clip import Clip
from auricle.corpus.read import read_index
from auricle.errors import UsageError
from auricle.evaluation import scoring
from auricle.models.load import build_model, save_model
from auricle.preparation.batches import build
from auricle.preparation.prepare import prepare, read
from auricle.preparation.windows import from_arrays
from auricle.recipe import parse
from auricle.recipes import load
from auricle.training.grouping import inspect
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import tone
from tests.speakers_corpus import make

BANDS = 40
SETTINGS = Settings(100, 1, 0.05, 60.0, BANDS)
GOOD = torch.linspace(-9, 2, 50 * BANDS).reshape(50, BANDS)


def saved(content: object, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def opened(content: bytes, meta: dict[str, str] | None = None, settings: Settings = SETTINGS) -> DecodedClip:
    declared = (meta or {}).get(DECLARED_FRAMES)
    return decode_recording(Recording("uttr.pt", "uttr.pt", content=content, declared_frames=declared), settings)


def kinds(found: DecodedClip) -> list[str]:
    return [finding.kind for finding in found.findings]


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speakers") / "corpus"
    make(folder, speakers=4, utterances=9, seconds=(1.0, 2.0))
    return folder


@pytest.fixture(scope="module")
def trained(speakers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    os.environ["AURICLE_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    assert main(["train", str(speakers), "--recipe", "baseline", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_floats_of_any_width_and_both_file_formats_are_opened_unscaled(kind: torch.dtype, legacy: bool) -> None:
    found = opened(saved(GOOD.to(kind), legacy), {"mel_len": "50"})
    assert found.findings == () and found.audio is not None
    assert found.audio.samples.dtype == np.float32 and found.audio.samples.flags.c_contiguous
    assert (GOOD.to(kind).float().numpy() == found.audio.samples.T).all()
    assert (found.audio.sample_rate, found.audio.seconds, found.audio.container) == (100, 0.5, "frames")


def test_a_part_of_a_larger_tensor_is_opened_as_what_it_is() -> None:
    found = opened(saved(torch.cat([GOOD, GOOD + 1])[50:].requires_grad_()))
    assert found.audio is not None and np.array_equal(found.audio.samples.T, (GOOD + 1).numpy())


BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "no bytes": (lambda: b"", "empty", "no bytes"),
    "no frames": (lambda: saved(GOOD[:0]), "empty", "no frames"),
    "text": (lambda: b"not a tensor at all", "unreadable", "damaged, or contains objects"),
    "zeros": (lambda: bytes(5000), "unreadable", ""),
    "a cut file": (lambda: saved(GOOD)[:3000], "unreadable", "damaged"),
    "sound": (lambda: b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40), "unreadable", "it is audio (wav)"),
    "a list": (lambda: saved([GOOD]), "unreadable", "it contains a list"),
    "a state": (lambda: saved({"frames": GOOD}), "unreadable", "it contains a dict"),
    "integers": (lambda: saved(GOOD.long()), "feature_mismatch", "its dtype is int64"),
    "complex": (lambda: saved(GOOD.to(torch.complex64)), "feature_mismatch", "complex64"),
    "sparse": (lambda: saved(GOOD.to_sparse()), "feature_mismatch", "sparse"),
    "another width": (lambda: saved(GOOD[:, :39]), "feature_mismatch", "(50, 39), and (frames, 40)"),
    "bands first": (lambda: saved(GOOD.T), "feature_mismatch", "(40, 50)"),
    "one dimension": (lambda: saved(GOOD[0]), "feature_mismatch", "(40,)"),
    "a repeated number": (lambda: saved(torch.zeros(1, 1).expand(5000, BANDS)), "feature_mismatch", "larger than its"),
    "not finite": (lambda: saved(GOOD / torch.zeros(50, 1)), "nan", "not finite"),
    "too large for float32": (lambda: saved(GOOD.double() * 1e300), "nan", "not finite"),
    "constant": (lambda: saved(GOOD * 0 - 20), "constant", "every value is -20"),
    "too short": (lambda: saved(GOOD[:4]), "short", "0.040 s"),
    "too long": (lambda: saved(GOOD.repeat(121, 1)), "long", "6050 frames"),
    "far too long": (lambda: saved(torch.zeros(80_000, BANDS)), "long", "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_kind_of_bad_frames_is_a_finding(name: str) -> None:
    make_content, kind, said = BAD[name]
    found = opened(make_content())
    assert kinds(found) == [kind] and said in found.findings[0].detail


def test_another_length_than_the_table_declares_is_a_finding() -> None:
    found = opened(saved(GOOD), {"mel_len": "49"})
    assert kinds(found) == ["feature_mismatch"] and found.findings[0].detail.endswith("declares 49")
    assert not frames.check(found.audio, declared=None, min_seconds=0) if found.audio else False


class Malicious:
    """What a pickle may do to whoever opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_executed(legacy: bool, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for content in (
        saved(Malicious(harm), legacy),
        saved({"x": Malicious(harm)}, legacy),
        pickle.dumps(Malicious(harm)),
    ):
        found = opened(content)
        assert kinds(found) == ["unreadable"] and "arbitrary code" in found.findings[0].detail
    assert not harm.exists()
    pickle.loads(pickle.dumps(Malicious(harm)))
    assert harm.exists()


def test_an_archive_that_swells_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(40 << 20))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    assert len(bomb.getvalue()) < 100_000
    assert kinds(opened(bomb.getvalue())) == ["long"]


def test_a_large_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    found = open_clip(Clip("large.pt", str(path), ""), SETTINGS)
    assert kinds(found) == ["unreadable"] and "is over" in found.findings[0].detail


def test_damaged_files_are_findings_wherever_the_damage_is() -> None:
    random = np.random.default_rng(0)
    for content in (saved(GOOD), saved(GOOD, legacy=True)):
        for _ in range(150):
            damaged = bytearray(content)
            places = random.integers(0, len(damaged) if random.integers(2) else 900, 1 + int(random.integers(6)))
            for place in places:
                damaged[place] = int(random.integers(256))
            found = opened(bytes(damaged[: None if random.integers(3) else int(random.integers(len(damaged)))]))
            assert (found.audio is not None) or kinds(found)[0] in ("unreadable", "feature_mismatch", "long", "empty")


def test_the_store_gives_back_the_very_frames(speakers: Path, tmp_path: Path) -> None:
    index = read_index(speakers)
    store = stores.prepare(index.clips, SETTINGS, cache=tmp_path)
    for place, clip in enumerate(index):
        expected = torch.load(clip.source, weights_only=True).numpy()
        found = store.samples(place)
        assert found.dtype == np.float32 and np.array_equal(found.T, expected) and not found.flags.writeable
        assert store.frames(place) == len(expected) == int(clip.meta["mel_len"])
        assert store.clip_info[place].seconds == len(expected) / 100


def test_frames_in_an_archive_are_those_of_the_folder(speakers: Path, trained: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", speakers.parent, "corpus"))
    index = read_index(packed)
    kept = stores.prepare(index.clips, SETTINGS, cache=tmp_path / "cache")
    plain = stores.prepare(read_index(speakers).clips, SETTINGS, cache=tmp_path / "cache")
    assert index.num_features == BANDS and len(kept) == len(plain) == 36
    assert all(np.array_equal(kept.samples(place), plain.samples(place)) for place in range(len(kept)))
    classifier = auricle.load(trained)
    answers = list(classifier.predict(recordings([str(packed)])))
    assert len(answers) == 48 and not any(answer.error for answer in answers)
    small = Settings(100, 1, 0.05, 0.001, BANDS)
    assert all(info.findings for info in stores.prepare(index.clips, small, cache=tmp_path / "other").clip_info)


def test_bad_and_repeated_frames_are_in_the_audit(speakers: Path, tmp_path: Path) -> None:
    content = json.loads((speakers / "metadata.json").read_text())
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in speakers.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    rows = content["speakers"]["id10001"]
    (corpus / rows[0]["feature_path"]).write_bytes(b"nothing")
    torch.save(torch.zeros(100, 20), corpus / rows[1]["feature_path"])
    rows[2]["mel_len"] += 1
    # The same numbers under another name are other bytes: torch writes the name into the file.
    copied = torch.load(corpus / rows[3]["feature_path"], weights_only=True)
    torch.save(copied, corpus / "copy.pt")
    rows.append({"feature_path": "copy.pt", "mel_len": len(copied)})
    (corpus / "metadata.json").write_text(json.dumps(content))
    audit = inspect(corpus, load("baseline"), lambda *_: None).audit
    expected = ("unreadable", "feature_mismatch", "feature_mismatch")
    named = {row["feature_path"]: kind for row, kind in zip(rows, expected, strict=False)}
    assert {fault.id: fault.kind for fault in audit.quarantined} == named
    assert [set(pair.ids) for pair in audit.duplicates] == [{rows[3]["feature_path"], "copy.pt"}]


def test_a_batch_of_frames_is_padded_and_keeps_its_numbers() -> None:
    pieces = [GOOD.T.numpy(), GOOD.T.numpy()[:, :30]]
    values, mask = build(pieces)
    assert values.shape == (2, BANDS, 50) and values.dtype == torch.float32
    assert torch.equal(values[0], GOOD.T) and torch.equal(values[1, :, :30], GOOD.T[:, :30])
    assert mask is not None and mask.sum(1).tolist() == [50, 30] and not values[1, :, 30:].any()


def baseline() -> tuple[object, list[np.ndarray]]:
    settings = parse({"audio": {"num_features": BANDS, "sample_rate": 100}, "model": {"family": "baseline"}}, "t")
    model = build_model(settings, ("a", "b", "c"))
    random = np.random.default_rng(0)
    clips = [
        (random.normal(-5 + number % 3, 2, (BANDS, size)) + np.linspace(0, number % 3, BANDS)[:, None]).astype(
            np.float32
        )
        for number, size in enumerate((1, 2, 3, 5, 17, 60, 100, 250, 400, 900, 1300, 4000))
    ]
    embedded = scoring.embed(model, from_arrays(clips), batch_seconds=10)
    model.fit(embedded, np.arange(len(clips)) % 3, groups=None, class_weighted=False, seed=0)
    return model.eval(), clips


def test_the_baseline_of_frames_answers_alone_as_in_a_padded_batch() -> None:
    model, clips = baseline()
    together = scoring.score(model, from_arrays(clips), batch_seconds=1000)
    alone = np.concatenate([scoring.score(model, from_arrays([clip]), batch_seconds=1000) for clip in clips])
    assert np.isfinite(alone).all() and np.abs(together - alone).max() < 1e-4
    values, mask = build(clips[:6])
    dirty = values.masked_fill(mask[:, None] == 0, float("nan"))
    with torch.inference_mode():
        assert torch.equal(model(values, attention_mask=mask).logits, model(dirty, attention_mask=mask).logits)


def test_the_baseline_of_frames_is_saved_exactly(tmp_path: Path) -> None:
    model, clips = baseline()
    save_model(model, tmp_path / "model")
    back = type(model).from_pretrained(tmp_path / "model").eval()
    assert back.config.num_features == BANDS
    before, after = (scoring.score(one, from_arrays(clips), batch_seconds=20) for one in (model, back))
    assert (before == after).all()


def test_a_run_on_frames_is_good_and_says_what_it_takes(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert report["metrics"]["accuracy"]["value"] >= 0.7
    assert (report["model"]["num_features"], report["model"]["sample_rate"]) == (BANDS, 100)
    recipe = load(trained / "recipe.yaml")
    assert (recipe.audio.num_features, recipe.audio.sample_rate) == (BANDS, 100)
    page = (trained / "report.html").read_text()
    assert "<audio" not in page and "data:audio" not in page and "40 bands" in page and "utterance.pt" in page
    assert "The input is not audio" in (trained / "model" / "README.md").read_text()


def test_a_run_on_frames_goes_on_and_is_judged_again(
    speakers: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "report.json").read_text()
    assert main(["train", str(speakers), "--recipe", "baseline", "--out", str(trained), "--resume"]) == 0
    assert json.loads((trained / "report.json").read_text())["metrics"] == json.loads(before)["metrics"]
    capsys.readouterr()
    assert main(["evaluate", str(trained), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["accuracy"] == json.loads(before)["metrics"]["accuracy"]
    assert main(["push", str(trained), "user/name", "--dry-run", "--with-audio"]) == 0
    assert "excerpts" not in capsys.readouterr().out


def test_a_submission_has_a_row_for_each_utterance_in_the_files_order(
    speakers: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission.csv"
    listed = str(speakers / "testdata.json")
    assert main(["predict", str(trained), listed, "--format", "submission", "--out", str(out)]) == 0
    assert b"\r" not in out.read_bytes() and out.read_text().startswith("Id,Category\n")
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    asked = json.loads((speakers / "testdata.json").read_text())["utterances"]
    assert [row["Id"] for row in rows] == [row["feature_path"] for row in asked]
    truth = dict(line.split(",") for line in (speakers / "answers.csv").read_text().splitlines())
    assert np.mean([truth[row["Id"]] == row["Category"] for row in rows]) >= 0.5
    capsys.readouterr()
    assert main(["predict", str(trained), listed, "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [row["Id"] for row in rows]
    assert [line["label"] for line in lines] == [row["Category"] for row in rows]
    assert lines[0]["seconds"] == asked[0]["mel_len"] / 100


def test_a_failed_utterance_has_no_row_and_is_told(
    speakers: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.loads((speakers / "testdata.json").read_text())["utterances"][0]["feature_path"]
    (tmp_path / good).write_bytes((speakers / good).read_bytes())
    (tmp_path / "bad.pt").write_bytes(b"bad")
    rows = [{"feature_path": "bad.pt"}, {"feature_path": good}]
    (tmp_path / "testdata.json").write_text(json.dumps({"utterances": rows}))
    assert main(["predict", str(trained), str(tmp_path / "testdata.json"), "--format", "submission"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "Id,Category" and len(out.splitlines()) == 2 and good in out
    assert "no row for 'bad.pt': unreadable" in err


@pytest.mark.parametrize("content", ["{", "[]", '{"utterances": [3]}', '{"utterances": [{"feature_path": "../x.pt"}]}'])
def test_a_list_that_is_none_or_points_elsewhere_is_refused(
    content: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text(content)
    assert main(["predict", str(trained), str(tmp_path / "list.json")]) == 2
    assert "utterances" in capsys.readouterr().err


def test_sound_for_a_model_of_frames_is_an_answer_that_says_so(trained: Path, corpus: Path, speakers: Path) -> None:
    classifier = auricle.load(trained)
    answer = classifier(corpus / "low" / "device0_000.wav")
    assert answer.error is not None and "it is audio (wav); precomputed features are expected" in answer.error
    path = next(speakers.glob("*.pt"))
    samples = torch.load(path, weights_only=True).T.numpy()
    assert classifier(path).choices == classifier.classify(samples, 100).choices
    with pytest.raises(UsageError, match="40 features at 100 a second"):
        classifier.classify(tone("low", 0.5, 0), 8000)
    assert (classifier.classify(samples * np.float32(np.inf), 100).error or "").startswith("nan: ")


def test_frames_for_a_model_of_sound_are_an_answer_that_says_so(corpus: Path, speakers: Path, tmp_path: Path) -> None:
    run(corpus, load("baseline"), tmp_path / "run", ProgressReporter())
    answer = auricle.load(tmp_path / "run")(next(speakers.glob("*.pt")))
    assert answer.error is not None and "audio is needed here" in answer.error
    assert main(["evaluate", str(tmp_path / "run"), str(speakers)]) == 2


def test_a_submission_of_sound_files_works(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(corpus, load("baseline"), tmp_path / "run", ProgressReporter())
    files = [str(path) for path in sorted((corpus / "low").glob("*.wav"))]
    assert main(["predict", str(tmp_path / "run"), *files, "--format", "submission"]) == 0
    assert capsys.readouterr().out.splitlines() == ["Id,Category", *(f"{file},low" for file in files)]


def test_inspecting_frames_is_sensible_and_listening_to_them_is_refused(
    speakers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(speakers)]) == 0
    out = capsys.readouterr().out
    assert "36 of 36 clips usable" in out and "40 precomputed features per frame" in out
    assert main(["listen", str(speakers), "--port", "0", "--corrections", str(tmp_path / "f.csv"), "--no-browser"]) == 2
    assert "cannot be played" in capsys.readouterr().err


def test_a_family_that_hears_sound_refuses_frames_and_names_what_can(speakers: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"family 'cnn' takes audio\. Families that take precomputed features: baseline"
    ):
        run(speakers, load("sound"), tmp_path / "run", ProgressReporter())
    assert not (tmp_path / "run").exists()


def test_a_recipe_for_sound_takes_the_width_and_rate_of_frames(speakers: Path, corpus: Path) -> None:
    recipe = load("baseline", ["audio.sample_rate=16000"])
    assert prepare(read(speakers, recipe), recipe, lambda *_: None).recipe.audio.sample_rate == 100
    own = load("baseline", ["audio.num_features=40", "audio.sample_rate=50"])
    assert prepare(read(speakers, own), own, lambda *_: None).recipe.audio.sample_rate == 50
    for data, said in ((speakers, "40 precomputed"), (corpus, "audio")):
        with pytest.raises(UsageError, match=f"audio.num_features is 20, and .* holds .*{said}"):
            recipe = load("baseline", ["audio.num_features=20"])
            prepare(read(data, recipe), recipe, lambda *_: None)


def test_rates_of_sound_and_of_frames_have_their_own_bounds() -> None:
    with pytest.raises(UsageError, match="audio needs 1000 hertz or more"):
        load("baseline", ["audio.sample_rate=100"])
    with pytest.raises(UsageError, match="precomputed features come at 1000 a second or fewer"):
        load("baseline", ["audio.num_features=40", "audio.sample_rate=16000"])


def test_the_corpus_of_speakers_is_the_same_from_the_same_seed(speakers: Path, tmp_path: Path) -> None:
    make(tmp_path, speakers=4, utterances=9, seconds=(1.0, 2.0))
    for path in speakers.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    lengths = [
        row["mel_len"]
        for rows in json.loads((tmp_path / "metadata.json").read_text())["speakers"].values()
        for row in rows
    ]
    assert min(lengths) >= 100 and max(lengths) <= 200
