"""The page that people read: whole, harmless with any label, and what it shows is what was measured."""

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jinja2
import numpy as np
import pytest
import soundfile
from PIL import Image

from auricle import recipes
from auricle.audio import image
from auricle.errors import RunError
from auricle.evaluation import page
from auricle.evaluation.build_report import ReportInputs, build_report
from auricle.evaluation.duration import DurationAccuracy
from auricle.evaluation.error_analysis import ClipError
from auricle.evaluation.intervals import Interval
from auricle.evaluation.metrics import ClassMetrics, metric_info
from auricle.evaluation.open_set import RejectionReport
from auricle.evaluation.page import write_page
from auricle.evaluation.report import Cost, CurvePoint, Hardware, ModelSummary, Report, TrainingTotals
from auricle.evaluation.scoring import Scores
from auricle.preparation.audit import Fault
from auricle.preparation.prepare import PreparedCorpus, prepare, read

RATE = 10_000  # no rate that MP3 knows
LABELS = ('"><img src=x onerror=alert(1)>', "<script>alert('1')<b>", "ä & ö's 'dög'")
PITCHES = (500.0, 1000.0, 3000.0)
COST = Cost(1.5, 0.5, 75.0, 4000.0, 123.4, 800.0)
VOID = {"meta", "img", "link", "br", "hr", "input"}


@dataclass
class Seen(HTMLParser):
    """What a browser would make of the page: elements with attributes, text, and what was left open."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def seen(path: Path) -> Seen:
    found = Seen()
    found.feed(path.read_text(encoding="utf-8"))
    found.close()
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedCorpus]:
    """Three classes of pure tones under hostile names; the first clip of each lasts twelve seconds."""
    folder = tmp_path_factory.mktemp("strange")
    random = np.random.default_rng(0)
    for label, pitch in zip(LABELS, PITCHES, strict=True):
        (folder / label).mkdir()
        for number in range(8):
            time = np.arange(RATE * (12 if number == 0 else 1)) / RATE
            wave = 0.4 * np.sin(2 * np.pi * pitch * time) + random.normal(0, 0.01 * (1 + number), len(time))
            soundfile.write(folder / label / f"<i>{number}'&\".wav", wave, RATE, subtype="PCM_16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(tmp_path_factory.mktemp("cache")))
        settings = ["data.split=folds", "data.folds=2", f"audio.sample_rate={RATE}", "evaluate.bootstrap_resamples=100"]
        recipe = recipes.load("sound", [*settings, "evaluate.min_slice_clips=2"])
        yield prepare(read(folder, recipe), recipe, lambda done, total: None)


@pytest.fixture(scope="module")
def full_report(prepared: PreparedCorpus) -> Report:
    """A report that `build_report` made from random scores."""
    random = np.random.default_rng(1)
    clips = {clip.id: clip for clip in prepared.usable}
    pairs = [(id, fold.name) for fold in prepared.split.folds for id in fold.test]
    ids = tuple(id for id, _ in pairs)

    def scores(skill: float) -> Scores:
        true = np.array([prepared.labels.index(clips[id].label) for id in ids])
        logits = random.normal(0, 3, (len(ids), 3)).astype(np.float32)
        logits[np.arange(len(ids)), true] += skill
        seconds = np.array([prepared.store.clip_info[prepared.positions[id]].seconds for id in ids])
        folds = tuple(fold for _, fold in pairs)
        classes, groups = tuple(clips[id].label for id in ids), tuple(clips[id].group for id in ids)
        return Scores(prepared.labels, ids, classes, logits, seconds, groups, folds)

    names = [fold.name for fold in prepared.split.folds]
    curve = [CurvePoint(epoch, 2 / epoch, 1e-3, {"accuracy": 0.5, "log_loss": 1.0}) for epoch in (1, 2, 3)]
    return build_report(
        ReportInputs(
            corpus=prepared,
            scores=scores(1.0),
            majority=scores(0.0),
            baseline=scores(0.5),
            suspects=scores(-6.0),
            learning_curves=dict.fromkeys(names, curve),
            best_epochs=dict.fromkeys(names, 3),
            model=ModelSummary("auricle-cnn", 1234, RATE, 1),
            training=TrainingTotals(1.0, 3, 9, 90, 16),
            hardware=Hardware("any", 1, None, False),
        )
    )


@pytest.fixture
def report(full_report: Report) -> Report:
    return replace(
        full_report, misclassified=full_report.misclassified[:3], suspect_labels=full_report.suspect_labels[:2]
    )


def written(folder: Path, report: Report, prepared: PreparedCorpus) -> Path:
    path = folder / "report.html"
    write_page(path, report, COST, prepared.store, prepared.positions)
    return path


def content(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2], validate=True)


def test_every_element_is_closed_and_hostile_names_are_only_text(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    found = seen(written(tmp_path, report, prepared))
    assert found.open == []
    assert len(found.all("script")) == 1
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert {image["alt"] for image in found.all("img")} == {"Mel spectrogram"}
    for label in LABELS:
        assert label in found.text
    assert "<i>" in report.misclassified[0].id and report.misclassified[0].id in found.text


def test_the_page_loads_nothing_and_links_only_into_itself(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    path = written(tmp_path, report, prepared)
    found = seen(path)
    assert all(attributes["src"].startswith("data:") for _, attributes in found.elements if "src" in attributes)
    places = {f"#{attributes['id']}" for _, attributes in found.elements if "id" in attributes}
    links = {attributes["href"] for _, attributes in found.elements if "href" in attributes}
    assert links and links <= places
    assert not found.all("link")
    assert not re.search(r"url\(|@import", path.read_text(encoding="utf-8"))


def test_only_the_page_s_own_script_may_run(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    path = written(tmp_path, report, prepared)
    policy = next(meta["content"] for meta in seen(path).all("meta") if "http-equiv" in meta)
    script = re.search(r"<script>(.*?)</script>", path.read_text(encoding="utf-8"), re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_player_holds_the_start_of_its_clip(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    clip = next(clip for clip in prepared.usable if clip.label == LABELS[1] and "<i>0" in clip.id)
    row = ClipError(clip.id, LABELS[1], LABELS[0], 0.9, 0.1, "1")
    report = replace(report, misclassified=(row,), suspect_labels=())
    found = seen(written(tmp_path, report, prepared))
    (player,) = found.all("audio")
    sound, rate = soundfile.read(io.BytesIO(content(player["src"])))
    assert sound.ndim == 1
    assert len(sound) / rate == pytest.approx(page.EXCERPT_SECONDS, abs=0.1)
    spectrum = np.abs(np.fft.rfft(sound[rate : 2 * rate]))
    assert abs(int(spectrum.argmax()) - PITCHES[1]) <= 1
    assert "first 10\u00a0s of 12\u00a0s" in found.text


def test_pitch_goes_up_and_time_goes_right_in_a_spectrogram() -> None:
    time = np.arange(RATE) / RATE
    low, high = (0.5 * np.sin(2 * np.pi * pitch * time) for pitch in (300, 4000))
    wave = np.concatenate([low, high]).astype(np.float32)
    picture = np.asarray(Image.open(io.BytesIO(content(image.spectrogram_uri(wave, RATE)))).convert("L")).astype(int)
    half = picture.shape[1] // 2
    left, right = picture[:, 5 : half - 5].mean(1), picture[:, half + 5 : -5].mean(1)
    assert len(picture) == image.NUM_MELS
    assert left.argmax() > 0.75 * image.NUM_MELS > 0.25 * image.NUM_MELS > right.argmax()


def test_silence_is_dark_and_louder_is_lighter() -> None:
    silent = Image.open(io.BytesIO(content(image.spectrogram_uri(np.zeros(RATE, np.float32), RATE)))).convert("RGB")
    assert silent.getextrema() == tuple((level, level) for level in image.COLOURS[0])
    grey = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in image.COLOURS]
    assert grey == sorted(grey)


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 44100, 96000])
def test_sound_of_any_rate_keeps_its_length(rate: int) -> None:
    wave = (0.1 * np.sin(np.arange(rate) * 0.3)).astype(np.float32)
    sound, heard = soundfile.read(io.BytesIO(content(image.audio_uri(wave, rate))))
    assert len(sound) / heard == pytest.approx(1.0, abs=0.1)


def test_private_speech_leaves_no_sound_and_the_page_says_so(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    loud = seen(written(tmp_path, report, prepared))
    assert len(loud.all("audio")) == len(loud.all("img")) == 5
    report = replace(report, recipe=report.recipe.replace("evaluate", embed_audio=False))
    path = written(tmp_path, report, prepared)
    quiet = seen(path)
    assert not quiet.all("audio") and not quiet.all("img")
    assert "base64" not in path.read_text(encoding="utf-8").partition("<body>")[2]
    assert "this page contains no recording" in quiet.text
    assert len(quiet.all("article")) == len(loud.all("article")) > 0


def test_the_verdict_comes_first_and_cautions_right_after(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    report = replace(report, cautions=("Only <3> speakers.",))
    text = seen(written(tmp_path, report, prepared)).text.partition("prefers-color-scheme")[2]
    places = [text.index(part) for part in (report.verdict[:12], "Only <3> speakers.", "Results")]
    assert places == sorted(places)


def test_the_confusion_table_holds_the_counts(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    text = written(tmp_path, report, prepared).read_text(encoding="utf-8")
    table = re.search(r'<table class="matrix.*?</table>', text, re.S)
    assert table is not None
    cells = [int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", table[0])]
    assert cells == [count for row in report.confusion_matrix for count in row]


def test_very_many_classes_and_epochs_stay_light(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    labels = tuple(f"speaker {number}" for number in range(600))
    faults = tuple(Fault(f"{row}.wav", "silent", "quiet") for row in range(5000))
    epochs = tuple(CurvePoint(epoch, 1.0, 0.1, {"accuracy": 0.5, "log_loss": 1.0}) for epoch in range(1, 1001))
    report = replace(
        report,
        labels=labels,
        confusion_matrix=tuple(tuple(map(int, row)) for row in np.eye(600, dtype=int)),
        per_class=tuple(ClassMetrics(label, 9, 0.5, 0.5, 0.5) for label in labels),
        audit=replace(report.audit, classes=dict.fromkeys(labels, 9), quarantined=faults),
        learning_curves={f"fold {number}": epochs for number in range(10)},
        misclassified=(),
        suspect_labels=(),
    )
    path = written(tmp_path, report, prepared)
    assert path.stat().st_size < 900_000
    text = path.read_text(encoding="utf-8")
    assert 'class="matrix' not in text
    assert "4\u202f900 more" in text
    assert all(f"<td>{label}</td>" in text for label in labels)


def test_a_model_without_epochs_has_no_curves(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    assert 'id="learning-curves"' in written(tmp_path, report, prepared).read_text(encoding="utf-8")
    report = replace(report, learning_curves={name: () for name in report.learning_curves})
    assert 'id="learning-curves"' not in written(tmp_path, report, prepared).read_text(encoding="utf-8")


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    before = written(tmp_path, report, prepared).read_bytes()
    broken = replace(report, split=SimpleNamespace(folds=2, notes=()))  # type: ignore[arg-type]
    with pytest.raises(jinja2.UndefinedError, match="description"):
        written(tmp_path, broken, prepared)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_gain_is_better_whichever_way_the_metric_points() -> None:
    accuracy, loss = metric_info("accuracy"), metric_info("log_loss")
    assert page.gain_sentence(accuracy, Interval(0.1, 0.05, 0.2)).startswith("10.0 points better")
    assert page.gain_sentence(accuracy, Interval(-0.1, -0.2, -0.05)).endswith("(5.0 to 20.0).")
    assert page.gain_sentence(loss, Interval(-0.5, -0.8, -0.2)).startswith("0.50 better")
    assert page.gain_sentence(loss, Interval(0.5, 0.2, 0.8)).startswith("0.50 worse")
    assert page.gain_sentence(loss, Interval(0.1, -0.2, 0.3)).startswith("Not distinguishable")


@pytest.mark.parametrize("largest", [0.0, 1e-6, 0.3, 1.0, 2.31, 7, 99, 1e5])
def test_ticks_are_few_round_and_reach_over_the_largest(largest: float) -> None:
    ticks = page.ticks(largest)
    assert ticks[0] == 0 and ticks == sorted(set(ticks)) and len(ticks) <= 6
    assert ticks[-1] >= largest * 0.99
    mantissa = ticks[1] / 10 ** math.floor(math.log10(ticks[1]) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 2.5, 5)) < 1e-6


def test_curves_without_validation_show_the_training_loss_alone(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    curves = {
        name: tuple(replace(row, valid=None, loss=math.nan if row.epoch == 2 else row.loss) for row in rows)
        for name, rows in report.learning_curves.items()
    }
    report = replace(report, learning_curves=curves)
    found = seen(written(tmp_path, report, prepared))
    lines = [line for line in found.all("polyline") if line["class"] == "train"]
    assert [len(line["points"].split()) for line in lines] == [2] * len(report.learning_curves)
    assert "Validation accuracy" not in found.text
    assert not any("nan" in line["points"] for line in found.all("polyline"))


def test_the_accuracy_at_every_coverage_is_drawn_and_listed(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    rows = report.risk_coverage
    (line,) = page.accuracy_by_coverage(rows).lines
    assert [x for x, _ in line.points] == [row.coverage for row in rows]
    low = 0.5 if min(row.accuracy for row in rows) >= 0.5 else 0.0
    assert [1 - y * (1 - low) for _, y in line.points] == pytest.approx([row.accuracy for row in rows])
    found = seen(written(tmp_path, report, prepared))
    assert "Accuracy by coverage" in found.text
    assert "coverage: the share of clips that is answered" in found.text


@pytest.mark.parametrize("kind", ["held-out classes", "misclassified clips"])
@pytest.mark.parametrize("threshold", [0.9, None])
def test_rejection_is_reported_with_hostile_names_as_text(
    kind: str, threshold: float | None, tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    rejection = RejectionReport(
        impostors=kind,  # type: ignore[arg-type]
        classes=("<b>one", "two") if kind == "held-out classes" else (),
        max_false_accept_rate=0.05,
        threshold=threshold,
        impostor_clips=40,
        measured_false_accept_rate=Interval(0.04, 0.01, 0.08) if threshold else None,
        unit="class",
        auroc=Interval(0.97, 0.9, 1.0) if threshold else None,
        false_rejection_rate=0.12 if threshold else None,
    )
    found = seen(written(tmp_path, replace(report, rejection=rejection), prepared))
    assert found.open == []
    assert ("<b>one" in found.text) is (kind == "held-out classes")
    if threshold is None:
        assert "predicts a class for every clip" in found.text
    else:
        assert "90.00\u00a0%" in found.text and "4.0\u00a0%" in found.text and "12.0\u00a0%" in found.text
    assert {"#rejection"} <= {link["href"] for link in found.all("a")}


def test_accuracy_by_duration_is_compared_with_the_same_clips_in_full(
    tmp_path: Path, report: Report, prepared: PreparedCorpus
) -> None:
    row = DurationAccuracy(2.0, 31, 4, Interval(0.71, 0.6, 0.8), Interval(0.83, 0.7, 0.9))
    text = seen(written(tmp_path, replace(report, accuracy_by_duration=(row,)), prepared)).text
    assert "Accuracy by duration" in text and "71.0\u00a0%" in text and "31 clips, in full 83.0\u00a0%" in text


def test_sections_without_results_are_omitted(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    report = replace(report, rejection=None, accuracy_by_duration=())
    text = written(tmp_path, report, prepared).read_text(encoding="utf-8")
    assert not any(f'id="{name}"' in text for name in ("rejection", "duration")) and 'id="calibration"' in text


def test_the_baseline_is_not_compared_with_itself(tmp_path: Path, report: Report, prepared: PreparedCorpus) -> None:
    report = replace(report, baseline=replace(report.baseline, is_this_model=True))
    bars = [bar for card in page.metric_cards(report) for bar in card.bars]
    assert {bar.name for bar in bars} == {"this model", "majority class"}
    assert "This model is the instant baseline itself" in seen(written(tmp_path, report, prepared)).text


def test_a_report_is_the_same_after_saving_and_loading(tmp_path: Path, full_report: Report) -> None:
    full_report.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again == full_report
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "report.json").read_bytes()


def test_a_file_that_is_no_report_is_refused_with_the_field_that_is_missing(tmp_path: Path, report: Report) -> None:
    content = report.as_json()
    del content["metrics"]["accuracy"]["low"]
    with pytest.raises(RunError, match=r"metrics\.accuracy\.low"):
        Report.from_json(content)
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="not valid JSON"):
        Report.load(tmp_path / "report.json")
    with pytest.raises(RunError, match=r"has no cost\.json"):
        Cost.load(tmp_path / "cost.json")


def test_a_notebook_shows_the_metrics_in_context_and_escapes_names(report: Report) -> None:
    html = replace(report, name="<b>mine", cautions=("<i>few",))._repr_html_()
    found = Seen()
    found.feed(html)
    assert found.open == [] and "<b>mine" in found.text and "<i>few" in found.text
    accuracy = report.metrics["accuracy"]
    for number in (accuracy.value, report.baseline.metrics["accuracy"].value, report.majority["accuracy"]):
        assert f"{number:.3f}" in found.text
    assert accuracy.decimals() in found.text
    assert not found.all("a") and 'href="runs/a/report.html"' in report.summary_html(Path("runs/a/report.html"))
