"""Predictions as HTML in which every name and label is escaped. All that can be played or saved is part of the page."""

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
class Track:
    """One label over time: its probabilities as points in a box of 1000 by 100, and its events."""

    label: str
    points: str
    events: tuple[Event, ...]


def fill(template: str, **values: object) -> str:
    """The HTML of a template, with every value escaped."""
    return html.environment("auricle.serving").get_template(template).render(values)


def render_prediction(timeline: Timeline, labels: Sequence[str], threshold: float | None) -> str:
    """The HTML of one prediction. `labels` are the model's, in order; `threshold` is its threshold, if it has one."""
    prediction = timeline.prediction
    waveform = None  # precomputed features can be neither drawn nor played
    if timeline.samples.dtype == np.int16:
        mono = timeline.samples.mean(axis=0, dtype=np.float32) / FULL_SCALE
        waveform = draw_waveform(mono, timeline.sample_rate, MAX_PLAYABLE_SAMPLES)
    return fill(
        "prediction.html",
        prediction=prediction,
        choices=prediction.choices[:MAX_CHOICES],
        threshold=threshold,
        waveform=waveform,
        duration=_duration,
        time=lambda time: format_time(round(time, 2), prediction.seconds),
        tracks=tracks(timeline.windows, timeline.events, labels, prediction.seconds),
        events=timeline.events[:MAX_EVENTS],
        more_events=max(0, len(timeline.events) - MAX_EVENTS),
        has_timeline=len(timeline.windows) > 1,
    )


def tracks(
    windows: Sequence[ScoredWindow], events: Sequence[Event], labels: Sequence[str], seconds: float
) -> list[Track]:
    """The tracks of a timeline: labels with events in order of time, then the most probable others."""
    if len(windows) < 2:
        return []
    table = np.stack([window.probabilities for window in windows])
    middles = [1000 * (window.start + window.end) / 2 / seconds for window in windows]
    detected = list(dict.fromkeys(event.label for event in events))[:MAX_TRACKS]
    ranking = [labels[position] for position in np.argsort(-table.max(axis=0), kind="stable")]
    others = [label for label in ranking if label not in detected]
    return [
        Track(
            label,
            _outline(middles, table[:, labels.index(label)]),
            tuple(event for event in events if event.label == label),
        )
        for label in [*detected, *others[: max(0, MIN_TRACKS - len(detected))]]
    ]


def _outline(middles: Sequence[float], probabilities: np.ndarray) -> str:
    """Draw each window at its middle; where several share a point, the highest."""
    size = -(-len(middles) // POINTS)
    points = [
        (float(np.mean(middles[first : first + size])), 100 - 100 * float(probabilities[first : first + size].max()))
        for first in range(0, len(middles), size)
    ]
    outline = [(0.0, 100.0), (0.0, points[0][1]), *points, (1000.0, points[-1][1]), (1000.0, 100.0)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)


def render_batch(rows: Sequence[Prediction], expected: int) -> str:
    """The HTML of the batch table and the link that saves it; `expected` is the number of files."""
    failed = sum(row.error is not None for row in rows)
    return fill("batch.html", rows=rows, expected=expected, failed=failed, columns=COLUMNS, link=_csv_link(rows))


def render_live(prediction: Prediction | None, events: Sequence[Event], status: str) -> str:
    """The HTML of the latest window's prediction and of the latest events, the newest first."""
    choices = prediction.choices[:MAX_CHOICES] if prediction else ()
    newest = list(reversed(events))[:LATEST_EVENTS]
    return fill("live.html", prediction=prediction, choices=choices, events=newest, status=status)


def data_uri(mime: str, text: str) -> str:
    return f"data:{mime};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _csv_link(rows: Sequence[Prediction]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        if row.error is None:
            numbers = [f"{row.probability:.6f}", f"{row.seconds:.3f}"]
            writer.writerow([row.name, row.label, *numbers, "; ".join(row.warnings)])
        else:
            writer.writerow([row.name, "", "", "", row.error])
    return data_uri("text/csv", file.getvalue())


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else format_time(seconds, seconds)
