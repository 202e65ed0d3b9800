"""Recordings in parts, each predicted by itself: what `auricle predict` gives a cluster.

In: a PartJob, which opens the model where it runs, and a part of the recordings. Out: the rows of each recording, the
same as in one job of all: batches end where parts end.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

from auricle.inference.classifier import Classifier, Runtime, load
from auricle.inference.events import EventRules
from auricle.inference.formats import RowFormat
from auricle.inference.job import Job, Part, RecordingRows
from auricle.models.onnx_runtime import OnnxModel
from auricle.preparation.windows import WindowSpec


@dataclass(frozen=True)
class PartJob:
    """How a part is predicted, as `Job` has it. `threads` are PyTorch's, None without it."""

    run: Path
    precision: str
    refuse: bool
    runtime: Runtime
    format: RowFormat
    spec: WindowSpec | None
    rules: EventRules
    threads: int | None

    @classmethod
    def of(cls, job: Job, run: Path, precision: str, *, refuse: bool, runtime: Runtime) -> "PartJob":
        """What a job does, with the model of a run, opened as the job's was."""
        threads = None
        if not isinstance(job.classifier.model, OnnxModel):
            import torch

            threads = torch.get_num_threads()
        return cls(run, precision, refuse, runtime, job.format, job.spec, job.rules, threads)

    def __call__(self, part: Part) -> list[RecordingRows]:
        rows = _Rows()
        classifier = _opened(self.run.absolute(), self.precision, self.refuse, self.runtime, self.threads)
        Job(classifier, self.format, self.spec, self.rules, rows, rows.notify).run(part.recordings, part.first)
        return rows.recordings


@dataclass
class _Rows:
    """Takes the place of an Output; rows stay in memory."""

    recordings: list[RecordingRows] = field(default_factory=list)
    state: None = None
    _text: list[str] = field(default_factory=list)
    _notices: list[str] = field(default_factory=list)

    def begin(self, name: str, *, resumed: bool = False) -> None:
        self._text, self._notices = [], []

    def write(self, text: str) -> None:
        self._text.append(text)

    def notify(self, sentence: str) -> None:
        self._notices.append(sentence)

    def end(self, *, failed: bool = False) -> None:
        self.recordings.append(RecordingRows("".join(self._text), failed, tuple(self._notices)))

    def reserve(self, name: str) -> str:
        return name

    def checkpoint(self, state: object, *, now: bool = False) -> None:
        """Nothing is kept of a part that is not complete."""

    def finish(self) -> None:
        """The rows are there."""


@functools.cache
def _opened(run: Path, precision: str, refuse: bool, runtime: Runtime, threads: int | None) -> Classifier:
    """The classifier of a process, which many parts share. Sums over as many threads have the same last digits."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return load(run, precision, refuse=refuse, runtime=runtime)
