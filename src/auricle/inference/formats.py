"""Predictions, windows and events as text: a table for people, CSV, JSON lines, a submission, Audacity labels, WebVTT.

In: one of them at a time. Out: its lines. What the lines hold does not depend on where they go.
"""

import csv
import html
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from auricle.inference.classifier import Prediction
    from auricle.inference.events import Event

View = Literal["recordings", "windows", "events"]
# By view. The first is for people.
FORMATS: dict[View, tuple[str, ...]] = {
    "recordings": ("table", "csv", "jsonl", "submission"),
    "windows": ("table", "csv", "jsonl", "audacity", "vtt"),
    "events": ("table", "csv", "jsonl", "audacity", "vtt"),
}
# Files of these formats hold one recording: they have no column for its name.
SINGLE = {"audacity": ".txt", "vtt": ".vtt"}


@dataclass(frozen=True)
class RowFormat:
    """How rows are written: `kind` is one of FORMATS, `top` is how many classes a row lists."""

    view: View
    kind: str
    top: int

    @property
    def heading(self) -> str:
        """The text above all rows."""
        if self.kind == "vtt":
            return "WEBVTT\n"
        if self.kind == "submission":
            return "Id,Category\n"
        if self.kind != "csv":
            return ""
        choices = [name for rank in range(1, self.top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
        columns = {
            "recordings": ["file", "label", *choices, "seconds", "warnings", "error"],
            "windows": ["file", "start", "end", "label", *choices, "error"],
            "events": ["file", "label", "start", "end", "probability", "error"],
        }
        return _csv(columns[self.view])

    def recording(self, prediction: "Prediction") -> str:
        """The row of a recording with one prediction, or of one that failed."""
        if self.kind == "jsonl":
            return _json(_as_json(prediction, self.top))
        if self.kind == "csv":
            rest = [f"{prediction.seconds:.3f}", "; ".join(prediction.warnings), prediction.error or ""]
            return _csv([prediction.name, prediction.label or "", *self._pairs(prediction), *rest])
        if self.kind == "submission":
            return "" if prediction.label is None else _csv([prediction.name, prediction.label], "\n")
        note = f"   ({'; '.join(prediction.warnings)})" if prediction.warnings else ""
        return f"{prediction.name}\t{self._likely(prediction) or 'FAILED: ' + (prediction.error or '')}{note}\n"

    def window(self, start: float, end: float, prediction: "Prediction") -> str:
        """The row of one window; `prediction` is for it alone."""
        if self.kind == "jsonl":
            fields = {
                "file": prediction.name,
                "start": round(start, 3),
                "end": round(end, 3),
                "label": prediction.label,
            }
            return _json({**fields, "unknown": prediction.unknown, "choices": _choices(prediction, self.top)})
        if self.kind == "csv":
            times = [f"{start:.3f}", f"{end:.3f}"]
            return _csv([prediction.name, *times, prediction.label or "", *self._pairs(prediction), ""])
        if self.kind == "table":
            return f"{prediction.name}\t{_clock(start)} - {_clock(end)}\t{self._likely(prediction)}\n"
        return self._subtitle(start, end, prediction.label or "", prediction.probability)

    def event(self, name: str, event: "Event") -> str:
        """The row of one event of the recording `name`."""
        if self.kind == "jsonl":
            times = {"start": round(event.start, 3), "end": round(event.end, 3)}
            probability = round(event.probability, 6)
            return _json({"file": name, "label": event.label, **times, "probability": probability})
        if self.kind == "csv":
            return _csv([name, event.label, f"{event.start:.3f}", f"{event.end:.3f}", f"{event.probability:.6f}", ""])
        if self.kind == "table":
            text = f"{_clock(event.start)} - {_clock(event.end)}\t{event.label} {event.probability * 100:.1f} %"
            return f"{name}\t{text}\n"
        return self._subtitle(event.start, event.end, event.label, event.probability)

    def failure(self, name: str, error: str) -> str:
        """The row of a recording without windows or events, because it cannot be decoded."""
        if self.kind == "jsonl":
            return _json({"file": name, "error": error})
        if self.kind == "csv":
            empty = 3 + 2 * self.top if self.view == "windows" else 4
            return _csv([name, *[""] * empty, error])
        return f"{name}\tFAILED: {error}\n" if self.kind == "table" else ""

    def _subtitle(self, start: float, end: float, label: str, probability: float) -> str:
        text = f"{' '.join(label.split())} {probability * 100:.0f} %"
        if self.kind == "audacity":
            return f"{start:.6f}\t{end:.6f}\t{text}\n"
        return f"\n{_clock(start)} --> {_clock(end)}\n{html.escape(text, quote=False)}\n"

    def _pairs(self, prediction: "Prediction") -> list[str]:
        pairs = [
            value for choice in prediction.choices[: self.top] for value in (choice.label, f"{choice.probability:.6f}")
        ]
        return pairs + [""] * (2 * self.top - len(pairs))

    def _likely(self, prediction: "Prediction") -> str:
        text = "   ".join(
            f"{choice.label} {choice.probability * 100:.1f} %" for choice in prediction.choices[: self.top]
        )
        return f"{prediction.label} ({text})" if prediction.unknown else text


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


def _choices(prediction: "Prediction", top: int) -> list[dict[str, Any]]:
    return [{"label": choice.label, "probability": round(choice.probability, 6)} for choice in prediction.choices[:top]]


def _as_json(prediction: "Prediction", top: int) -> dict[str, Any]:
    return {
        "file": prediction.name,
        "label": prediction.label,
        "unknown": prediction.unknown,
        "choices": _choices(prediction, top),
        "seconds": round(prediction.seconds, 3),
        "warnings": list(prediction.warnings),
        "error": prediction.error,
    }
