"""Answers, windows and events as text: a table for people, CSV, JSON lines, a submission, Audacity labels, WebVTT.

In: one of them at a time. Out: the lines that stand for it. What the lines hold does not depend on where they go.
"""

import csv
import html
import io
import json
from dataclasses import dataclass
from typing import Any, Literal

from auricle.inference.classifier import Answer
from auricle.inference.events import Event

View = Literal["answers", "windows", "events"]
# By view. The first is for people.
FORMATS: dict[View, tuple[str, ...]] = {
    "answers": ("table", "csv", "jsonl", "submission"),
    "windows": ("table", "csv", "jsonl", "audacity", "vtt"),
    "events": ("table", "csv", "jsonl", "audacity", "vtt"),
}
# Their files are of one recording: they have no place for its name.
SINGLE = {"audacity": ".txt", "vtt": ".vtt"}


@dataclass(frozen=True)
class Form:
    """How rows are written: `kind` is one of FORMATS, `top` is how many classes of an answer or a window are named."""

    view: View
    kind: str
    top: int

    @property
    def heading(self) -> str:
        """What stands above all rows."""
        if self.kind == "vtt":
            return "WEBVTT\n"
        if self.kind == "submission":
            return "Id,Category\n"
        if self.kind != "csv":
            return ""
        choices = [name for place in range(1, self.top + 1) for name in (f"label_{place}", f"probability_{place}")]
        columns = {
            "answers": ["file", "label", *choices, "seconds", "warnings", "error"],
            "windows": ["file", "start", "end", "label", *choices, "error"],
            "events": ["file", "label", "start", "end", "probability", "error"],
        }
        return _csv(columns[self.view])

    def answer(self, answer: Answer) -> str:
        """The row of a recording that was answered whole, or of one that failed."""
        if self.kind == "jsonl":
            return _json(_as_json(answer, self.top))
        if self.kind == "csv":
            known = [f"{answer.seconds:.3f}", "; ".join(answer.warnings), answer.error or ""]
            return _csv([answer.name, answer.label or "", *self._pairs(answer), *known])
        if self.kind == "submission":
            return "" if answer.label is None else _csv([answer.name, answer.label], "\n")
        note = f"   ({'; '.join(answer.warnings)})" if answer.warnings else ""
        return f"{answer.name}\t{self._told(answer) or 'FAILED: ' + (answer.error or '')}{note}\n"

    def window(self, start: float, end: float, answer: Answer) -> str:
        """The row of one window; `answer` is for it alone."""
        if self.kind == "jsonl":
            about = {"file": answer.name, "start": round(start, 3), "end": round(end, 3), "label": answer.label}
            return _json({**about, "unknown": answer.unknown, "choices": _choices(answer, self.top)})
        if self.kind == "csv":
            times = [f"{start:.3f}", f"{end:.3f}"]
            return _csv([answer.name, *times, answer.label or "", *self._pairs(answer), ""])
        if self.kind == "table":
            return f"{answer.name}\t{_clock(start)} - {_clock(end)}\t{self._told(answer)}\n"
        return self._stretch(start, end, answer.label or "", answer.probability)

    def event(self, name: str, event: Event) -> str:
        """The row of one event of the recording `name`."""
        if self.kind == "jsonl":
            times = {"start": round(event.start, 3), "end": round(event.end, 3)}
            probability = round(event.probability, 6)
            return _json({"file": name, "label": event.label, **times, "probability": probability})
        if self.kind == "csv":
            return _csv([name, event.label, f"{event.start:.3f}", f"{event.end:.3f}", f"{event.probability:.6f}", ""])
        if self.kind == "table":
            told = f"{_clock(event.start)} - {_clock(event.end)}\t{event.label} {event.probability * 100:.1f} %"
            return f"{name}\t{told}\n"
        return self._stretch(event.start, event.end, event.label, event.probability)

    def failure(self, name: str, error: str) -> str:
        """The row of a recording without windows or events, for it cannot be heard."""
        if self.kind == "jsonl":
            return _json({"file": name, "error": error})
        if self.kind == "csv":
            empty = 3 + 2 * self.top if self.view == "windows" else 4
            return _csv([name, *[""] * empty, error])
        return f"{name}\tFAILED: {error}\n" if self.kind == "table" else ""

    def _stretch(self, start: float, end: float, label: str, probability: float) -> str:
        told = f"{' '.join(label.split())} {probability * 100:.0f} %"
        if self.kind == "audacity":
            return f"{start:.6f}\t{end:.6f}\t{told}\n"
        return f"\n{_clock(start)} --> {_clock(end)}\n{html.escape(told, quote=False)}\n"

    def _pairs(self, answer: Answer) -> list[str]:
        pairs = [
            value for choice in answer.choices[: self.top] for value in (choice.label, f"{choice.probability:.6f}")
        ]
        return pairs + [""] * (2 * self.top - len(pairs))

    def _told(self, answer: Answer) -> str:
        told = "   ".join(f"{choice.label} {choice.probability * 100:.1f} %" for choice in answer.choices[: self.top])
        return f"{answer.label} ({told})" if answer.unknown else told


def _clock(seconds: float) -> str:
    """Hours, minutes, seconds and thousandths, as WebVTT has them."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _csv(row: list[str], ending: str = "\r\n") -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator=ending).writerow(row)
    return line.getvalue()


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _choices(answer: Answer, top: int) -> list[dict[str, Any]]:
    return [{"label": choice.label, "probability": round(choice.probability, 6)} for choice in answer.choices[:top]]


def _as_json(answer: Answer, top: int) -> dict[str, Any]:
    return {
        "file": answer.name,
        "label": answer.label,
        "unknown": answer.unknown,
        "choices": _choices(answer, top),
        "seconds": round(answer.seconds, 3),
        "warnings": list(answer.warnings),
        "error": answer.error,
    }
