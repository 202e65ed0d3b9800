"""Predictions as HTML.

In: predictions, or why a file has none. Out: HTML in which every name and label is escaped: class probabilities with
waveform and spectrogram, the timeline of a long recording with its events, and a table of many files with its CSV.
Everything that can be played or saved is part of the page.
"""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.audio import FULL_SCALE
from auricle.evaluation import html
from auricle.inference.classifier import Prediction
from auricle.inference.events import Event
from auricle.inference.predictor import ScoredWindow
from auricle.serving.service import Timeline
from auricle.serving.waveform import draw_waveform, format_time

MAX_CHOICES = 5
MAX_TRACKS = 8
# Without events the timeline shows the most probable labels.
MIN_TRACKS = 3
MAX_EVENTS = 200
LATEST_EVENTS = 10
# Points of a track: a screen has few more columns.
POINTS = 400
# The player's audio is sent with the page: five minutes at 16 kHz are about 1.5 MB.
MAX_PLAYABLE_SAMPLES = 5_000_000
COLUMNS = ("file", "label", "probability", "seconds", "note")


@dataclass(frozen=True)
class EventBar:
    """An event on a track: its left edge and width in percent, and its tooltip."""

    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Track:
    """One label over time: its probabilities as points in a box of 1000 by 100, and its events."""

    label: str
    points: str
    bars: tuple[EventBar, ...]
    description: str


@dataclass(frozen=True)
class Row:
    """One file of a batch: its prediction, or why it has none. `seconds` is None if it was not decoded."""

    file: str
    label: str = ""
    probability: float | None = None
    seconds: float | None = None
    note: str = ""
    failed: bool = False


def render_prediction(timeline: Timeline, labels: Sequence[str], threshold: float | None) -> str:
    """The HTML of one prediction. `labels` are the model's, in order; `threshold` is its threshold, if it has one."""
    prediction = timeline.prediction
    waveform = None  # precomputed features can be neither drawn nor played
    if timeline.samples.dtype == np.int16:
        mono = timeline.samples.mean(axis=0, dtype=np.float32) / FULL_SCALE
        waveform = draw_waveform(mono, timeline.sample_rate, MAX_PLAYABLE_SAMPLES)
    events = [
        (_time(event.start, prediction.seconds), _time(event.end, prediction.seconds), event)
        for event in timeline.events[:MAX_EVENTS]
    ]
    return _render(
        "prediction.html",
        prediction=prediction,
        choices=prediction.choices[:MAX_CHOICES],
        warnings=[_split_warning(warning) for warning in prediction.warnings],
        threshold=threshold,
        waveform=waveform,
        duration=_duration(prediction.seconds),
        playable=_duration(waveform.playable_seconds) if waveform else "",
        tracks=tracks(timeline.windows, timeline.events, labels, prediction.seconds),
        events=events,
        more_events=max(0, len(timeline.events) - MAX_EVENTS),
        has_timeline=len(timeline.windows) > 1,
    )


def render_error(name: str, detail: str, kind: str = "") -> str:
    """The HTML for a file without a prediction: what is wrong with it, in a sentence."""
    return _render("error.html", name=name, detail=detail, kind=kind)


def tracks(
    windows: Sequence[ScoredWindow], events: Sequence[Event], labels: Sequence[str], seconds: float
) -> list[Track]:
    """The tracks of a timeline: labels with events in order of time, then the most probable others."""
    if len(windows) < 2:
        return []
    table = np.stack([window.probabilities for window in windows])
    detected = list(dict.fromkeys(event.label for event in events))[:MAX_TRACKS]
    ranking = [labels[position] for position in np.argsort(-table.max(axis=0), kind="stable")]
    others = [label for label in ranking if label not in detected]
    shown = [*detected, *others[: max(0, MIN_TRACKS - len(detected))]]
    positions = {label: position for position, label in enumerate(labels)}
    return [
        _track(label, table[:, positions[label]], windows, [event for event in events if event.label == label], seconds)
        for label in shown
    ]


def _track(
    label: str, probabilities: np.ndarray, windows: Sequence[ScoredWindow], events: Sequence[Event], seconds: float
) -> Track:
    """Draw each window at its middle; where several share a point, the highest."""
    size = -(-len(windows) // POINTS)
    middles = [1000 * (window.start + window.end) / 2 / seconds for window in windows]
    points = [
        (float(np.mean(middles[first : first + size])), 100 - 100 * float(probabilities[first : first + size].max()))
        for first in range(0, len(windows), size)
    ]
    outline = [(0.0, 100.0), (0.0, points[0][1]), *points, (1000.0, points[-1][1]), (1000.0, 100.0)]
    times = [
        f"{_time(event.start, seconds)} to {_time(event.end, seconds)}, {event.probability:.0%}" for event in events
    ]
    bars = tuple(
        EventBar(100 * event.start / seconds, 100 * (event.end - event.start) / seconds, f"{label}, {text}")
        for event, text in zip(events, times, strict=True)
    )
    description = f"{label} over time: {'; '.join(times[:10]) or 'no event'}"
    return Track(label, " ".join(f"{x:.1f},{y:.1f}" for x, y in outline), bars, description)


def batch_row(name: str, prediction: Prediction) -> Row:
    """A prediction as a row of the batch table."""
    return Row(name, prediction.label or "", prediction.probability, prediction.seconds, "; ".join(prediction.warnings))


def render_batch(rows: Sequence[Row], expected: int) -> str:
    """The HTML of the batch table and the link that saves it; `expected` is the number of files."""
    failed = sum(row.failed for row in rows)
    link = _data_uri("text/csv", _csv(rows))
    return _render("batch.html", rows=rows, expected=expected, failed=failed, columns=COLUMNS, link=link)


def render_live(prediction: Prediction | None, events: Sequence[Event], status: str) -> str:
    """The HTML of the latest window's prediction and of the latest events, the newest first."""
    newest = [(f"{event.start:.1f} s", f"{event.end:.1f} s", event) for event in reversed(events)]
    choices = prediction.choices[:MAX_CHOICES] if prediction else ()
    return _render("live.html", prediction=prediction, choices=choices, events=newest[:LATEST_EVENTS], status=status)


def render_labels(labels: Sequence[str], limit: str) -> str:
    """The HTML that lists the model's labels and the limits of a file."""
    return _render("labels.html", labels=labels, limit=limit)


def render_report(page: str) -> str:
    """The HTML that shows a report in a sandboxed frame, and the link that saves it."""
    return _render("report_frame.html", page=page, link=_data_uri("text/html", page))


def _render(template: str, **values: object) -> str:
    return html.environment("auricle.serving").get_template(template).render(values)


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        probability = "" if row.probability is None else f"{row.probability:.6f}"
        writer.writerow(
            [row.file, row.label, probability, "" if row.seconds is None else f"{row.seconds:.3f}", row.note]
        )
    return file.getvalue()


def _data_uri(mime: str, text: str) -> str:
    return f"data:{mime};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _time(time: float, seconds: float) -> str:
    return format_time(round(time, 2), seconds)


def _split_warning(warning: str) -> tuple[str, str]:
    """A warning as its kind and its detail."""
    kind, separator, detail = warning.partition(": ")
    return (kind, detail) if separator else ("", warning)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else format_time(seconds, seconds)
