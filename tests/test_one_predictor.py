"""Files, the HTTP service, its page, its microphone, live audio and Python give the same rows for a recording."""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from auricle.audio.inspect import ClipInfo, inspect_clip
from auricle.audio.quality import KINDS
from auricle.audio.recordings import Recording
from auricle.audio.settings import Settings
from auricle.cli.main import main
from auricle.corpus.clip import Clip
from auricle.errors import UsageError
from auricle.inference.classifier import Classifier, Prediction, load
from auricle.inference.events import EventRules, find_events
from auricle.preparation.windows import WindowSpec
from auricle.serving.limits import Limits
from auricle.serving.microphone import MicrophoneStream
from auricle.serving.service import InferenceService, PredictOptions, Timeline
from tests.conftest import RATE, tone
from tests.services import service

WINDOW, HOP = 0.5, 0.25
LABELS = ("low", "noise", "high", "low")
Row = tuple[str, float, float, float]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of seven seconds and a bit with four events, in which no window lies on an edge of the file."""
    path = tmp_path_factory.mktemp("file") / "recording.wav"
    sounds = [tone(label, 0.25, 10 * place + part) for place, label in enumerate(LABELS) for part in range(7)]
    soundfile.write(path, np.concatenate([*sounds, np.zeros(101)]), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def classifier(trained: Path) -> Classifier:
    return load(trained)


@pytest.fixture(scope="module")
def from_python(classifier: Classifier, file: Path) -> tuple[Prediction, list[Row], list[Row]]:
    """The prediction, the windows and the events that the Python interface gives."""
    ((_, windows),) = classifier.score_windows([Recording("file", str(file))], WindowSpec(WINDOW, HOP))
    scored = list(windows)
    predictions = [classifier.window_prediction("file", window) for window in scored]
    rows = [
        (str(one.label), window.start, window.end, one.probability)
        for one, window in zip(predictions, scored, strict=True)
    ]
    found = find_events(scored, classifier.labels, classifier.threshold, EventRules())
    events = [(event.label, event.start, event.end, event.probability) for event in found]
    assert [label for label, *_ in events] == list(LABELS) and len(rows) > 20
    return classifier(file), rows, events


def lines(capture: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(arguments) == 0
    return [json.loads(line) for line in capture.readouterr().out.splitlines()]


def rows_of(found: list[dict[str, Any]]) -> list[Row]:
    return [
        (row["label"], row["start"], row["end"], row.get("probability") or row["choices"][0]["probability"])
        for row in found
    ]


def assert_same(found: list[Row], expected: list[Row], times: float = 1e-9) -> None:
    assert [row[0] for row in found] == [row[0] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one[1:3] == pytest.approx(other[1:3], abs=times) and abs(one[3] - other[3]) < 1e-6


def assert_same_prediction(choices: dict[str, float], expected: Prediction) -> None:
    assert choices == {choice.label: pytest.approx(choice.probability, abs=1e-6) for choice in expected.choices}


def test_the_command_gives_the_rows_of_python(
    trained: Path,
    file: Path,
    from_python: tuple[Prediction, list[Row], list[Row]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, windows, events = from_python
    (row,) = lines(capsys, "predict", str(trained), str(file), "--json")
    assert_same_prediction({one["label"]: one["probability"] for one in row["choices"]}, whole)
    cut = ("--windows", str(WINDOW), "--hop", str(HOP), "--json")
    # Rows for files have times in milliseconds and probabilities to six digits.
    assert_same(rows_of(lines(capsys, "predict", str(trained), str(file), *cut)), windows, 1e-3)
    assert_same(rows_of(lines(capsys, "predict", str(trained), str(file), "--events", *cut)), events, 1e-3)


def test_the_service_gives_the_rows_of_python(
    classifier: Classifier, file: Path, from_python: tuple[Prediction, list[Row], list[Row]]
) -> None:
    whole, windows, events = from_python
    query = {"windows": WINDOW, "hop": HOP, "events": True}
    with service(classifier) as served:
        answer = served.client.post("/v1/classify", params=query, content=file.read_bytes()).json()
    assert_same_prediction({one["label"]: one["probability"] for one in answer["choices"]}, whole)
    assert_same(rows_of(answer["windows"]), windows)
    assert_same(rows_of(answer["events"]), events)


def test_the_page_and_its_microphone_give_the_rows_of_python(
    classifier: Classifier,
    file: Path,
    from_python: tuple[Prediction, list[Row], list[Row]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, windows, events = from_python
    monkeypatch.setattr(
        "auricle.serving.service.TIMELINE", PredictOptions(windows=True, events=True, seconds=WINDOW, hop=HOP)
    )
    monkeypatch.setattr(Classifier, "window_seconds", WINDOW)
    samples = soundfile.read(file, dtype="int16")[0]
    stream = MicrophoneStream(classifier, HOP)
    heard: list[Row] = []

    async def ask() -> Timeline:
        served = InferenceService(classifier, Limits(), "page")
        try:
            for first in range(0, len(samples), RATE // 2):
                piece = io.BytesIO()
                soundfile.write(piece, samples[first : first + RATE // 2], RATE, format="WAV", subtype="PCM_16")
                stream.add(piece.getvalue(), first / RATE)
                for window in stream.windows():
                    logits = (await served.scorer.logits(window.pieces))[0]
                    (scored,) = window.scored([logits], RATE)
                    one = classifier.window_prediction("", scored)
                    heard.append((str(one.label), scored.start, scored.end, one.probability))
                    stream.add_logits(window, logits)
            stream.finish()
            return await served.predict_file(file.read_bytes(), file.name)
        finally:
            served.close()

    timeline = asyncio.run(ask())
    assert_same_prediction({one.label: one.probability for one in timeline.prediction.choices}, whole)
    ranked = [classifier.window_prediction("", window) for window in timeline.windows]
    found = [
        (str(one.label), window.start, window.end, one.probability)
        for one, window in zip(ranked, timeline.windows, strict=True)
    ]
    assert_same(found, windows)
    assert_same([(one.label, one.start, one.end, one.probability) for one in timeline.events], events)
    # A microphone has no last window that ends with the recording.
    assert_same(heard, windows[: len(heard)])
    assert len(heard) >= len(windows) - 1
    assert [event.label for event in stream.events] == [label for label, *_ in events]
    assert_same([(one.label, one.start, one.end, one.probability) for one in stream.events][:-1], events[:-1])


def test_live_audio_gives_the_events_of_python(
    trained: Path,
    file: Path,
    from_python: tuple[Prediction, list[Row], list[Row]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = soundfile.read(file, dtype="int16")[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(samples.astype("<i2").tobytes())))
    cut = ("--window", str(WINDOW), "--hop", str(HOP), "--rate", str(RATE), "--json")
    messages = lines(capsys, "listen-live", str(trained), *cut)
    assert_same(rows_of([one for one in messages if one["type"] == "end"]), from_python[2], 1e-3)
    assert messages[-1]["type"] == "done" and messages[-1]["windows"] == len(from_python[1])


def test_samples_in_memory_give_the_prediction_of_their_file(
    classifier: Classifier, file: Path, from_python: tuple[Prediction, list[Row], list[Row]]
) -> None:
    for dtype in ("int16", "float32", "float64"):
        samples = soundfile.read(file, dtype=dtype)[0]
        for array in (samples, samples[None], np.stack([samples, samples])):
            assert classifier.classify(array, RATE).choices == from_python[0].choices


@pytest.mark.parametrize(
    ("samples", "received"),
    [
        (np.zeros(RATE, np.uint8), "uint8 of shape (8000,); give (samples - 128.0) / 128."),
        (np.zeros(RATE, np.int32), "int32 of shape (8000,); give samples / 2**31."),
        (np.zeros(RATE, np.complex64), "complex64"),
        (np.zeros(RATE, object), "object"),
        (np.zeros(RATE, bool), "bool"),
        (np.zeros((RATE, 2), np.float32), "8000 channels of 2 samples; give samples.T"),
        (np.zeros((65, RATE), np.int16), "65 channels"),
        (np.zeros((1, 2, RATE), np.float32), "shape (1, 2, 8000)"),
        (np.float32(0.5), "shape ()"),
        ([[0.0, 0.5], [0.0]], "a list that is no array"),
        ({"array": np.zeros(RATE)}, "object of shape ()"),
        (np.array([-12_000.0, 9000.0]), "from -12000 to 9000; divide"),
    ],
    ids=str,
)
def test_other_arrays_are_refused_with_what_is_accepted(classifier: Classifier, samples: Any, received: str) -> None:
    with pytest.raises(UsageError, match="Accepted: mono") as caught:
        classifier.classify(samples, RATE)
    assert received in str(caught.value)


@pytest.mark.parametrize("rate", [0, 300, -8000, 8000.5, 10**7, "16000", None, np.nan])
def test_a_rate_that_no_recording_has_is_refused(classifier: Classifier, rate: float) -> None:
    with pytest.raises(UsageError, match="sample_rate received"):
        classifier.classify(np.zeros(RATE), rate)  # type: ignore[arg-type]


SINE = np.sin(np.arange(RATE) / 5)


@pytest.mark.parametrize(
    ("samples", "rate", "faults"),
    [
        (np.zeros(RATE), RATE, ["silent"]),
        (np.full(RATE, 0.4), RATE, ["constant"]),
        (np.clip(4 * SINE, -1, 1), RATE, ["clipped"]),
        (0.5 * SINE[:80], RATE, ["short"]),
        (np.array([0.5]), RATE, ["short", "constant"]),
        (np.stack([0.5 * SINE, -0.5 * SINE]), RATE, ["cancelling_channels"]),
        (np.stack([0.5 * SINE, 0 * SINE]), RATE, ["dead_channel"]),
        (0.5 * np.sin(np.arange(6 * RATE) * 2), 6 * RATE, ["band_lost"]),
        (np.zeros(0), RATE, ["empty"]),
        (np.array([0.0, np.nan]), RATE, ["short", "nan"]),
        (np.array([0.0, np.inf]), RATE, ["short", "nan"]),
        (np.where(SINE > 0.99, 1e300, SINE), RATE, ["nan"]),
    ],
    ids=str,
)
def test_faults_of_an_array_are_those_of_a_file(
    classifier: Classifier, samples: np.ndarray, rate: int, faults: list[str], tmp_path: Path
) -> None:
    with np.errstate(over="ignore"):
        soundfile.write(tmp_path / "a.wav", samples.T.astype(np.float32), rate, subtype="FLOAT")
    one, other = classifier.classify(samples, rate), classifier(tmp_path / "a.wav")
    assert (one.warnings, one.error, one.choices) == (other.warnings, other.error, other.choices)
    told = [one.error] if one.error is not None else one.warnings
    assert [text.split(": ")[0] for text in "; ".join(told).split("; ") if text.split(": ")[0] in KINDS] == faults
    assert {finding.kind for finding in in_training(tmp_path / "a.wav").findings} == set(faults)


def in_training(path: Path) -> ClipInfo:
    settings = Settings(RATE, 1, 0.05, 3600.0)
    return inspect_clip(Clip("a", str(path), "x"), settings, with_samples=False)[0]


@pytest.mark.parametrize(
    ("value", "call"),
    [
        (np.zeros(RATE), "ndarray was received. Classifier.classify(samples, sample_rate) takes samples"),
        ((np.zeros(RATE), RATE), "tuple was received"),
        (["a.wav"], "run.predict(*files) takes many files"),
        ({"array": np.zeros(RATE), "sampling_rate": RATE}, "classify(audio['array'], audio['sampling_rate'])"),
        ({"raw": np.zeros(RATE), "sampling_rate": RATE}, "classify(audio['raw'], audio['sampling_rate'])"),
        (None, "NoneType was received"),
    ],
    ids=str,
)
def test_what_is_no_file_is_refused_with_the_call_that_takes_it(classifier: Classifier, value: Any, call: str) -> None:
    with pytest.raises(UsageError) as caught:
        classifier(value)
    assert call in str(caught.value)


def test_a_tensor_and_a_list_of_numbers_are_arrays(classifier: Classifier) -> None:
    choices = classifier.classify(0.5 * SINE, RATE).choices
    for samples in (torch.from_numpy(0.5 * SINE), (0.5 * SINE).tolist()):
        assert classifier.classify(samples, RATE).choices == choices  # type: ignore[arg-type]


def test_a_long_array_is_predicted_as_its_file_is(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auricle.audio.recordings.WHOLE_SECONDS", 3.0)
    samples = np.concatenate([tone(label, 0.5, seed) for seed, label in enumerate(LABELS * 5)]).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    one, other = classifier.classify(samples, RATE), classifier(tmp_path / "a.wav")
    assert [(a.label, pytest.approx(a.probability, abs=1e-6)) for a in one.choices] == [
        (b.label, b.probability) for b in other.choices
    ]
