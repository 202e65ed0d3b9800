"""What a model said of a sound, as pieces of a page.

In: what it told, or why it refused. Out: HTML in which every name and label is escaped: the answer with its
probabilities, waveform and spectrogram, the probabilities and events of a long sound over time, and a table of many
files with its CSV. Everything that can be played or saved lies in the page itself.
"""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.inference.classifier import Answer
from auricle.inference.events import Event
from auricle.serving.fragments import template
from auricle.serving.service import Told, Window
from auricle.serving.waveform import clock, sight

SHOWN_CHOICES = 5
SHOWN_LINES = 8
SHOWN_EVENTS = 200
SHOWN_LATEST = 10
# Points of a line of probabilities: a screen has few more columns.
POINTS = 400
# What can be played is sent with the page: five minutes at 16 kHz are about 1.5 MB.
PLAYED_SAMPLES = 5_000_000
COLUMNS = ("file", "label", "probability", "seconds", "note")


@dataclass(frozen=True)
class Bar:
    """An event on a line: its left edge and width in percent of it, and what it says when pointed at."""

    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Line:
    """One label over time: the points of its probabilities in a box of 1000 by 100, and its events."""

    label: str
    points: str
    bars: tuple[Bar, ...]
    described: str


@dataclass(frozen=True)
class Row:
    """One of many files: what was answered, or why it was not. `seconds` is None where nothing was heard."""

    file: str
    label: str = ""
    probability: float | None = None
    seconds: float | None = None
    note: str = ""
    failed: bool = False


def told(found: Told, labels: Sequence[str], threshold: float | None) -> str:
    """The HTML of one answer. `labels` are the model's, in order, and `threshold` what an answer needs, if anything."""
    seconds = found.answer.seconds
    seen = None  # precomputed features can be neither seen nor heard
    if found.samples.dtype == np.int16:
        mono = found.samples.mean(axis=0, dtype=np.float32) / 32768
        seen = sight(mono, found.sample_rate, PLAYED_SAMPLES)
    events = [(_at(event.start, seconds), _at(event.end, seconds), event) for event in found.events[:SHOWN_EVENTS]]
    return template("told.html").render(
        answer=found.answer,
        choices=found.answer.choices[:SHOWN_CHOICES],
        warnings=[_parted(warning) for warning in found.answer.warnings],
        threshold=threshold,
        sight=seen,
        length=_length(seconds),
        played=_length(seen.played) if seen else "",
        lines=lines(found.windows, found.events, labels, seconds),
        events=events,
        more=max(0, len(found.events) - SHOWN_EVENTS),
        is_long=len(found.windows) > 1,
    )


def refused(name: str, why: str, kind: str = "") -> str:
    """The HTML for a sound that was not answered: what is wrong with it, in a sentence."""
    return template("refused.html").render(name=name, why=why, kind=kind)


def lines(windows: Sequence[Window], events: Sequence[Event], labels: Sequence[str], seconds: float) -> list[Line]:
    """The labels that matter over time: those with events by their time, then the likeliest, to eight in all."""
    if len(windows) < 2:
        return []
    table = np.stack([window.probabilities for window in windows])
    heard = list(dict.fromkeys(event.label for event in events))
    likeliest = [labels[place] for place in np.argsort(-table.max(axis=0), kind="stable")]
    others = [label for label in likeliest if label not in heard]
    shown = [*heard[:SHOWN_LINES], *others[: max(0, min(SHOWN_LINES, 3) - len(heard))]]
    places = {label: place for place, label in enumerate(labels)}
    return [
        _line(label, table[:, places[label]], windows, [event for event in events if event.label == label], seconds)
        for label in shown
    ]


def _line(label: str, likely: np.ndarray, windows: Sequence[Window], events: Sequence[Event], seconds: float) -> Line:
    """Draw each window at its middle; of many windows the likeliest of each few."""
    few = -(-len(windows) // POINTS)
    middles = [1000 * (window.start + window.end) / 2 / seconds for window in windows]
    points = [
        (float(np.mean(middles[first : first + few])), 100 - 100 * float(likely[first : first + few].max()))
        for first in range(0, len(windows), few)
    ]
    outline = [(0.0, points[0][1]), *points, (1000.0, points[-1][1])]
    outline = [(0.0, 100.0), *outline, (1000.0, 100.0)]
    bars = tuple(
        Bar(
            100 * event.start / seconds,
            100 * (event.end - event.start) / seconds,
            f"{label}, {_at(event.start, seconds)} to {_at(event.end, seconds)}, {event.probability:.0%}",
        )
        for event in events
    )
    said = "; ".join(bar.text.removeprefix(f"{label}, ") for bar in bars[:10]) or "no event"
    return Line(label, " ".join(f"{x:.1f},{y:.1f}" for x, y in outline), bars, f"{label} over time: {said}")


def row(name: str, answer: Answer) -> Row:
    """What a table says of an answer."""
    return Row(name, answer.label or "", answer.probability, answer.seconds, "; ".join(answer.warnings))


def table(rows: Sequence[Row], expected: int) -> str:
    """The HTML of a table of files, and the link that saves it; `expected` is how many there will be."""
    failed = sum(row.failed for row in rows)
    return template("table.html").render(
        rows=rows, expected=expected, failed=failed, columns=COLUMNS, link=_uri("text/csv", _csv(rows))
    )


def moment(answer: Answer | None, events: Sequence[Event], said: str, choices: int = SHOWN_CHOICES) -> str:
    """The HTML of what is heard now, and of the latest events, the newest first."""
    newest = [(f"{event.start:.1f} s", f"{event.end:.1f} s", event) for event in reversed(events)]
    return template("moment.html").render(
        answer=answer, choices=answer.choices[:choices] if answer else (), events=newest[:SHOWN_LATEST], said=said
    )


def known(labels: Sequence[str], limit: str) -> str:
    """The HTML that says which labels the model can answer with, and what a file may be."""
    return template("known.html").render(labels=labels, limit=limit)


def report(page: str) -> str:
    """The HTML that shows a whole page, closed off from this one, and the link that saves it."""
    return template("framed.html").render(page=page, link=_uri("text/html", page))


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


def _uri(mime: str, text: str) -> str:
    return f"data:{mime};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _at(place: float, seconds: float) -> str:
    return clock(round(place, 2), seconds)


def _parted(warning: str) -> tuple[str, str]:
    """A warning as its kind and what was seen."""
    kind, parted, detail = warning.partition(": ")
    return (kind, detail) if parted else ("", warning)


def _length(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else clock(seconds, seconds)
