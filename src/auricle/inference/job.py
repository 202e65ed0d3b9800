"""The job of `auricle predict`: recordings of any length and number to rows, resumable where it was interrupted.

In: a classifier, recordings, a row format, and an Output. Out: rows, in order. Memory holds one chunk of short
recordings or one batch of windows. The state is saved only between these, so that a resumed job scores the same batches
as one that was never interrupted, and writes the same bytes.
"""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from auricle.audio.recordings import DecodedRecording, Recording, read_recordings
from auricle.corpus import tree
from auricle.errors import UsageError
from auricle.inference.classifier import Classifier, Prediction
from auricle.inference.events import EventDetector, EventRules
from auricle.inference.formats import RowFormat
from auricle.inference.predictor import MeanLogits, ScoredWindow, score_recordings, spec_for
from auricle.inference.writer import Output
from auricle.models.onnx_runtime import OnnxModel
from auricle.preparation.windows import WindowSpec
from auricle.run_folder import exported_model, model_folder


@dataclass
class _Progress:
    """How far the job is: recordings done and failed, their fingerprint, and the state of the one in the middle."""

    done: int = 0
    failed: int = 0
    fingerprint: str = ""
    current: dict[str, Any] | None = None


def job_id(run: Path, classifier: Classifier, options: Mapping[str, object]) -> str:
    """A text that is the same only for the same model and the same options."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    if isinstance(classifier.model, OnnxModel):
        exported = exported_model(run)
        files = sorted(exported.parent.glob(f"{exported.name}*")) if exported is not None else []
    else:
        folder = model_folder(run)
        files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass
class Job:
    """One call of `auricle predict`.

    `spec` is how recordings are cut into windows, None for one prediction each; `notify` gets a sentence for the user.
    """

    classifier: Classifier
    format: RowFormat
    spec: WindowSpec | None
    rules: EventRules
    output: Output
    notify: Callable[[str], None]
    _progress: _Progress = field(default_factory=_Progress)
    _reading: deque[Recording] = field(default_factory=deque)

    def run(self, recordings: Iterable[Recording]) -> int:
        """Write the rows of all of them; returns how many failed. Raises UsageError where a resumed job had others."""
        remaining = iter(recordings)
        if self.output.state is not None:
            self._progress = _Progress(**self.output.state)
            self._skip(remaining)
        else:
            self.output.checkpoint(asdict(self._progress), now=True)
        for chunk in read_recordings(self._noted(remaining), self.classifier.settings):
            self._predict(chunk)
            self.output.checkpoint(asdict(self._progress))
        self.output.finish()
        return self._progress.failed

    def _noted(self, recordings: Iterator[Recording]) -> Iterator[Recording]:
        for recording in recordings:
            self._reading.append(recording)
            yield recording

    def _skip(self, recordings: Iterator[Recording]) -> None:
        """Skip what is done, and make sure that it is what was done."""
        fingerprint = ""
        name = "-"
        for recording in itertools.islice(recordings, self._progress.done):
            name = recording.name
            fingerprint = _fingerprint(fingerprint, recording)
            self.output.reserve(name)
        if fingerprint != self._progress.fingerprint:
            raise UsageError(_changed(name))
        self.notify(f"Resuming after {self._progress.done} recordings.")

    def _predict(self, chunk: Sequence[DecodedRecording]) -> None:
        """Write the rows of a chunk; those of a long recording from the window where it was interrupted."""
        state, first = self._progress.current, _fingerprint("", self._reading[0])
        if state is not None and not (chunk[0].is_long and state["fingerprint"] == first):
            raise UsageError(_changed(chunk[0].name))
        skip = 0 if state is None else int(state["windows"])
        for recording, windows in score_recordings(self.classifier, chunk, self.spec, skip=skip):
            self.output.begin(recording.name, resumed=state is not None)
            rows = _Rows(self, recording, state)
            per_batch = (self.spec or spec_for(self.classifier, recording)).batch() if recording.is_long else 0
            for window in windows:
                rows.add(window)
                if per_batch and rows.windows % per_batch == 0:
                    self._progress.current = {"fingerprint": first, **rows.state()}
                    self.output.checkpoint(asdict(self._progress))
            rows.finish()
            self._finish(recording)

    def _finish(self, recording: DecodedRecording) -> None:
        failed = recording.error is not None
        self.output.end(failed=failed)
        progress, fingerprint = self._progress, _fingerprint(self._progress.fingerprint, self._reading.popleft())
        self._progress = _Progress(progress.done + 1, progress.failed + failed, fingerprint)


class _Rows:
    """The rows of one recording, written as its windows come; `state` restores those of an interrupted job."""

    def __init__(self, job: Job, recording: DecodedRecording, state: dict[str, Any] | None) -> None:
        self.job, self.recording = job, recording
        self.windows = 0 if state is None else int(state["windows"])
        self.mean = MeanLogits() if state is None else MeanLogits(state["total"], self.windows)
        known = (job.classifier.labels, job.classifier.threshold, job.rules)
        self.events = EventDetector(*known) if state is None else EventDetector.from_state(state["events"], *known)

    def state(self) -> dict[str, Any]:
        return {"windows": self.windows, "total": self.mean.total.tolist(), "events": self.events.state()}

    def add(self, window: ScoredWindow) -> None:
        job = self.job
        self.windows += 1
        if job.format.view == "recordings":
            self.mean.add(window.logits)
        elif job.format.view == "windows":
            prediction = job.classifier.window_prediction(self.recording.name, window)
            job.output.write(job.format.window(window.start, window.end, prediction))
        else:
            for event in self.events.add(window):
                job.output.write(job.format.event(self.recording.name, event))

    def finish(self) -> None:
        job, recording = self.job, self.recording
        name, error = recording.name, recording.error
        if error is not None:
            is_whole = job.format.view == "recordings"
            failed = Prediction(name, (), 0.0, error=error)
            job.output.write(job.format.recording(failed) if is_whole else job.format.failure(name, error))
            if job.format.kind in ("submission", "audacity", "vtt"):
                job.notify(f"no row for '{name}': {error}")
        elif job.format.view == "recordings":
            job.output.write(job.format.recording(job.classifier.prediction(recording, self.mean.value)))
        else:
            for event in self.events.finish():
                job.output.write(job.format.event(name, event))
            # Rows of windows and events have no column for what is wrong with their recording.
            for warning in recording.warnings:
                job.notify(f"'{name}': {warning}")


def _fingerprint(before: str, recording: Recording) -> str:
    """A hash of one recording, by name and state, and of all before it."""
    about = f"{before}\n{recording.name}\n{recording.start}-{recording.end}\n{tree.state_of(recording.source)}"
    return hashlib.blake2b(about.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _changed(name: str) -> str:
    return (
        f"--resume received other recordings than before: up to '{name}' they are not the same, or were changed. Give "
        "the same ones, or run it without --resume to start over."
    )
