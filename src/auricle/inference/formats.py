"""Predictions, windows and events as text: table, CSV, JSON lines, submission, Audacity labels, WebVTT."""

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
        if self.kind == "csv":
            return _csv_line(self._columns)
        return {"vtt": "WEBVTT\n", "submission": "Id,Category\n"}.get(self.kind, "")

    def recording(self, prediction: "Prediction") -> str:
        """The row of a recording with one prediction, or of one that failed."""
        if self.kind == "submission":
            return "" if prediction.label is None else _csv_line([prediction.name, prediction.label], "\n")
        if self.kind == "table":
            note = f"   ({'; '.join(prediction.warnings)})" if prediction.warnings else ""
            return f"{prediction.name}\t{self._likely(prediction) or 'FAILED: ' + (prediction.error or '')}{note}\n"
        return self._fields(
            file=prediction.name,
            label=prediction.label,
            unknown=prediction.unknown,
            choices=prediction.choices[: self.top],
            seconds=prediction.seconds,
            warnings=prediction.warnings,
            error=prediction.error,
        )

    def window(self, start: float, end: float, prediction: "Prediction") -> str:
        """The row of one window; `prediction` is for it alone."""
        if self.kind == "table":
            return f"{prediction.name}\t{_clock(start)} - {_clock(end)}\t{self._likely(prediction)}\n"
        if self.kind in SINGLE:
            return self._subtitle(start, end, prediction.label or "", prediction.probability)
        return self._fields(
            file=prediction.name,
            start=start,
            end=end,
            label=prediction.label,
            unknown=prediction.unknown,
            choices=prediction.choices[: self.top],
        )

    def event(self, name: str, event: "Event") -> str:
        """The row of one event of the recording `name`."""
        if self.kind == "table":
            text = f"{_clock(event.start)} - {_clock(event.end)}\t{event.label} {event.probability * 100:.1f} %"
            return f"{name}\t{text}\n"
        if self.kind in SINGLE:
            return self._subtitle(event.start, event.end, event.label, event.probability)
        return self._fields(
            file=name, label=event.label, start=event.start, end=event.end, probability=event.probability
        )

    def failure(self, name: str, error: str) -> str:
        """The row of a recording without windows or events, because it cannot be decoded."""
        if self.kind == "table":
            return f"{name}\tFAILED: {error}\n"
        return "" if self.kind in SINGLE else self._fields(file=name, error=error)

    @property
    def _columns(self) -> list[str]:
        choices = [name for rank in range(1, self.top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
        return {
            "recordings": ["file", "label", *choices, "seconds", "warnings", "error"],
            "windows": ["file", "start", "end", "label", *choices, "error"],
            "events": ["file", "label", "start", "end", "probability", "error"],
        }[self.view]

    def _fields(self, **fields: Any) -> str:
        """A row of named fields, as a line of JSON or of CSV: probabilities with six digits, seconds with three."""
        digits = {name: 6 if name == "probability" else 3 for name, value in fields.items() if isinstance(value, float)}
        choices = fields.get("choices", ())
        if self.kind == "jsonl":
            fields |= {name: round(fields[name], places) for name, places in digits.items()}
            if "choices" in fields:
                fields["choices"] = [
                    {"label": choice.label, "probability": round(choice.probability, 6)} for choice in choices
                ]
            return json.dumps(fields, ensure_ascii=False) + "\n"
        fields |= {name: f"{fields[name]:.{places}f}" for name, places in digits.items()}
        fields["warnings"] = "; ".join(fields.get("warnings", ()))
        for rank, choice in enumerate(choices, start=1):
            fields |= {f"label_{rank}": choice.label, f"probability_{rank}": f"{choice.probability:.6f}"}
        return _csv_line([fields.get(column) or "" for column in self._columns])

    def _subtitle(self, start: float, end: float, label: str, probability: float) -> str:
        text = f"{' '.join(label.split())} {probability * 100:.0f} %"
        if self.kind == "audacity":
            return f"{start:.6f}\t{end:.6f}\t{text}\n"
        return f"\n{_clock(start)} --> {_clock(end)}\n{html.escape(text, quote=False)}\n"

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


def _csv_line(row: list[str], ending: str = "\r\n") -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator=ending).writerow(row)
    return line.getvalue()
