"""What all benchmarks share: the corpora, the machine, and the output.

It must not import torch: it runs in the parent process of the memory measurements.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auricle.errors import AuricleError, UsageError

CORPORA = ("emodb", "esc10", "fsdd", "librispeech10")
_LAYOUT = """
  emodb/03a01Fa.wav …                      EmoDB, 535 wav
  librispeech10/1688/1688-….flac …       LibriSpeech test-other, 10 speakers of 10 clips
  esc10/001 - Dog bark/1-100032-A.ogg …    ESC-10, 400 ogg
  fsdd/recordings/0_george_0.wav …         Free Spoken Digit Dataset, 3,000 wav
  crema-d/filenames.txt                    the names of CREMA-D's 7,442 clips, one a line; no audio
  crema-d/VideoDemographics.csv            its table of actors"""


def corpus(name: str) -> Path:
    """The folder of one corpus under AURICLE_DATA. Raises UsageError that shows the layout expected there."""
    root = os.environ.get("AURICLE_DATA")
    if not root:
        raise UsageError(
            f"AURICLE_DATA is not set. Name the folder that holds the recordings:{_LAYOUT}\n"
            "and run again: AURICLE_DATA=recordings python -m benchmarks …"
        )
    folder = Path(root) / name
    if not folder.is_dir():
        raise UsageError(f"AURICLE_DATA is '{root}', which has no folder '{name}'. Expected there:{_LAYOUT}")
    return folder


def command(*arguments: str) -> str:
    """Run auricle and return its output. Raises AuricleError with the end of its output where it fails."""
    done = subprocess.run([sys.executable, "-m", "auricle", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise AuricleError(f"auricle {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def evenly_spaced(folder: Path, clips: int) -> list[Path]:
    """So many wav files of a folder, evenly spaced over their sorted names; all of them where there are fewer."""
    paths = sorted(folder.glob("*.wav"))
    count = min(clips, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def machine() -> dict[str, str | int]:
    """Processor, cores, and the versions that decide speed."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor() or "unknown processor",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "auricle": importlib.metadata.version("auricle"),
    }


def median(values: Sequence[float]) -> float:
    """The middle value; of two in the middle, their mean."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True)
class Screen:
    """The output: sentences and tables for people, or one JSON object a line for programs."""

    json: bool

    def machine(self) -> None:
        facts = machine()
        self.say(
            f"Machine: {facts['processor']}, {facts['cores']} cores; Python {facts['python']}, torch {facts['torch']}, "
            f"auricle {facts['auricle']}."
        )
        self.record("machine", **facts)

    def say(self, text: str) -> None:
        if not self.json:
            print(text, flush=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows, the first being the heading, in columns as wide as their widest cell."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            first, *others = (
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            self.say("  ".join([first, *others]))

    def record(self, kind: str, **values: object) -> None:
        if self.json:
            print(json.dumps({"record": kind, **values}, ensure_ascii=False), flush=True)

    def result(self, name: str, metric: str, value: float) -> None:
        """The line that a benchmark ends with."""
        self.say(f"{name} {metric} {value:.3g}")
        self.record("result", name=name, metric=metric, value=value)
