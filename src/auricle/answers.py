"""Answers written down: a table for a terminal, CSV, JSON lines or a submission for a file or a pipe.

In: answers, one at a time, in order. Out: a file that is whole or not there, or lines on standard output.
"""

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auricle.classifier import Answer
from auricle.errors import UsageError


class AnswerWriter:
    """Writes answers as they come; `top` is how many classes of each are named. Raises UsageError for a bad file.

    `kind` is table, csv, jsonl, or submission: one row `Id,Category` for each answer, none for a failed one.
    """

    def __init__(self, out: Path | None, kind: str, top: int) -> None:
        self.out = out
        self.top = top
        self.kind = kind
        self.partial = self.out.with_name(f".{self.out.name}.partial") if self.out else None

    def __enter__(self) -> Callable[[Answer], None]:
        try:
            self.file = self.partial.open("w", encoding="utf-8", newline="") if self.partial else sys.stdout
        except OSError as error:
            raise UsageError(
                f"'{self.out}' cannot be written: {error.strerror}. Name a file in a folder that exists."
            ) from error
        if self.kind == "csv":
            self.rows = csv.writer(self.file)
            choices = [name for place in range(1, self.top + 1) for name in (f"label_{place}", f"probability_{place}")]
            self.rows.writerow(["file", "label", *choices, "seconds", "warnings", "error"])
        elif self.kind == "submission":
            self.rows = csv.writer(self.file, lineterminator="\n")
            self.rows.writerow(["Id", "Category"])
        return self._write

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.partial is None or self.out is None:
            return
        self.file.close()
        if kind is None:
            os.replace(self.partial, self.out)
        else:
            self.partial.unlink(missing_ok=True)

    def _write(self, answer: Answer) -> None:
        choices = answer.choices[: self.top]
        if self.kind == "jsonl":
            self.file.write(json.dumps(_as_json(answer, self.top), ensure_ascii=False) + "\n")
        elif self.kind == "csv":
            pairs = [value for choice in choices for value in (choice.label, f"{choice.probability:.6f}")]
            pairs += [""] * (2 * self.top - len(pairs))
            known = [f"{answer.seconds:.3f}", "; ".join(answer.warnings), answer.error or ""]
            self.rows.writerow([answer.name, answer.label or "", *pairs, *known])
        elif self.kind == "submission":
            if answer.label is not None:
                self.rows.writerow([answer.name, answer.label])
        else:
            told = "   ".join(f"{choice.label} {choice.probability * 100:.1f} %" for choice in choices)
            told = f"{answer.label} ({told})" if answer.unknown else told
            note = f"   ({'; '.join(answer.warnings)})" if answer.warnings else ""
            self.file.write(f"{answer.name}\t{told or 'FAILED: ' + (answer.error or '')}{note}\n")


def _as_json(answer: Answer, top: int) -> dict[str, Any]:
    return {
        "file": answer.name,
        "label": answer.label,
        "unknown": answer.unknown,
        "choices": [
            {"label": choice.label, "probability": round(choice.probability, 6)} for choice in answer.choices[:top]
        ],
        "seconds": round(answer.seconds, 3),
        "warnings": list(answer.warnings),
        "error": answer.error,
    }
